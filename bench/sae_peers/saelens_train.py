"""A TopK coder trained by SAELens: its own training class in its own trainer, fed from cached activations.

Runs in an environment of its own. What departs from its defaults: inputs are normed by it
(expected_average_only_in), its decoder bias begins at their mean, and a latent counts as dead after an
epoch without activity, for the 1,000 steps that are its default are more than the whole training. With
the option "sparse" activations are sparse tensors, and not rescaled by decoder norms: torch has no
gradient for sparse tensors times dense ones on a CPU.
"""

from typing import Any

import torch
from sae_lens import SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sharing import Batches, Job, fastest, has_quick_bfloat16, made_by, write
from torch import Tensor

DTYPES = {"float32": False, "bfloat16": True}
"""Its `autocast`, of which only speed is asked here."""
TRAINER_TOLD = "lr", "lr_scheduler_name", "lr_warm_up_steps", "adam_beta1", "adam_beta2", "dead_feature_window"
CODER_TOLD = "aux_loss_coefficient", "decoder_init_norm", "use_sparse_activations", "rescale_acts_by_decoder_norm"
"""Fields of its settings that are printed."""


def train(job: Job, rows: Tensor, autocast: bool, steps: int) -> tuple[TopKTrainingSAE, Batches, Any]:
    """Train a new coder; its weights come back with the input's scale folded in."""
    torch.manual_seed(job.seed)
    sparse = job.options.get("sparse", False)
    coder = TopKTrainingSAE(
        TopKTrainingSAEConfig(
            d_in=rows.shape[1],
            d_sae=job.n_latents,
            k=job.k,
            normalize_activations="expected_average_only_in",
            use_sparse_activations=sparse,
            rescale_acts_by_decoder_norm=not sparse,
        )
    )
    epoch = max(1, len(rows) // job.batch)
    learning_rate = job.learning_rate or SAETrainerConfig.lr
    config = SAETrainerConfig(
        total_training_samples=steps * job.batch,
        train_batch_size_samples=job.batch,
        autocast=autocast,
        dead_feature_window=min(epoch, SAETrainerConfig.dead_feature_window),
        n_batches_for_norm_estimate=epoch,
        lr=learning_rate,
        lr_end=learning_rate / 10,  # what its runner fills in; the constant schedule does not look at it
    )
    batches = Batches(rows, job.batch, job.seed)
    trainer = SAETrainer(config, coder, batches)
    # Done by the trainer itself otherwise; here first, since the bias needs the scale and neither is timed.
    trainer.activation_scaler.estimate_scaling_factor(
        rows.shape[1], Batches(rows, job.batch, job.seed), config.n_batches_for_norm_estimate
    )
    coder.b_dec.data = trainer.activation_scaler(rows.mean(0))
    return trainer.fit(), batches, config


def speed(job: Job, rows: Tensor, autocast: bool) -> float:
    """Rows a second over a few steps."""
    batches = train(job, rows, autocast, job.warm_up + job.probe)[1]
    return batches.clocked(job.warm_up).rate


def main() -> None:
    """Carry out the job named by the first argument; write the measurements to the second."""
    job = Job.given()
    rows = job.rows("train")
    # Its sparse products are float32 ones.
    names = list(DTYPES) if has_quick_bfloat16() and not job.options.get("sparse") else ["float32"]
    trials = {name: lambda one=DTYPES[name]: speed(job, rows, one) for name in names}
    chosen, tried = fastest(trials) if len(trials) > 1 else (names[0], {})
    coder, batches, config = train(job, rows, DTYPES[chosen], job.steps)
    clocked = batches.clocked(job.warm_up)

    def encode(block: Tensor) -> tuple[Tensor, Tensor]:
        # The dense form of either: the largest k of what is 0 but for k latents.
        latents = coder.encode(block)
        values, indices = (latents.to_dense() if latents.is_sparse else latents).topk(job.k)
        return indices, values

    def decode(indices: Tensor, values: Tensor) -> Tensor:
        return coder.decode(values.new_zeros(len(values), job.n_latents).scatter_(1, indices, values))

    settings = {
        "dtype": chosen,
        "tokens_a_second_tried": tried,
        **{name: getattr(config, name) for name in TRAINER_TOLD},
        **{name: getattr(coder.cfg, name) for name in CODER_TOLD},
        "normalize_activations": "expected_average_only_in",
        "b_dec at first": "mean of the scaled activations",
    }
    write(job, made_by(encode, decode, job), clocked, settings, "sae-lens")


if __name__ == "__main__":
    main()

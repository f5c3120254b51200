"""A TopK coder trained by SAELens: its own training class in its own trainer, fed from cached activations.

Runs in an environment of its own. What departs from its defaults: inputs are normed by it
(expected_average_only_in), its decoder bias begins at their mean, and a latent counts as dead after an
epoch without activity, for the 1,000 steps that are its default are more than the whole training.
"""

import dataclasses
from typing import Any

import torch
from sae_lens import SAETrainer, SAETrainerConfig, TopKTrainingSAE, TopKTrainingSAEConfig
from sharing import Batches, Job, fastest, made_by, write
from torch import Tensor

SETTINGS = {
    "dense": {"use_sparse_activations": False, "autocast": False},
    "sparse": {"use_sparse_activations": True, "autocast": False},
    # bfloat16; its documentation advises against sparse activations there.
    "dense, autocast": {"use_sparse_activations": False, "autocast": True},
}
"""What speed depends on."""


def train(job: Job, rows: Tensor, options: dict[str, bool], steps: int) -> tuple[TopKTrainingSAE, Batches, Any]:
    """Train a new coder; its weights come back with the input's scale folded in."""
    torch.manual_seed(job.seed)
    coder = TopKTrainingSAE(
        TopKTrainingSAEConfig(
            d_in=rows.shape[1],
            d_sae=job.n_latents,
            k=job.k,
            normalize_activations="expected_average_only_in",
            use_sparse_activations=options["use_sparse_activations"],
        )
    )
    epoch = max(1, len(rows) // job.batch)
    config = SAETrainerConfig(
        total_training_samples=steps * job.batch,
        train_batch_size_samples=job.batch,
        autocast=options["autocast"],
        dead_feature_window=min(epoch, SAETrainerConfig.dead_feature_window),
        n_batches_for_norm_estimate=epoch,
        **({} if job.learning_rate is None else {"lr": job.learning_rate}),
    )
    batches = Batches(rows, job.batch, job.seed)
    trainer = SAETrainer(config, coder, batches)
    # Done by the trainer itself otherwise; here first, since the bias needs the scale and neither is timed.
    trainer.activation_scaler.estimate_scaling_factor(
        rows.shape[1], Batches(rows, job.batch, job.seed), config.n_batches_for_norm_estimate
    )
    coder.b_dec.data = trainer.activation_scaler(rows.mean(0))
    return trainer.fit(), batches, config


def speed(job: Job, rows: Tensor, options: dict[str, bool]) -> float:
    """Rows a second over a few steps."""
    batches = train(job, rows, options, job.warm_up + job.probe)[1]
    tokens, seconds = batches.clocked(job.warm_up)
    return tokens / seconds


def main() -> None:
    """Carry out the job named by the first argument; write the measurements to the second."""
    job = Job.given()
    rows = job.rows("train")
    chosen, tried = fastest({name: lambda one=one: speed(job, rows, one) for name, one in SETTINGS.items()})
    coder, batches, config = train(job, rows, SETTINGS[chosen], job.steps)
    clocked = batches.clocked(job.warm_up)

    def encode(block: Tensor) -> tuple[Tensor, Tensor]:
        # The dense form of either: the largest k of what is 0 but for k latents.
        latents = coder.encode(block)
        values, indices = (latents.to_dense() if latents.is_sparse else latents).topk(job.k)
        return indices, values

    def decode(indices: Tensor, values: Tensor) -> Tensor:
        return coder.decode(values.new_zeros(len(values), job.n_latents).scatter_(1, indices, values))

    names = ("lr", "lr_scheduler_name", "lr_warm_up_steps", "adam_beta1", "adam_beta2", "dead_feature_window")
    settings = {
        "chosen": chosen,
        "tokens_a_second_tried": tried,
        **{name: value for name, value in dataclasses.asdict(config).items() if name in names},
        **{name: getattr(coder.cfg, name) for name in ("aux_loss_coefficient", "decoder_init_norm")},
        "normalize_activations": "expected_average_only_in",
        "b_dec at first": "mean of the scaled activations",
    }
    write(job, made_by(encode, decode, job), clocked, settings, "sae-lens")


if __name__ == "__main__":
    main()

"""A TopK coder trained by sparsify (eai-sparsify), fed from cached activations.

Runs in an environment of its own. Its Trainer wants a model and a data set of tokens, so its parts are
driven here in the order in which its `fit` does it for one hookpoint: decoder bias from the first batch's
mean, decoder rows of length 1 before each step, forward, backward, parallel gradients removed, optimiser,
tokens since a latent was active. Optimiser (signum, made schedule-free), momentum and loss are its defaults.
"""

import torch
from schedulefree import ScheduleFreeWrapper
from sharing import Batches, Clocked, Job, fastest, made_by, write
from sparsify import SparseCoder, SparseCoderConfig, TrainConfig
from sparsify.sign_sgd import SignSGD
from torch import Tensor

MICRO_STEPS = (1, 4, 16)
"""Into how many pieces a batch is cut (its `micro_acc_steps`): what speed depends on."""


def train(job: Job, rows: Tensor, pieces: int, steps: int) -> tuple[SparseCoder, Clocked]:
    """Train a new coder; with it comes what the steps after the warm-up took."""
    torch.manual_seed(job.seed)
    config = TrainConfig(SparseCoderConfig(num_latents=job.n_latents, k=job.k), micro_acc_steps=pieces)
    coder = SparseCoder(rows.shape[1], config.sae, dtype=torch.float32)
    optimizer = ScheduleFreeWrapper(
        SignSGD([{"params": coder.parameters(), "lr": learning_rate(job)}]),
        momentum=0.95,
    )
    optimizer.train()
    batches = Batches(rows, job.batch, job.seed)
    since_fired = torch.zeros(job.n_latents, dtype=torch.long)
    fired = torch.zeros(job.n_latents, dtype=torch.bool)
    for step in range(steps):
        x = next(batches)
        if step == 0:
            coder.b_dec.data = x.mean(0)
        coder.set_decoder_norm_to_unit_norm()
        total_variance = (x - x.mean(0)).pow(2).sum()
        for piece in x.chunk(pieces):
            out = coder(piece, piece, dead_mask=None, total_variance=total_variance)
            fired[out.latent_indices.flatten()] = True
            (out.fvu + config.auxk_alpha * out.auxk_loss + out.multi_topk_fvu / 8).div(pieces).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        since_fired += len(x)
        since_fired[fired] = 0
        fired.zero_()
    clocked = batches.clocked(job.warm_up)
    optimizer.eval()  # as before it saves: the average of the weights
    return coder, clocked


def learning_rate(job: Job) -> float:
    """The job's, or what its Trainer takes for a coder of this width."""
    return job.learning_rate or 5e-3 / (job.n_latents / 2**14) ** 0.5


def speed(job: Job, rows: Tensor, pieces: int) -> float:
    """Rows a second over a few steps."""
    return train(job, rows, pieces, job.warm_up + job.probe)[1].rate


def main() -> None:
    """Carry out the job named by the first argument; write the measurements to the second."""
    job = Job.given()
    torch.set_float32_matmul_precision("high")  # as its Trainer does
    rows = job.rows("train")
    chosen, tried = fastest({str(one): lambda one=one: speed(job, rows, one) for one in MICRO_STEPS})
    coder, clocked = train(job, rows, int(chosen), job.steps)

    def encode(block: Tensor) -> tuple[Tensor, Tensor]:
        found = coder.encode(block)
        return found.top_indices, found.top_acts

    settings = {
        "micro_acc_steps": int(chosen),
        "tokens_a_second_tried": tried,
        "optimizer": "signum, schedule-free",
        "momentum": 0.95,
        "lr": learning_rate(job),
        "auxk_alpha": TrainConfig.auxk_alpha,
        "normalize_decoder": coder.cfg.normalize_decoder,
        "b_dec at first": "mean of the first batch",
    }
    write(job, made_by(encode, lambda indices, values: coder.decode(values, indices), job), clocked, settings, NAME)


NAME = "eai-sparsify"

if __name__ == "__main__":
    main()

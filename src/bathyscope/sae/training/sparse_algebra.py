"""Products with a few entries a row, which cost what the entries cost: decoding and every gradient of a code.

A dense step costs six products of (rows, latents, width). With k latents a row only the encoder's own
is left; the others are these, of (rows, k, width).
"""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor


def dots(indices: Tensor, rows: Tensor, matrix: Tensor) -> Tensor:
    """Dot products of each row with the rows of a matrix that its indices name, (rows, k).

    Example:
        >>> import torch
        >>> from bathyscope.sae.training.sparse_algebra import dots
        >>> dots(torch.tensor([[1, 0]]), torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 5.0]])).tolist()
        [[10.0, 3.0]]
    """
    n, k = indices.shape
    first = torch.arange(0, n * k + 1, k, device=indices.device)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support")  # once a process, and about nothing used here
        pattern = torch.sparse_csr_tensor(
            first, indices.reshape(-1), rows.new_zeros(n * k), (n, len(matrix)), check_invariants=False
        )
    return torch.sparse.sampled_addmm(pattern, rows, matrix.T, beta=0.0).values().view(n, k)


@dataclass(frozen=True)
class ByLatent:
    """The entries of a code, ordered by latent.

    Args:
        order: which entry comes where, (entries,).
        rows: the row of each, (entries,).
        first: where each latent's entries begin, (n_latents,).
    """

    order: Tensor
    rows: Tensor
    first: Tensor

    @classmethod
    def of(cls, indices: Tensor, n_latents: int) -> "ByLatent":
        """Of indices, (rows, k)."""
        flat = indices.reshape(-1)
        order = flat.argsort(stable=True)  # stable: the same sums in the same order, whoever computes them
        counts = torch.bincount(flat, minlength=n_latents)
        return cls(order, order // indices.shape[1], counts.cumsum(0) - counts)

    def sum(self, values: Tensor, rows: Tensor) -> Tensor:
        """For each latent the rows that it is active in, times its values there, (n_latents, width).

        Args:
            values: (rows, k).
            rows: (rows, width).
        """
        return torch.nn.functional.embedding_bag(
            self.rows, rows, self.first, per_sample_weights=values.reshape(-1)[self.order], mode="sum"
        )


def total(indices: Tensor, values: Tensor, n_latents: int) -> Tensor:
    """The sum of each latent's values, (n_latents,)."""
    return values.new_zeros(n_latents).index_add_(0, indices.reshape(-1), values.reshape(-1))

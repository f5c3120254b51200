"""Products with a few entries a row, which cost what the entries cost: decoding and every gradient of a code.

A dense step costs six products of (rows, latents, width). With k latents a row only the encoder's own
is left; the others are these, of (rows, k, width).
"""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Sparse:
    """The entries of some rows, each row's together: as many as it needs.

    Args:
        indices: the latent of each, (entries,).
        values: how active it is, (entries,).
        first: where each row's entries begin, and where the last one's end, (rows + 1,).
    """

    indices: Tensor
    values: Tensor
    first: Tensor

    def __len__(self) -> int:
        return len(self.first) - 1

    @classmethod
    def full(cls, indices: Tensor, values: Tensor) -> "Sparse":
        """As many entries in every row: of indices and values, (rows, k)."""
        n, k = indices.shape
        return cls(indices.reshape(-1), values.reshape(-1), torch.arange(0, n * k + 1, k, device=indices.device))

    def where(self, kept: Tensor) -> "Sparse":
        """Some of the entries, (entries,): what they cost is what is left of them."""
        before = torch.cat([kept.new_zeros(1, dtype=torch.long), kept.cumsum(0)])
        return Sparse(self.indices[kept], self.values[kept], before[self.first])

    def rows(self) -> Tensor:
        """The row of each entry, (entries,)."""
        return torch.arange(len(self), device=self.first.device).repeat_interleave(self.first.diff())

    def sum(self, matrix: Tensor) -> Tensor:
        """For each row those rows of a matrix that it names, times their values, (rows, width)."""
        return torch.nn.functional.embedding_bag(
            self.indices, matrix, self.first, per_sample_weights=self.values, mode="sum", include_last_offset=True
        )

    def dots(self, rows: Tensor, matrix: Tensor) -> Tensor:
        """Dot products of each row with the rows of a matrix that it names, (entries,).

        Args:
            rows: (rows, width).
            matrix: (n_latents, width).

        Example:
            >>> import torch
            >>> from bathyscope.sae.training.sparse_algebra import Sparse
            >>> named = Sparse.full(torch.tensor([[1, 0]]), torch.ones(1, 2))
            >>> named.dots(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 5.0]])).tolist()
            [10.0, 3.0]
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support")  # once a process, and of nothing used here
            pattern = torch.sparse_csr_tensor(
                self.first,
                self.indices,
                rows.new_zeros(len(self.indices)),
                (len(rows), len(matrix)),
                check_invariants=False,
            )
        return torch.sparse.sampled_addmm(pattern, rows, matrix.T, beta=0.0).values()

    def total(self, values: Tensor, n_latents: int) -> Tensor:
        """The sum of the values of each latent's entries, (n_latents,)."""
        return values.new_zeros(n_latents).index_add_(0, self.indices, values)

    def active(self, n_latents: int) -> Tensor:
        """In how many rows each latent is active, (n_latents,)."""
        return torch.bincount(self.indices[self.values > 0], minlength=n_latents)


@dataclass(frozen=True, eq=False)
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
    def of(cls, entries: Sparse, n_latents: int) -> "ByLatent":
        """Of some entries."""
        order = entries.indices.argsort(stable=True)  # stable: the same sums in the same order, whoever computes them
        counts = torch.bincount(entries.indices, minlength=n_latents)
        return cls(order, entries.rows()[order], counts.cumsum(0) - counts)

    def sum(self, values: Tensor, rows: Tensor) -> Tensor:
        """For each latent the rows that it is active in, times its values there, (n_latents, width).

        Args:
            values: (entries,).
            rows: (rows, width).
        """
        return torch.nn.functional.embedding_bag(
            self.rows, rows, self.first, per_sample_weights=values[self.order], mode="sum"
        )

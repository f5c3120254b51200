"""What a latent's decoder row says by itself: tokens that it promotes and suppresses, latents that it is like.

Computed in blocks, so that 24,000 latents times 49,000 tokens never exist at once. Needs no text.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from bathyscope.attribution.frozen import FrozenNorm
from bathyscope.errors import UsageError
from bathyscope.model import Model
from bathyscope.sae.coder import SparseCoder

ROWS: Final = 256
"""Latents whose products are computed together: 50 MB for 49,152 tokens."""

RESIDUAL: Final = frozenset({"embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"})
"""Components that are in the residual stream, or are added to it."""


@dataclass(frozen=True)
class Promoted:
    """Tokens that latents promote and suppress, by their decoder rows through the unembedding.

    Args:
        up: the token ids that each raises most, (latents, tokens).
        up_by: by how much a decoder row raises their logits, (latents, tokens).
        down: those that it lowers most.
        down_by: by how much.
        folded: whether the final norm's gain is in it.
    """

    up: Tensor
    up_by: Tensor
    down: Tensor
    down_by: Tensor
    folded: bool

    def __getitem__(self, rows: Tensor) -> "Promoted":
        return Promoted(self.up[rows], self.up_by[rows], self.down[rows], self.down_by[rows], self.folded)


@dataclass(frozen=True)
class Neighbours:
    """Latents that write what is most like.

    Args:
        latents: the nearest by the cosine of decoder rows, (latents, neighbours).
        cosines: of them.
        own: the cosine of each latent's own encoder and decoder row, (latents,); 0 where their widths differ.
    """

    latents: Tensor
    cosines: Tensor
    own: Tensor

    def __getitem__(self, rows: Tensor) -> "Neighbours":
        return Neighbours(self.latents[rows], self.cosines[rows], self.own[rows])


def promoted_tokens(
    model: Model, coder: SparseCoder, latents: Tensor | None = None, *, k: int = 10, fold_norm: bool = False
) -> Promoted:
    """The tokens whose logits a latent raises and lowers most: the extremes of decoder times unembedding.

    The final norm divides by a length that depends on the text, so that these numbers order tokens and do not predict
    logits. Its gain is a fixed factor for each coordinate, which `fold_norm` multiplies decoder rows by (a norm that
    takes the mean out does so then, too); without it the product is W_dec W_U as it stands.

    Args:
        model: the model that the coder is for.
        coder: its decoder must write in the residual stream's width.
        latents: which, (latents,); all unless said.
        k: how many of each.
        fold_norm: whether the final norm's gain is folded in.

    Raises:
        UsageError: the coder does not write into the residual stream.

    Example:
        >>> import bathyscope, torch
        >>> from bathyscope.sae import KeepTop, SparseCoder
        >>> from bathyscope.sae.reading import promoted_tokens
        >>> model = bathyscope.load()
        >>> rows = model.unembedding.weight[:2].detach().float()
        >>> coder = SparseCoder(rows, torch.zeros(2), rows, torch.zeros(model.d_model), KeepTop(1))
        >>> promoted_tokens(model, coder, k=3).up.shape
        torch.Size([2, 3])
    """
    check_writes_residual(coder, model)
    rows = coder.decoder.float() if latents is None else coder.decoder[latents].float()
    if fold_norm:
        rows = _folded(model, rows)
    weight = model.unembedding.weight.detach().float().cpu()
    found = []
    for block in rows.cpu().split(ROWS):
        product = block @ weight.T
        found.append((product.topk(k), product.topk(k, largest=False)))
    up, down = ([pair[side] for pair in found] for side in (0, 1))
    return Promoted(
        torch.cat([one.indices for one in up]),
        torch.cat([one.values for one in up]),
        torch.cat([one.indices for one in down]),
        torch.cat([one.values for one in down]),
        fold_norm,
    )


def nearest_latents(coder: SparseCoder, latents: Tensor | None = None, *, k: int = 10) -> Neighbours:
    """The latents whose decoder rows point the same way, and how much each latent writes what it reads.

    Args:
        coder: the coder.
        latents: which, (latents,); all unless said.
        k: how many neighbours.

    Example:
        >>> import torch
        >>> from bathyscope.sae import KeepTop, SparseCoder
        >>> from bathyscope.sae.reading import nearest_latents
        >>> rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 0.1]])
        >>> coder = SparseCoder(rows, torch.zeros(3), rows, torch.zeros(2), KeepTop(1))
        >>> found = nearest_latents(coder, k=1)
        >>> found.latents.squeeze().tolist(), found.own.tolist()
        ([2, 2, 0], [1.0, 1.0, 1.0])
    """
    chosen = torch.arange(coder.n_latents) if latents is None else latents
    unit = torch.nn.functional.normalize(coder.decoder.float(), dim=1)
    k = min(k, coder.n_latents - 1)
    found = []
    for block in chosen.split(ROWS):
        cosines = unit[block] @ unit.T
        cosines[torch.arange(len(block)), block] = -torch.inf
        found.append(cosines.topk(k))
    own = torch.zeros(len(chosen))
    if coder.d_in == coder.d_out:
        own = torch.nn.functional.cosine_similarity(coder.encoder[chosen].float(), coder.decoder[chosen].float())
    return Neighbours(torch.cat([one.indices for one in found]), torch.cat([one.values for one in found]), own)


def writes_residual(coder: SparseCoder, model: Model) -> bool:
    """Whether a coder's decoder rows are directions of the residual stream."""
    widths = {coder.d_out, model.d_model, model.unembedding.weight.shape[1]}
    return len(widths) == 1 and (coder.target is None or coder.target.component in RESIDUAL)


def check_writes_residual(coder: SparseCoder, model: Model) -> None:
    """Refuse a coder whose decoder rows are something else.

    Raises:
        UsageError: saying where it writes.
    """
    if not writes_residual(coder, model):
        raise UsageError(
            f"a coder that writes at {coder.target}, {coder.d_out} wide, was given",
            f"only directions of the residual stream, {model.d_model} wide, promote tokens by themselves",
            "a coder of resid_post, attn_out or mlp_out",
        )


def _folded(model: Model, rows: Tensor) -> Tensor:
    """Decoder rows times the final norm's gain."""
    path = model.architecture.norm
    if path is None:
        return rows
    norm = model.hf.get_submodule(path)
    at = torch.linspace(-1, 1, model.d_model).to(next(norm.parameters()))
    frozen = FrozenNorm.of(norm, at, path)
    return (frozen.linear(rows.to(at.device)) / frozen.scale).float()

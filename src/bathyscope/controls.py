"""Controls: what a patchscope is compared with, so that what it says can be put down to what was written.

Each control is a cell like any other, made from the cell that it is for: planned, keyed and stored with it.

- **unpatched**: the target prompt as it is; nothing is written.
- **no-activation**: zeros are written.
- **random**: a Gaussian vector at the norm of what it replaces; the mapping is left out.
- **mean**: the mean of many tokens' representations at the layer that is read, mapped as the source's is.
- **shuffled**: another token's representation at that layer, mapped as the source's is.
- **prompting**: the source's text, up to the token that is read, stands in the target prompt in place of the
  placeholder; nothing is written.

The other tokens, of "mean" and "shuffled", are those of given texts or of the source prompt itself; the first token of
a text is not among them, since its representation is like no other.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor

from bathyscope.engine import Cell, Given, Read
from bathyscope.errors import UsageError, nearest
from bathyscope.forward import capture
from bathyscope.mappings import Identity, NormMatch
from bathyscope.model import Model, Prompt, Tokens
from bathyscope.patchscope_result import ControlCell
from bathyscope.prompts import Inspection
from bathyscope.readouts import Reading, normalized
from bathyscope.sites import EMBEDDING_LAYER, Site

__all__ = ["CONTROLS", "Controls", "occurs_in", "random_vector"]

UNPATCHED: Final = "unpatched"
CONTROLS: Final = (UNPATCHED, "no-activation", "random", "mean", "shuffled", "prompting")
"""Their names, the cheapest first."""


@dataclass(frozen=True)
class Controls:
    """Which controls are run beside the cells of a patchscope.

    Args:
        names: some of `CONTROLS`.
        seed: of random vectors, and of which token is read in place of another.
        texts: whose tokens "mean" and "shuffled" take; those of the source prompt unless given.

    Raises:
        UsageError: there is no such control.

    Example:
        >>> from bathyscope.controls import Controls
        >>> Controls(("random", "mean"), seed=1).names
        ('random', 'mean')
    """

    names: tuple[str, ...] = (UNPATCHED,)
    seed: int = 0
    texts: tuple[Prompt, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(dict.fromkeys(self.names)))
        object.__setattr__(self, "texts", tuple(self.texts))
        if unknown := [name for name in self.names if name not in CONTROLS]:
            likely = "no-activation" if unknown[0] in ("zero", "zeros") else nearest(unknown[0], CONTROLS)
            raise UsageError(f"no control is called {unknown[0]!r}", f"controls are {', '.join(CONTROLS)}", likely)

    @classmethod
    def of(cls, given: "Controls | Sequence[str]", *, unpatched: bool) -> "Controls":
        """Those that were asked for, "unpatched" among them or not."""
        found = given if isinstance(given, Controls) else cls((given,) if isinstance(given, str) else tuple(given))
        return replace(found, names=(UNPATCHED, *found.names)) if unpatched else found


def random_vector(name: str, shape: Sequence[int], *, seed: int = 0) -> Tensor:
    """A Gaussian vector that depends on its name, its shape and the seed alone.

    Args:
        name: of what it stands for, such as a site.
        shape: of a site.
        seed: another seed, another vector.

    Example:
        >>> from bathyscope.controls import random_vector
        >>> bool((random_vector("resid_post.3", (8,)) == random_vector("resid_post.3", (8,))).all())
        True
    """
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(_hash(f"{seed}|{name}") % 2**63))


def occurs_in(answer: str, *texts: str) -> bool:
    """Whether an answer stands in a text already, so that finding it there shows nothing.

    Both are compared as `readouts.normalized` has them, and only at the borders of words.

    Example:
        >>> from bathyscope.controls import occurs_in
        >>> occurs_in("Rome", "the ROME of the north"), occurs_in("Rome", "a bathrome")
        (True, False)
    """
    return any(f" {normalized(answer)} " in f" {normalized(text)} " for text in texts)


@dataclass(frozen=True)
class ControlCells:
    """Makes the control cells of one call.

    Args:
        controls: which.
        source, target: the models.
        inspection: the target prompt, as the target model reads it.
        tokens: the source prompt.
        sites: every site that is read.
    """

    controls: Controls
    source: Model
    target: Model
    inspection: Inspection
    tokens: Tokens
    sites: tuple[Site, ...]

    @staticmethod
    def depends(name: str, *, compares: bool) -> tuple[frozenset[str], bool]:
        """What a control depends on: which of the layers "source" and "target", and whether on the position.

        Args:
            name: of the control.
            compares: whether the readout compares with what the source says next, which depends on the position.
        """
        layers = {"no-activation": {"target"}, "random": {"target"}}.get(name, {"source", "target"})
        if name in (UNPATCHED, "prompting"):
            layers = set()
        return frozenset(layers), compares or name in ("shuffled", "prompting")

    def join(self, cells: list[Cell]) -> dict[ControlCell, int]:
        """Add the controls of cells to them, each measurement once.

        Args:
            cells: each writes a representation that is read; controls that are not among them are appended.

        Returns:
            For each control, which says nothing yet, its number among the cells.
        """
        compares = any(cell.readout.compares for cell in cells)
        rows = {_content(cell): row for row, cell in enumerate(cells)}
        found: dict[ControlCell, int] = {}
        measured = tuple(cells)
        for name in self.controls.names:
            layers, position = self.depends(name, compares=compares)
            for cell in measured:
                read = cell.source
                assert isinstance(read, Read) and cell.site is not None
                control = ControlCell(
                    name,
                    source_layer=_layer(read.site) if "source" in layers else None,
                    source_position=read.position if position else None,
                    target_layer=_layer(cell.site) if "target" in layers else None,
                )
                if control not in found:
                    made = self.of(name, cell)
                    found[control] = rows.setdefault(_content(made), len(cells))
                    if found[control] == len(cells):
                        cells.append(made)
        return found

    def of(self, name: str, cell: Cell) -> Cell:
        """The control of a cell that writes a representation which is read.

        Raises:
            UsageError: there is no other token to take, or no text to put in the placeholder's place.
        """
        read = cell.source
        assert isinstance(read, Read) and cell.site is not None
        # What a readout compares with is what the source says next, whatever is written.
        against = Read(read.prompt, self.sites[0], read.position)
        control = replace(cell, against=against) if cell.readout.compares else cell
        if name == UNPATCHED:
            return replace(control, source=None, site=None, positions=(), mapping=Identity())
        if name == "prompting":
            prompt = self._in_place(read.position)
            return replace(control, target=prompt, source=None, site=None, positions=(), mapping=Identity())
        if name == "no-activation":
            zeros = Given(torch.zeros(self._shape(cell.site)), cell.site)
            return replace(control, source=zeros, mapping=Identity())
        if name == "random":
            drawn = random_vector(str(cell.site), self._shape(cell.site), seed=self.controls.seed)
            return replace(control, source=Given(drawn, cell.site), mapping=NormMatch())
        if name == "mean":
            return replace(control, source=Given(self._means[read.site], read.site))
        return replace(control, source=self._other(read))

    def _shape(self, site: Site) -> tuple[int, ...]:
        shape = self.target.architecture.width(site.component)
        return shape if site.head is None else shape[-1:]

    @cached_property
    def _pool(self) -> list[tuple[Tokens, int]]:
        """Tokens that may stand for the one that is read."""
        texts = [self.source.tokenize(text) for text in self.controls.texts] or [self.tokens]
        return [(tokens, position) for tokens in texts for position in range(1, len(tokens))]

    @cached_property
    def _means(self) -> dict[Site, Tensor]:
        if not self._pool:
            raise _no_other(self.tokens)
        texts = list(dict.fromkeys(tokens for tokens, _ in self._pool))
        found = capture(self.source, texts, self.sites)
        return {site: torch.cat([rows[1:].double() for rows in found[site]]).mean(0).float() for site in self.sites}

    def _other(self, read: Read) -> Read:
        others = [
            (tokens, place) for tokens, place in self._pool if (tokens.ids, place) != (self.tokens.ids, read.position)
        ]
        if not others:
            raise _no_other(self.tokens)
        tokens, position = others[_hash(f"{self.controls.seed}|{read.position}") % len(others)]
        return Read(tokens, read.site, position)

    def _in_place(self, position: int) -> Tokens:
        """The target prompt with the source's text, up to a token, in place of the placeholder."""
        tokens, inspection = _with_offsets(self.tokens, self.source), self.inspection
        text = tokens.text[: tokens.offsets[position][1]] if tokens.offsets else ""
        text = text.strip() or self.source.decode(tokens.ids[: position + 1]).strip()
        target, placeholder = _with_offsets(inspection.tokens, self.target), inspection.placeholder
        spans = [target.offsets[place] for place in inspection.positions] if target.offsets else []
        if not spans or not placeholder or not text:
            raise UsageError(
                "the control 'prompting' was asked for with a target prompt that is no text",
                "the source's text stands in place of its placeholder",
                "another control",
            )
        found, end = "", 0
        for first, last in spans:
            start = target.text.find(placeholder, max(first, end))
            if end <= start < last:  # a placeholder of several tokens is one place
                found += target.text[end:start] + text
                end = start + len(placeholder)
        return self.target.tokenize(found + target.text[end:])


def controls_spec(controls: Controls, source: Model) -> dict[str, Any]:
    """Controls as JSON values, enough to ask for them again."""
    texts = [source.tokenize(text) for text in controls.texts]
    return {
        "names": list(controls.names),
        "seed": controls.seed,
        "texts": [{"prompt": one.text, "ids": list(one.ids), "tokens": list(one.texts)} for one in texts],
    }


def said(
    rows: Mapping[ControlCell, int], cells: Sequence[Cell], readings: Sequence[Reading]
) -> tuple[ControlCell, ...]:
    """Controls with what was read out.

    Args:
        rows: of each control the number of its cell (`ControlCells.join`).
        cells: all of them.
        readings: of all of them.
    """
    found = []
    for control, row in rows.items():
        reading, source = readings[row], cells[row].source
        instead = source.prompt.texts[source.position] if isinstance(source, Read) else None
        given = {"text": reading.text, "ids": reading.ids, "candidates": reading.candidates, "values": reading.values}
        found.append(replace(control, **given, instead=instead))
    return tuple(found)


def _content(cell: Cell) -> tuple[Any, ...]:
    """What tells one cell of a call from another, without its mapping: comparing one may read megabytes."""
    source = cell.source
    read = (source.prompt.ids, source.site, source.position) if isinstance(source, Read) else source
    against = cell.against and (cell.against.prompt.ids, cell.against.position)
    return cell.target.ids, read, cell.site, cell.positions, against


def _with_offsets(tokens: Tokens, model: Model) -> Tokens:
    """A prompt that a stored run names has its text and ids only."""
    again = model.tokenize(tokens.text) if tokens.text and not tokens.offsets else tokens
    return again if again.ids == tokens.ids else tokens


def _layer(site: Site) -> int:
    return EMBEDDING_LAYER if site.layer is None else site.layer


def _no_other(tokens: Tokens) -> UsageError:
    return UsageError(
        f"the source prompt {tokens.text!r} has no other token",
        "the controls 'mean' and 'shuffled' take others than the one that is read",
        "texts: Controls(names, texts=[...]) or --control-text TEXT",
    )


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")

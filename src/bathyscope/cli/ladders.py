"""Ladders: a patchscope's result as tables, layers down. Knows results, not the models behind them."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from rich.console import Console
from rich.text import Text

from bathyscope.cli import terminal
from bathyscope.sites import EMBEDDING_LAYER

if TYPE_CHECKING:
    from bathyscope.patchscope_result import PatchscopeCell, PatchscopeResult

CONVENTION = "Layer -1 is the embedding; layers count from 0."
ASIDE = 32
"""Characters that are quoted of a text that describes nothing."""
SHORTEST_PROMPT = 24
"""Characters of a prompt that are quoted, however narrow the terminal."""
SHORT = 8
"""Layers up to which a ladder of one position shows whole texts."""
NARROWEST, LAYER_COLUMN, BETWEEN = 14, 9, 3
"""Widths in characters. A text that is cut shorter says nothing, so a wide grid becomes several tables."""


@dataclass(frozen=True)
class Rung:
    """Neighbouring layers that say the same.

    Args:
        first, last: the layers, both included.
        text: what they say, without what comes after it.
        spoke: whether that is about what was written; otherwise the model went on with its prompt.
    """

    first: int
    last: int
    text: str
    spoke: bool

    @property
    def layers(self) -> str:
        """The layers in words a newcomer reads."""
        if self.first == EMBEDDING_LAYER:
            return "embedding" if self.last == self.first else f"embedding to {self.last}"
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


def rungs(result: "PatchscopeResult") -> list[Rung]:
    """The ladder of one position, with neighbours that say the same made one."""
    found: list[Rung] = []
    for cell in result.cells:
        text, spoke = opening_words(cell.text)
        if found and found[-1].text == text:
            found[-1] = Rung(found[-1].first, cell.source_layer, text, spoke)
        else:
            found.append(Rung(cell.source_layer, cell.source_layer, text, spoke))
    return found


def opening_words(text: str) -> tuple[str, bool]:
    """What a description says up to its first comma or line end, and whether it is one.

    A text that begins with a comma or a full stop describes nothing: the model went on with its list.

    Example:
        >>> from bathyscope.cli.ladders import opening_words
        >>> opening_words(": British monarch, William Shakespeare: English actor")
        ('British monarch', True)
        >>> opening_words(", 12, 12")
        (', 12, 12', False)
    """
    said = text.strip().removeprefix(":").strip()
    if not said or said[0] in ",.;":
        return said if len(said) <= ASIDE else f"{said[:ASIDE]}…", False
    return re.split(r"[,\n]", said, maxsplit=1)[0].strip(), True


def show(result: "PatchscopeResult", console: Console) -> None:
    """Print what was asked, then a table: layers down, positions across, and one table more where they do not fit."""
    view = _View.of(result)
    for line in _asked(result, view, console.width):
        console.print(terminal.cell(line, wrap=True))
    varying, lines = _controls(result)
    beside = len(view.columns) == 1
    columns = {**view.columns, **{name: next(iter(_View.of(one).columns.values())) for name, one in varying.items()}}
    cut = _tables(view, columns if beside else view.columns, console, whole=beside)
    for name, one in {} if beside else varying.items():
        console.print(terminal.cell(f"control: {name}"))
        cut |= _tables(view, _View.of(one).columns, console, whole=False)
    for line in lines:
        console.print(terminal.cell(line, wrap=True))
    console.print(Text(CONVENTION, "dim"))
    if cut:
        console.print(Text("Texts are cut to fit; --json and --out keep them whole.", "dim"))


def _tables(
    view: "_View", columns: "Mapping[str, Mapping[int, PatchscopeCell]]", console: Console, *, whole: bool
) -> bool:
    """Print columns, as many tables as they need; whether something had to be cut."""
    # A short ladder has room for whole texts.
    wrap = whole and len(view.rows) <= SHORT
    whole = whole and len(columns) == 1
    cut = False
    for heads in _fitting(list(columns), console.width):
        table = terminal.grid("written at" if view.down == "target" else "layer", texts=heads)
        for row in view.rows:
            table.add_row(str(row), *(_said(columns[head][row], whole=whole, wrap=wrap) for head in heads))
        console.print(table)
        cut |= not wrap and terminal.natural_width(table) > console.width
    return cut


def _controls(result: "PatchscopeResult") -> "tuple[dict[str, PatchscopeResult], list[str]]":
    """Controls that say other things of other cells, each as a result of its own; and lines for those that do not."""
    varying, lines = {}, []
    ranked = bool(result.cells[0].candidates)
    if result.unpatched is not None:
        lines.append(f"nothing written: {repr(result.unpatched) if ranked else result.unpatched.strip()}")
    for name in dict.fromkeys(control.control for control in result.controls if control.control != "unpatched"):
        of_cells = [result.controls_of(cell)[name] for cell in result.cells]
        if len(set(of_cells)) == 1:
            lines.append(f"{name}: {repr(of_cells[0].text) if ranked else of_cells[0].text.strip()}")
        else:
            cells = zip(result.cells, of_cells, strict=True)
            told = (replace(cell, text=one.text, candidates=one.candidates) for cell, one in cells)
            varying[name] = replace(result, cells=tuple(told))
    return varying, lines


@dataclass(frozen=True)
class _View:
    """A result as rows and columns.

    Args:
        down: which layer the rows are: the one that was read, or the one that was written at.
        rows: those layers.
        columns: for each column's head the cells by row.
        positions: the tokens that were read, each with its number.
        targets: the layers that were written at; none where it was always the one that was read.
    """

    down: Literal["source", "target"]
    rows: tuple[int, ...]
    columns: "Mapping[str, Mapping[int, PatchscopeCell]]"
    positions: tuple[str, ...]
    targets: tuple[int, ...]

    @classmethod
    def of(cls, result: "PatchscopeResult") -> Self:
        cells = result.cells
        sources = sorted({cell.source_layer for cell in cells})
        same = all(cell.target_layer == cell.source_layer for cell in cells)
        targets = [] if same else sorted({cell.target_layer for cell in cells})
        positions = dict.fromkeys(_position(cell) for cell in cells)
        down = "target" if len(sources) == 1 and len(targets) > 1 else "source"
        columns: dict[str, dict[int, PatchscopeCell]] = {}
        for cell in cells:
            varying = [_position(cell)] if len(positions) > 1 else []
            if down == "source" and len(targets) > 1:
                varying.append(f"to {cell.target_layer}")
            head = " ".join(varying) or ("the likeliest next tokens" if cell.candidates else "the model says")
            columns.setdefault(head, {})[cell.target_layer if down == "target" else cell.source_layer] = cell
        rows = targets if down == "target" else sources
        return cls(down, tuple(rows), columns, tuple(positions), tuple(targets))


def _position(cell: "PatchscopeCell") -> str:
    return f"{cell.source_position} {cell.source_token!r}"


def _said(cell: "PatchscopeCell", *, whole: bool, wrap: bool) -> Text:
    """What a cell says, or its likeliest next tokens: all of them, or the first."""
    if cell.candidates:
        ranked = (f"{one.token!r} {one.probability:.0%}" for one in cell.candidates[: None if whole else 1])
        return terminal.cell("  ".join(ranked), wrap=wrap)
    text = cell.text.strip()
    return terminal.cell(text, wrap=wrap) if text else terminal.cell("(nothing)", "dim")


def _asked(result: "PatchscopeResult", view: _View, width: int) -> Iterator[str]:
    """Two lines that say what was read and where it was written, each with as much of its prompt as fits."""
    asked, models = result.provenance["spec"], [model["model"] for model in result.provenance["models"]]
    token = f"token {view.positions[0]}" if len(view.positions) == 1 else f"{len(view.positions)} tokens"
    after = f" after layer {result.cells[0].source_layer}" if view.down == "target" else ""
    yield _around(f"read:    {token}{after} of ", asked["source"]["prompt"], f" in {models[0]}", width)
    where = "the same layer"
    if view.targets:
        where = f"layer {view.targets[0]}" if len(view.targets) == 1 else "every layer asked for"
    how = f" ({name})" if (name := _mapping(asked)) else ""
    to = "" if models[1:] in ([], models[:1]) else f" in {models[1]}"
    if not asked["target"]["prompt"]:  # a lens: what stands behind the last block depends on no prompt
        yield f"written: at {where}{how}{to}"
        return
    over = f"written: at {where}{how}, over {asked['target']['placeholder']!r} of "
    yield _around(over, asked["target"]["prompt"], to, width)


def _mapping(asked: "Mapping[str, Any]") -> str:
    """What a person calls the mapping; nothing where vectors are written as they are."""
    if asked["mapping"] == "Identity":
        return ""
    factor = f" by {asked['factor']:g}" if "factor" in asked else ""
    return f"{asked.get('method', asked['mapping'])}{factor}"


def _around(before: str, prompt: str, after: str, width: int) -> str:
    """A prompt between other words; its middle is left out if need be, since prompts end with their placeholder."""
    quoted = repr(prompt)
    room = max(width - len(before) - len(after), SHORTEST_PROMPT)
    if len(quoted) > room:
        half = (room - len(" … ")) // 2
        quoted = f"{quoted[:half]} … {quoted[-half:]}"
    return before + quoted + after


def _fitting(heads: list[str], width: int) -> Iterator[list[str]]:
    """The columns, as many at a time as a terminal has room for."""
    at_once = max(1, (width - LAYER_COLUMN) // (NARROWEST + BETWEEN))
    tables = -(-len(heads) // at_once)
    for index in range(tables):  # of even width, so that no table has one column left over
        yield heads[len(heads) * index // tables : len(heads) * (index + 1) // tables]

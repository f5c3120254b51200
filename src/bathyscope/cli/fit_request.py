"""One request for a mapping: models, layers and text as `bathyscope mapping fit` was asked for, and the defaults."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bathyscope.cli import terminal, text_files
from bathyscope.errors import UsageError
from bathyscope.sites import EMBEDDING_LAYER, parse_layers

if TYPE_CHECKING:
    from bathyscope.engine import Stop
    from bathyscope.generation import Progress
    from bathyscope.model import Model
    from bathyscope.texts import Texts

POSITIONS: Final = 20_000
"""Token positions that are used unless said."""
LENGTH: Final = 128
"""Tokens that are read at once, and of a document that a model writes itself."""
AT_ONCE: Final = 6
"""Layers of each model that are tried between models of different depth."""


@dataclass(frozen=True)
class Request:
    """One request for a mapping.

    Args:
        source, target: the models; one and the same where nothing else was asked.
        text: the file that is read, or None for what the model writes itself.
        column: where its rows keep their text.
        layers, target_layers: as they were typed; None for the default.
        positions: how many; None for the default.
        ahead: tokens ahead, of a future lens; None for the default.
        seed: as it was typed.
        checkpoint: where a method keeps what it has, if it can go on from there.
        progress: called with what is done and what there is to do.
        stop: looked at now and then.
    """

    source: "Model"
    target: "Model"
    text: str | None
    column: str
    layers: str | None
    target_layers: str | None
    positions: int | None
    ahead: int | None
    seed: int | None
    checkpoint: Path
    progress: "Progress"
    stop: "Stop"

    def pairs(self) -> list[tuple[int, int]]:
        """Source and target layers."""
        one, depths = self.source is self.target, (self.source.n_layers, self.target.n_layers)
        targets = self.target_layers or ("last" if one else "same" if depths[0] == depths[1] else None)
        if self.layers is not None:
            sources = parse_layers(self.layers, depths[0])
        elif targets == "same":
            sources = tuple(range(EMBEDDING_LAYER, min(depths)))
        else:
            sources = parse_layers("all", depths[0]) if depths[0] == depths[1] else _spread(depths[0])
        if targets == "same":
            return [(layer, layer) for layer in sources]
        last = str(depths[1] - 1)
        found = (
            _spread(depths[1]) if targets is None else parse_layers(last if targets == "last" else targets, depths[1])
        )
        return [(layer, target) for layer in sources for target in found]

    def source_layers(self) -> tuple[int, ...] | None:
        """The layers of a method that has no target layers; None for all."""
        return None if self.layers is None else parse_layers(self.layers, self.source.n_layers)

    def one_layer(self, method: str) -> int:
        """The layer of a method that is for one.

        Raises:
            UsageError: none was typed, or several.
        """
        found = self.source_layers()
        if found is None or len(found) != 1:
            given = "no --layers" if self.layers is None else f"--layers {self.layers}"
            raise UsageError(f"{given} was given with --method {method}", "it is for one layer", "--layers 10")
        return found[0]

    def texts(self, positions: int = POSITIONS) -> "Texts":
        """What is read; what the model writes itself is enough for so many positions, unless others were typed."""
        from bathyscope.texts import sampled_texts

        if self.text is not None:
            return text_files.documents(self.text, self.column, self.seed)
        length = self.length()
        # Half as much again: documents may end early, and some of each is left out or held out.
        n_documents = max(8, 3 * (self.positions or positions) // (2 * length))
        terminal.note(f"no --text was given: {self.source.name} writes {n_documents} documents itself")
        return sampled_texts(self.source, n_documents=n_documents, n_tokens=length, seed=self.seed or 0)

    def length(self, most: int = LENGTH) -> int:
        """Tokens of a window that both models have positions for."""
        return min(most, *(model.max_length or most for model in (self.source, self.target)))


def _spread(n_layers: int) -> tuple[int, ...]:
    """A few layers, evenly apart, the last among them."""
    return tuple(range(n_layers - 1, EMBEDDING_LAYER, -max(1, n_layers // AT_ONCE)))[::-1]

"""Keys: what names a finished cell, so that it is found again. They know the models; cells do not."""

from typing import Any

from bathyscope import store
from bathyscope.engine.cells import Cell
from bathyscope.model import Model


def cell_key(cell: Cell, source: Model, target: Model) -> str:
    """SHA-256, as 64 hex digits, of a cell's spec and the two models: weights, dtype, attention, device kind.

    Example:
        >>> import bathyscope
        >>> from bathyscope.engine import Cell, cell_key
        >>> from bathyscope.readouts import Generate
        >>> model = bathyscope.load()
        >>> len(cell_key(Cell(model.tokenize("hello"), Generate(3)), model, model))
        64
    """
    return store.spec_key(stored_spec(cell, source, target))


def stored_spec(cell: Cell, source: Model, target: Model, *, keep_representations: bool = True) -> dict[str, Any]:
    """A cell's spec with what identifies the models, and whether what was read is left out of what is kept."""
    return {
        **cell.spec(),
        "models": [_identity(source) if cell.patches or cell.against else None, _identity(target)],
        # A cell that is kept without it must not be found by who asks for it.
        **({} if keep_representations or cell.source is None else {"representation": "not kept"}),
    }


def _identity(model: Model) -> dict[str, str]:
    return {
        "fingerprint": model.fingerprint,
        "dtype": str(model.dtype),
        "attention": model.attention,
        "device": model.device.type,
    }

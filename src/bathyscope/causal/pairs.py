"""A clean and a corrupted prompt of equal length, and what tells their runs apart. Reads them from files, too."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bathyscope.errors import StorageError, UsageError
from bathyscope.model import Model, Prompt, Tokens
from bathyscope.readouts import LogitDiff, Metric, token_id

FIELDS = ("clean", "corrupted", "answer", "wrong_answer")
PUBLIC_FIELDS = ("clean_prefix", "patch_prefix", "clean_answer", "patch_answer")
"""What lines of a file of pairs hold: our own names, or those of the public agreement data (arXiv 2403.19647)."""


@dataclass(frozen=True)
class Pair:
    """Two prompts of equal length and the metric that is compared between their runs.

    Args:
        clean, corrupted: the prompts.
        metric: one number of the next token's logits.
    """

    clean: Tokens
    corrupted: Tokens
    metric: Metric


def pair(model: Model, clean: Prompt, corrupted: Prompt, metric: Metric) -> Pair:
    """Tokenize a pair and check it.

    Raises:
        UsageError: the prompts have different numbers of tokens, or the same ones; or the metric's tokens are none.

    Example:
        >>> import bathyscope
        >>> from bathyscope.causal.pairs import pair
        >>> from bathyscope.readouts import LogitDiff
        >>> found = pair(bathyscope.load(), "The boat", "The boats", LogitDiff(" it", " they"))
        >>> len(found.clean) == len(found.corrupted)
        True
    """
    one, other = model.tokenize(clean), model.tokenize(corrupted)
    if len(one) != len(other):
        raise UsageError(
            f"the clean prompt has {len(one)} tokens ({one.numbered()}) and the corrupted one {len(other)} "
            f"({other.numbered()})",
            "both must have as many, so that each position has its counterpart",
            "another wording of one of them",
        )
    if one.ids == other.ids:
        raise UsageError(f"clean and corrupted prompt are the same tokens ({one.numbered()})", "they must differ")
    metric.check(model, model)
    return Pair(one, other, metric)


def described(model: Model, metric: Metric) -> dict[str, Any]:
    """A metric's spec, with the text of each of its tokens for people, such as "answer_text"."""
    spec = metric.spec()
    texts = {
        f"{name}_text": model.token_texts([token_id(model, spec[name])])[0]
        for name in ("token", "answer", "wrong_answer")
        if name in spec
    }
    return {**spec, **texts}


@dataclass(frozen=True)
class Pairs:
    """The pairs of a file that can be compared position by position.

    Args:
        pairs: those.
        left_out: how many others there were: of different lengths, or whose answers are several tokens.
    """

    pairs: tuple[Pair, ...]
    left_out: int


def load_pairs(model: Model, path: str | Path, *, limit: int | None = None) -> Pairs:
    """Read pairs from a file of JSON lines; their metric is the logit difference of the two answers.

    Each line has clean, corrupted, answer and wrong_answer, or, as in the public agreement data, clean_prefix,
    patch_prefix, clean_answer and patch_answer. Pairs of different lengths are left out, and answers of several tokens.

    Args:
        model: the model that will read them.
        path: the file.
        limit: at most so many pairs.

    Raises:
        StorageError: it cannot be read.
        UsageError: a line lacks a field, or no pair is left.
    """
    found: list[Pair] = []
    left_out = 0
    for number, line in _lines(Path(path)):
        if limit is not None and len(found) >= limit:
            break
        names = next((names for names in (FIELDS, PUBLIC_FIELDS) if all(name in line for name in names)), None)
        if names is None:
            raise UsageError(
                f"line {number} of {path} has {', '.join(line)}", f"it needs {', '.join(FIELDS)}", "such a file"
            )
        clean, corrupted, answer, wrong = (str(line[name]) for name in names)
        try:
            found.append(pair(model, clean, corrupted, LogitDiff(answer, wrong)))
        except UsageError:
            left_out += 1
    if not found:
        raise UsageError(
            f"{path} has no pair that {model.name} can be asked ({left_out} were left out)",
            "prompts of equally many tokens, and answers of one token each",
        )
    return Pairs(tuple(found), left_out)


def _lines(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    try:
        text = path.read_text("utf-8")
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield number, dict(json.loads(line))
    except (OSError, ValueError, TypeError) as error:
        raise StorageError(
            f"{path} could not be read ({error})", "a file of JSON lines is needed", "another file"
        ) from error

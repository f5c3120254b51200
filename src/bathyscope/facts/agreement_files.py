"""Files of agreement pairs, one JSON object a line: our own, which hold all of a pair, and those of the public data."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, get_args

from bathyscope.errors import StorageError, UsageError
from bathyscope.facts.agreement import AgreementPair, Case
from bathyscope.facts.agreement_words import Number, forms_of, lemma_and_number
from bathyscope.files import write_atomically

OWN_FIELDS: Final = ("clean", "corrupted", "answer", "wrong_answer")
PUBLIC_FIELDS: Final = ("clean_prefix", "patch_prefix", "clean_answer", "patch_answer")
"""What a line must hold: our own names, or those of the public agreement data (arXiv 2403.19647)."""
OTHER_CASE: Final = "other"
"""Of a line that does not say its case."""
TOLD: Final = ("noun", "distractor", "number", "congruent")
"""What is told from the words of a line that does not hold it."""
REMEDY: Final = json.dumps(dict(zip(PUBLIC_FIELDS, ("The boat", "The boats", " is", " are"), strict=True)))


def write_agreement(pairs: Iterable[AgreementPair], path: str | Path) -> None:
    """Write pairs to a file that `load_agreement` reads, and `causal.load_pairs`; whole or not at all.

    Args:
        pairs: at least one.
        path: the file; one that is there is replaced.

    Raises:
        UsageError: there are no pairs.
        StorageError: it cannot be written.

    Example:
        >>> import pathlib, tempfile
        >>> from bathyscope.facts import agreement_pairs, load_agreement, write_agreement
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "pairs.jsonl"
        >>> write_agreement(agreement_pairs("nounpp", n=40), path)
        >>> load_agreement(path) == agreement_pairs("nounpp", n=40)
        True
    """
    lines = [json.dumps(asdict(pair)) for pair in pairs]
    if not lines:
        raise UsageError("there are no pairs to write", "a file of pairs has at least one")
    write_atomically(Path(path), ("\n".join(lines) + "\n").encode())


def load_agreement(path: str | Path) -> tuple[AgreementPair, ...]:
    """Read pairs that were written by `write_agreement`, or the public agreement data.

    A public line does not say which noun it is about. That is told from its two beginnings, where one word differs:
    the noun, its number, and the other noun, in the singular by the project's own list or by rule (-s, -es, -ies,
    -men). The case, too, is that of the words ("rc"), and not the line's ("singular_plural"), where they tell.

    Args:
        path: the file. Empty lines are skipped.

    Raises:
        StorageError: it cannot be read, or a line is no JSON.
        UsageError: a line lacks a field, or one is no text; or there is no line.

    Example:
        >>> import json, pathlib, tempfile
        >>> from bathyscope.facts import load_agreement
        >>> line = {"clean_prefix": "The guests that the men", "patch_prefix": "The guests that the man"}
        >>> line |= {"clean_answer": " do", "patch_answer": " does", "case": "plural_plural"}
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "pairs.jsonl"
        >>> _ = path.write_text(json.dumps(line))
        >>> pair = load_agreement(path)[0]
        >>> pair.case, pair.noun, pair.distractor, pair.number, pair.congruent
        ('within_rc', 'man', 'guest', 'plural', True)
    """
    return tuple(pair for _, pair in agreement_lines(path))


def agreement_lines(path: str | Path) -> tuple[tuple[int, AgreementPair], ...]:
    """As `load_agreement`, each pair with the number of its line, from 1."""
    path = Path(path)
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} could not be read ({error})", "a file of JSON lines is needed") from error
    found = tuple(
        (number, _pair(line, f"line {number} of {path}")) for number, line in enumerate(lines, 1) if line.strip()
    )
    if not found:
        raise UsageError(f"{path} has no pairs", "one JSON object a line is needed", REMEDY)
    return found


def _pair(line: str, where: str) -> AgreementPair:
    shown = line if len(line) <= 80 else f"{line[:80]}..."
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{where} is no JSON: {shown!r}", "each line is a JSON object", REMEDY) from error
    if not isinstance(data, dict):
        raise UsageError(f"{where} is no JSON object: {shown!r}", "each line is one", REMEDY)
    names = next((names for names in (OWN_FIELDS, PUBLIC_FIELDS) if set(names) <= set(data)), None)
    if names is None:
        raise UsageError(
            f"{where} has {', '.join(data) or 'no fields'}",
            f"it needs {', '.join(OWN_FIELDS)} or {', '.join(PUBLIC_FIELDS)}",
            REMEDY,
        )
    case = data.get("case", OTHER_CASE)
    for name, text in (("case", case), *((name, data[name]) for name in names)):
        if not isinstance(text, str) or not text.strip():
            raise UsageError(f"{name} in {where} is {text!r}", "it must be text", REMEDY)
    clean, corrupted, answer, wrong = (data[name] for name in names)
    told = _told(case, clean, corrupted) | {name: data[name] for name in TOLD if name in data}
    _check(told, where)
    return AgreementPair(clean=clean, corrupted=corrupted, answer=answer, wrong_answer=wrong, **told)


def _told(case: str, clean: str, corrupted: str) -> dict[str, Any]:
    """What the words of a pair tell of it besides."""
    told: dict[str, Any] = {"case": case} | dict.fromkeys(TOLD)
    one, other = clean.lower().split(), corrupted.lower().split()
    places = [place for place, (word, its) in enumerate(zip(one, other, strict=False)) if word != its]
    forms = forms_of(one[places[0]], other[places[0]]) if len(places) == 1 and len(one) == len(other) else None
    if forms is None:
        return told
    number: Number = "singular" if one[places[0]] == forms.singular else "plural"
    told |= {"noun": forms.singular, "number": number}
    shape = _shape(one, places[0])
    if shape is not None:
        told["case"], place = shape
        if place is not None:
            told["distractor"], its = lemma_and_number(one[place])
            told["congruent"] = its == number
    return told


def _shape(sentence: list[str], changed: int) -> tuple[Case, int | None] | None:
    """The case of a beginning, and where its other noun stands; None where it is none of them."""
    if sentence[0] != "the":
        return None
    match sentence[2:], changed:
        case [], 1:
            return "simple", None
        case ["that", "the", _], 4:
            return "within_rc", 1
        case ["that", "the", _, _], 1:
            return "rc", 4
        case [preposition, *_, "the", _], 1 if preposition != "that":
            return "nounpp", len(sentence) - 1
    return None


def _check(told: Mapping[str, Any], where: str) -> None:
    """What a line says of its pair is of the right kind."""
    right = {
        "noun": told["noun"] is None or isinstance(told["noun"], str),
        "distractor": told["distractor"] is None or isinstance(told["distractor"], str),
        "number": told["number"] is None or told["number"] in get_args(Number),
        "congruent": told["congruent"] is None or isinstance(told["congruent"], bool),
    }
    wrong = next((name for name in TOLD if not right[name]), None)
    if wrong is not None:
        raise UsageError(
            f"{wrong} in {where} is {told[wrong]!r}",
            "noun and distractor are words, number is singular or plural, congruent is true or false; or null",
        )

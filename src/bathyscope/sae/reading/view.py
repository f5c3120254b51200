"""From columns to one latent: as a person reads it, and as a flat record. Knows no model."""

from collections.abc import Iterator
from typing import Any, Literal

from bathyscope.sae.reading.activity import edge
from bathyscope.sae.reading.columns import Columns
from bathyscope.sae.reading.examples import Examples
from bathyscope.sae.reading.latent import Example, LatentReading, Neighbour, TokenWeight


def latent_reading(columns: Columns, latent: int) -> LatentReading:
    """One latent.

    Raises:
        UsageError: it was not read.
    """
    row = columns.row(latent)
    label, label_from = columns.label(row)
    rule, counts = columns.rules[row], columns.activity.histogram[row].tolist()
    there = [number for number, count in enumerate(counts) if count]
    near = zip(columns.neighbours.latents[row].tolist(), columns.neighbours.cosines[row].tolist(), strict=True)
    return LatentReading(
        latent=latent,
        label=label,
        label_from=label_from,
        active=sum(counts),
        density=sum(counts) / max(1, columns.activity.n_rows),
        largest=float(columns.activity.largest[row]),
        histogram=tuple((edge(one), counts[one]) for one in range(there[0], there[-1] + 1)) if there else (),
        examples=tuple(examples_of(columns, columns.examples, row)),
        samples=tuple(examples_of(columns, columns.samples, row)),
        promoted=_weights(columns, row, "up"),
        suppressed=_weights(columns, row, "down"),
        neighbours=tuple(Neighbour(*one) for one in near),
        own_cosine=float(columns.neighbours.own[row]),
        rule=rule,
        rule_words=rule.rule.words(columns.text.word) if rule else "",
        description=columns.descriptions.get(latent),
    )


def record(columns: Columns, latent: int) -> dict[str, Any]:
    """One latent as a flat record, with its first example."""
    row = columns.row(latent)
    label, label_from = columns.label(row)
    rule, active = columns.rules[row], int(columns.activity.histogram[row].sum())
    first = next(examples_of(columns, columns.examples, row), None)
    described = columns.descriptions.get(latent)
    return {
        "latent": latent,
        "label": label,
        "label_from": label_from,
        "active": active,
        "density": active / max(1, columns.activity.n_rows),
        "max": float(columns.activity.largest[row]),
        "rule": rule.rule.words(columns.text.word) if rule else None,
        "precision": rule and rule.held_out.precision,
        "recall": rule and rule.held_out.recall,
        "f1": rule and rule.held_out.f1,
        "held_out_active": rule and rule.held_out.active,
        "control_f1": rule and rule.control_f1,
        "promoted": [one.token for one in _weights(columns, row, "up")],
        "suppressed": [one.token for one in _weights(columns, row, "down")],
        "neighbours": columns.neighbours.latents[row].tolist(),
        "own_cosine": float(columns.neighbours.own[row]),
        "example": first and first.marked(),
        "description": described and described.shown,
    }


def examples_of(columns: Columns, examples: Examples, row: int) -> Iterator[Example]:
    """The examples of one latent, the first rank first."""
    after = examples.contexts.shape[2] - examples.before - 1
    for rank, place in enumerate(examples.places[row].tolist()):
        if place < 0:
            continue
        first, stop = columns.text.bounds(place, examples.before, after)
        begin = first - place + examples.before
        yield Example(
            tokens=columns.text.texts(first, stop),
            activations=tuple(examples.contexts[row, rank, begin : begin + stop - first].tolist()),
            peak=place - first,
            activation=float(examples.values[row, rank]),
            score=float(examples.scores[row, rank]),
        )


def _weights(columns: Columns, row: int, side: Literal["up", "down"]) -> tuple[TokenWeight, ...]:
    if columns.promoted is None:
        return ()
    tokens, by = getattr(columns.promoted, side)[row].tolist(), getattr(columns.promoted, f"{side}_by")[row].tolist()
    return tuple(TokenWeight(columns.text.word(token), weight) for token, weight in zip(tokens, by, strict=True))

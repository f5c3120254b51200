"""The table of the attribute-extraction study: from what each sentence gave to one record a relation and layer."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy
from numpy.typing import NDArray

from bathyscope.probing import Folds, Majority, predictions
from bathyscope.readouts import Contains
from bathyscope.studies.attribute_extraction_study.asked import Asked
from bathyscope.studies.attribute_extraction_study.items import Item, RelationItems, subjects_of
from bathyscope.studies.bootstrap import Bootstrap
from bathyscope.studies.paired import Bools, by_subject, cross_fitted, halves, sign_flip

CONTROLS: Final = ("random", "mean", "shuffled", "no_activation")
"""The controls that are a grid, or a row of one, and so have an oracle and a chosen cell as the claim has."""


@dataclass(frozen=True, eq=False)
class Table:
    """What one relation gave.

    Args:
        asked: the call.
        items: those whose object stands in no text that the model was given.
        given: those whose object does.
        right: by measurement whether each text has the object: "patchscope" and `CONTROLS` (items, layers,
            targets), "unpatched" and "prompting" (items,), lenses (items, layers).
        probe: whether the probe is right, (items, layers).
        majority: whether the commonest label of the training folds is, (items,).
        oracle_given: of the items whose object does stand there, whether any layer written at gives it (given, layers).
        folds: of the probe.
    """

    asked: Asked
    relation: RelationItems
    items: tuple[Item, ...]
    given: tuple[Item, ...]
    right: Mapping[str, Bools]
    probe: Bools
    majority: Bools
    oracle_given: Bools
    folds: Folds

    @classmethod
    def of(cls, asked: Asked, relation: RelationItems, found: Sequence[Mapping[str, Any]]) -> Self:
        """From what the relation's portions gave, that of the relation itself first."""
        measured = dict(zip(dict.fromkeys(item.source.text for item in relation.items), found[1:], strict=True))
        items = tuple(item for item in relation.items if not item.given)
        given = tuple(item for item in relation.items if item.given)
        right = _right(asked, items, [measured[item.source.text] for item in items], found[0])
        oracle = numpy.zeros((0, len(asked.layers)), bool)
        if given:
            oracle = _any(_grid(given, [measured[item.source.text] for item in given], "grid"))
        labels, subjects = [item.object for item in items], subjects_of(items)
        k = min(asked.choices.get("folds", 3), len(set(subjects)))
        folds = Folds.by_subject(subjects, labels, k=k, seed=asked.seed)
        rows = [number for number, item in enumerate(relation.items) if not item.given]
        held = {layer: read[rows] for layer, read in asked.held[relation.relation.name].items()}
        truth = numpy.asarray(labels)
        probed = [numpy.asarray(predictions(held[layer], labels, folds)) == truth for layer in asked.layers]
        commonest = numpy.asarray(predictions(held[asked.layers[0]], labels, folds, predictor=Majority))
        return cls(
            asked,
            relation,
            items,
            given,
            right,
            numpy.stack(probed, 1),
            numpy.asarray(commonest == truth, bool),
            oracle,
            folds,
        )

    def records(self, n_relations: int) -> Iterator[dict[str, Any]]:
        """One a layer that is read; `n_relations` are tested."""
        subjects = subjects_of(self.items)
        half = halves(subjects, seed=self.asked.seed)
        numbers = {subject: number for number, subject in enumerate(dict.fromkeys(subjects))}
        bootstrap = Bootstrap.of([numbers[subject] for subject in subjects], seed=self.asked.seed)
        learnable = self.folds.learnable
        for row, layer in enumerate(self.asked.layers):
            chosen = cross_fitted(self.right["patchscope"][:, row], half)
            probe = self.probe[:, row]
            difference = chosen.right.astype(int) - probe
            p = sign_flip(by_subject(difference, subjects))
            record: dict[str, Any] = {
                "relation": self.relation.relation.name,
                "layer": layer,
                "patchscope": _share(chosen.right),
                "patchscope_oracle": _share(_any(self.right["patchscope"][:, row])),
                "probe": _share(probe),
                "control_unpatched": _share(self.right["unpatched"]),
                "control_random": _share(cross_fitted(self.right["random"][:, row], half).right),
                "n": len(self.items),
                "n_classes": len({item.object for item in self.items}),
                "target_layers": [self.asked.targets[place] for place in chosen.chosen],
                "patchscope_minus_probe": float(difference.mean()),
                "patchscope_minus_probe_interval": bootstrap.interval(difference),
                "p": p,
                "p_bonferroni": min(1.0, p * n_relations),
            }
            for name in CONTROLS:
                table = self.right[name][:, row]
                record[f"control_{name}"] = _share(cross_fitted(table, half).right)
                record[f"control_{name}_oracle"] = _share(_any(table))
            record["control_prompting"] = _share(self.right["prompting"])
            for name in ("logit_lens", "tuned_lens"):
                if name in self.right:
                    record[name] = _share(self.right[name][:, row])
            record |= {
                "probe_majority": _share(self.majority),
                "n_learnable": int(learnable.sum()),
                "patchscope_learnable": _share(chosen.right[learnable]),
                "probe_learnable": _share(probe[learnable]),
                "n_answer_in_text": len(self.given),
                "patchscope_oracle_answer_in_text": _share(self.oracle_given[:, row]) if self.given else None,
            }
            yield record

    def summary(self, n_relations: int) -> dict[str, Any]:
        """The means over the layers that are read, and one test of all of them together."""
        subjects, half = subjects_of(self.items), halves(subjects_of(self.items), seed=self.asked.seed)
        records = list(self.records(n_relations))
        rows = range(len(self.asked.layers))
        chosen = numpy.stack([cross_fitted(self.right["patchscope"][:, row], half).right for row in rows], 1)
        p = sign_flip(by_subject((chosen.astype(int) - self.probe).sum(1), subjects))
        means = {
            name: float(numpy.mean([record[name] for record in records]))
            for name, value in records[0].items()
            if isinstance(value, float) and not name.startswith("p_") and name != "p"
        }
        whole = {name: records[0][name] for name in ("n", "n_classes", "n_learnable", "n_answer_in_text")}
        tested = {"p": p, "p_bonferroni": min(1.0, p * n_relations)}
        return {"relation": self.relation.relation.name, **means, **tested, **whole}


def _right(
    asked: Asked, items: Sequence[Item], measured: Sequence[Mapping[str, Any]], relation: Mapping[str, Any]
) -> dict[str, Bools]:
    rows, columns = len(asked.layers), len(asked.targets)
    whole = (len(items), rows, columns)
    found: dict[str, Bools] = {"patchscope": _grid(items, measured, "grid")}
    random = numpy.stack([_hits(item, one["texts"])[one["random"]] for item, one in zip(items, measured, strict=True)])
    found["random"] = numpy.broadcast_to(random[:, None], whole)
    others = _others(items)
    found["shuffled"] = _grid(items, [measured[other] for other in others], "grid")
    hits = [_hits(item, relation["texts"]) for item in items]
    found["mean"] = numpy.stack([one[numpy.asarray(relation["mean"])] for one in hits])
    zeros = numpy.stack([one[relation["no_activation"]] for one in hits])
    found["no_activation"] = numpy.broadcast_to(zeros[:, None], whole)
    found["unpatched"] = numpy.array([one[relation["unpatched"]] for one in hits])
    prompted = [_hits(item, one["texts"])[one["prompting"]] for item, one in zip(items, measured, strict=True)]
    found["prompting"] = numpy.array(prompted)
    for name in ("logit_lens", "tuned_lens"):
        if name in measured[0]:
            found[name] = numpy.array(
                [[item.first_token in ids for ids in one[name]] for item, one in zip(items, measured, strict=True)]
            )
    return found


def _grid(items: Sequence[Item], measured: Sequence[Mapping[str, Any]], name: str) -> Bools:
    """Whether each text of a grid has its item's object, (items, layers, targets)."""
    return numpy.stack(
        [_hits(item, one["texts"])[numpy.asarray(one[name])] for item, one in zip(items, measured, strict=True)]
    )


def _hits(item: Item, texts: Sequence[str]) -> Bools:
    wanted = Contains(item.object)
    return numpy.array([wanted.found_in(text) for text in texts], bool)


def _others(items: Sequence[Item]) -> list[int]:
    """For each item the next one with another object, as a control; itself where all have the same."""
    n = len(items)
    return [
        next((other % n for other in range(row + 1, row + n) if items[other % n].object != item.object), row)
        for row, item in enumerate(items)
    ]


def _any(right: Bools) -> Bools:
    """Whether any target layer is right: the oracle."""
    return numpy.asarray(right.any(-1), bool)


def _share(right: NDArray[Any]) -> float | None:
    return float(right.mean()) if len(right) else None

"""What edge attribution returns: a number for every way from one part of a model to another. Knows no model."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from bathyscope import pages
from bathyscope.readouts import metric_in_words
from bathyscope.results import Result

KEPT = 1000
"""Edges that are listed one by one, the strongest first; the tensor has all."""
SHOWN = 40


@dataclass(frozen=True)
class Edge:
    """One way through the residual stream.

    Args:
        sender: what writes to it: "embed", a head such as "z.5.3", or "mlp_out.5".
        receiver: what reads it: queries, keys or values of a head such as "q.7.1", "mlp_out.7", or "logits".
        attribution: the estimate, in the metric's own unit, positions added up.
        effect: by how much the metric changed when the edge was patched; None where that was not measured.
    """

    sender: str
    receiver: str
    attribution: float
    effect: float | None = None


@dataclass(frozen=True, eq=False)
class EdgeResult(Result):
    """Attributions of all edges.

    Args:
        method: "edges", or "edges-integrated" where gradients were averaged between the two runs.
        metric: the spec of the readout that is explained.
        clean: the one prompt.
        corrupted: the other.
        senders: their names.
        receivers: theirs.
        attributions: (senders, receivers), nan where the receiver reads before the sender writes.
        values: the metric of the runs, by name.
        provenance: model, specification, token ids, versions.
        timing: seconds without loading the model.
    """

    kind: ClassVar[str] = "edges"

    method: str
    metric: Mapping[str, Any]
    clean: str
    corrupted: str
    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    attributions: Tensor
    values: Mapping[str, float]
    provenance: Mapping[str, Any]
    timing: Mapping[str, float]

    @property
    def count(self) -> int:
        """How many edges there are."""
        return int((~self.attributions.isnan()).sum())

    def at(self, sender: str, receiver: str) -> float | None:
        """The attribution of one edge, or None where there is no such edge."""
        found = float(self.attributions[self.senders.index(sender), self.receivers.index(receiver)])
        return None if math.isnan(found) else found

    def sent(self) -> dict[str, float]:
        """For each sender the sum over all its edges, which is its own attribution as a node."""
        return dict(zip(self.senders, self.attributions.nansum(1).tolist(), strict=True))

    def strongest(self, count: int) -> tuple[Edge, ...]:
        """The edges of the largest attributions, by size."""
        sizes = self.attributions.abs().nan_to_num(-1.0).flatten()
        order = sizes.topk(min(count, self.count)).indices.tolist()
        flat, width = self.attributions.flatten(), len(self.receivers)
        return tuple(
            Edge(self.senders[index // width], self.receivers[index % width], float(flat[index])) for index in order
        )

    def rows(self) -> list[dict[str, Any]]:
        """One record an edge, the strongest first, at most `KEPT`."""
        return [asdict(edge) for edge in self.strongest(KEPT)]

    def tensors(self) -> dict[str, Tensor]:
        """All attributions."""
        return {"attributions": self.attributions}

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values, without the tensor of all edges."""
        return {
            "kind": self.kind,
            "method": self.method,
            "metric": dict(self.metric),
            "clean": self.clean,
            "corrupted": self.corrupted,
            "senders": list(self.senders),
            "receivers": list(self.receivers),
            "edges": self.count,
            "rows": self.rows(),
            "values": dict(self.values),
            "provenance": dict(self.provenance),
            "timing": dict(self.timing),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """The result that was saved."""
        return cls(
            method=data["method"],
            metric=data["metric"],
            clean=data["clean"],
            corrupted=data["corrupted"],
            senders=tuple(data["senders"]),
            receivers=tuple(data["receivers"]),
            attributions=tensors["attributions"].to(torch.float64),
            values=data["values"],
            provenance=data["provenance"],
            timing=data["timing"],
        )

    def facts(self) -> dict[str, str]:
        """What was asked and what came out, by name, for people."""
        return {
            "clean": self.clean,
            "corrupted": self.corrupted,
            "model": self.provenance["models"][0]["model"],
            "metric": metric_in_words(self.metric),
            **{
                f"{metric_in_words(self.metric, tokens=False)}, {name}": f"{value:.4f}"
                for name, value in self.values.items()
            },
            "edges": f"{self.count:,} are estimated, and the strongest shown; none is measured",
        }

    def page(self) -> str:
        """A table of the strongest edges."""
        return pages.grid(
            heading=f"{self.method}: the strongest edges",
            facts=self.facts(),
            corner="rank",
            columns=["sender", "receiver", "attribution"],
            rows={
                str(rank): [edge.sender, edge.receiver, f"{edge.attribution:+.4f}"]
                for rank, edge in enumerate(self.strongest(SHOWN), 1)
            },
        )

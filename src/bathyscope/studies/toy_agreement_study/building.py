"""How a graph is measured: what the network and its coder hold in two runs, column by column."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from bathyscope.sae import SparseCoder
from bathyscope.studies.toy_agreement_study.graph import COLUMNS, ERROR, Edge, Graph, Node
from bathyscope.studies.toy_agreement_study.network import AgreementNetwork
from bathyscope.studies.toy_agreement_study.sentences import NUMBERS, VERBS
from bathyscope.studies.toy_agreement_study.stage import Estimates, Stage

RUNS: Final = ("clean", "corrupted")
Step = Callable[[Tensor], Tensor]


def agreement_graph(
    network: AgreementNetwork,
    coder: SparseCoder,
    clean: Tensor,
    corrupted: Tensor,
    *,
    verb: str = "run",
    steps: int = 100,
) -> Graph:
    """The graph of a network and the coder of its hidden units, for two inputs.

    Args:
        network: the network.
        coder: of its hidden units.
        clean: one input, (2,).
        corrupted: the other, whose activations are written into the clean run.
        verb: the metric is this verb's logit less the other's.
        steps: points between the runs for integrated gradients.

    Example:
        >>> import torch
        >>> from bathyscope.studies.toy_agreement_study.building import agreement_graph
        >>> from bathyscope.studies.toy_agreement_study.worked import CODER, NETWORK
        >>> graph = agreement_graph(NETWORK, CODER, *torch.eye(2, dtype=torch.float64))
        >>> graph.total, graph.node("F0").effect, graph.node("H2").clean, graph.node("H2").effect
        (6.0, 4.0, 1.0, 0.0)
    """
    towards = network.towards(verb)
    columns = list(_columns(network, coder, torch.stack([clean, corrupted]), towards))
    nodes, edges = [], []
    for column, following in zip(columns, (*columns[1:], None), strict=True):
        stage = column.stage(following, steps)
        nodes += [
            Node(name=name, column=column.name, **common)
            for name, common in zip(column.nodes, _common(column, stage.nodes(), column.known_nodes()), strict=True)
        ]
        if following is not None:
            ends = [(source, target) for source in column.nodes for target in following.nodes]
            found = _common(column, stage.edges(), column.known_edges())
            edges += [
                Edge(source=one, target=other, **common) for (one, other), common in zip(ends, found, strict=True)
            ]
    before, after = (float(metric) for metric in columns[-1].runs @ towards)
    return Graph(tuple(nodes), tuple(edges), before, after)


@dataclass(frozen=True, eq=False)
class _Column:
    """Nodes side by side.

    Args:
        name: of the column.
        nodes: their names.
        runs: their values in the clean and the corrupted run, (2, width); the last node may have several.
        onward: what makes the next column's values of these, or the same where there is none.
        metric: of this column's values.
        weights: what each value adds to the metric by way of each next node, (width, next nodes), where all that
            follows is linear; else None. With one column, it does not say by way of what.
    """

    name: str
    nodes: tuple[str, ...]
    runs: Tensor
    onward: Step
    metric: Step
    weights: Tensor | None

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many values each node has."""
        single = len(self.nodes) - 1
        return (*(1 for _ in range(single)), self.runs.shape[1] - single)

    def summed(self, values: Tensor) -> Tensor:
        """Values added up within nodes, (width, ...) to (nodes, ...)."""
        return torch.stack([part.sum(0) for part in values.split(self.sizes)])

    def activations(self) -> Tensor:
        """One number a node and run, (2, nodes): its value, or the length of its values."""
        parts = self.runs.split(self.sizes, dim=1)
        return torch.stack([part[:, 0] if part.shape[1] == 1 else part.norm(dim=1) for part in parts], dim=1)

    def stage(self, following: "_Column | None", steps: int) -> Stage:
        """This column and the next; the last one leads to itself."""
        after = following or self
        clean, corrupted = self.runs
        return Stage(clean, corrupted, self.sizes, self.onward, after.sizes, after.metric, steps)

    def known_edges(self) -> Tensor | None:
        """Effects from the weights alone, (nodes, next nodes)."""
        if self.weights is None or self.weights.shape[1] == 1:
            return None
        return self.summed((self.runs[1] - self.runs[0])[:, None] * self.weights)

    def known_nodes(self) -> Tensor | None:
        """The same of nodes, (nodes,)."""
        if self.weights is None:
            return None
        return self.summed((self.runs[1] - self.runs[0]) * self.weights.sum(1))


def _columns(network: AgreementNetwork, coder: SparseCoder, inputs: Tensor, towards: Tensor) -> Iterator[_Column]:
    units = network.units(inputs)
    parts = _taken_apart(coder, units)

    def metric(logits: Tensor) -> Tensor:
        return logits @ towards

    def of_units(values: Tensor) -> Tensor:
        return metric(network.logits(values))

    def logits(values: Tensor) -> Tensor:
        return network.logits(_put_together(coder, values))

    whole = torch.eye(coder.d_out).to(coder.decoder)
    reading = torch.cat([coder.decoder, whole]) @ network.output.T * towards
    latents = (*(f"F{number}" for number in range(coder.n_latents)), ERROR)
    names = tuple(f"H{number}" for number in range(units.shape[1]))
    # Latents and error together are the units themselves, so that all behind the units is linear.
    through = (network.output.T @ towards)[:, None]
    yield _Column(COLUMNS[0], NUMBERS, inputs, network.units, lambda values: of_units(network.units(values)), None)
    yield _Column(COLUMNS[1], names, units, lambda values: _taken_apart(coder, values), of_units, through)
    yield _Column(COLUMNS[2], latents, parts, logits, lambda values: metric(logits(values)), reading)
    yield _Column(COLUMNS[3], VERBS, network.logits(units), lambda values: values, metric, towards[:, None])


def _taken_apart(coder: SparseCoder, units: Tensor) -> Tensor:
    """Latents and what they leave out, (rows, units) to (rows, latents + units)."""
    latents = coder.encode(units).dense()
    return torch.cat([latents, units - latents @ coder.decoder - coder.decoder_bias], dim=1)


def _put_together(coder: SparseCoder, parts: Tensor) -> Tensor:
    """What `_taken_apart` took apart, whole again."""
    latents, error = parts.split([coder.n_latents, coder.d_out], dim=1)
    return latents @ coder.decoder + coder.decoder_bias + error


def _common(column: _Column, found: Estimates, known: Tensor | None) -> Iterator[dict[str, Any]]:
    """The arguments of `Part`, a node or an edge after the other."""
    per_node = found.effect[0].numel()
    told = {name: run.repeat_interleave(per_node) for name, run in zip(RUNS, column.activations(), strict=True)}
    told |= vars(found) if known is None else {**vars(found), "closed_form": known}
    values = {name: one.flatten().tolist() for name, one in told.items()}
    for row in zip(*values.values(), strict=True):
        yield {"closed_form": None, **dict(zip(values, row, strict=True))}

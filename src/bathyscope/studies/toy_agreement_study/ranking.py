"""Whether what is most active is what has the effect: the order that a picture of activations gives, checked."""

from collections.abc import Iterator
from typing import Any, Final

from bathyscope.attribution.ranks import rank_correlation
from bathyscope.studies.toy_agreement_study.graph import COLUMNS, Graph

RANKED: Final = COLUMNS[1:3]
"""Hidden units, and latents with the error."""


def rankings(graph: Graph) -> Iterator[dict[str, Any]]:
    """Of each column the order by activation beside that by effect.

    Args:
        graph: the graph.

    Returns:
        A record a column, over the nodes that are active in a run: the "most_active" one and its "effect", the one of
        largest effect ("strongest") and its "strongest_effect", the "rank_correlation" of activation and size of
        effect (None for fewer than three nodes), and which are "idle": active, without effect.

    Example:
        >>> import torch
        >>> from bathyscope.studies.toy_agreement_study.building import agreement_graph
        >>> from bathyscope.studies.toy_agreement_study.ranking import rankings
        >>> from bathyscope.studies.toy_agreement_study.worked import CODER, NETWORK
        >>> units, latents = rankings(agreement_graph(NETWORK, CODER, *torch.eye(2, dtype=torch.float64)))
        >>> units["most_active"], units["effect"], units["idle"]
        ('H2', 0.0, ['H2'])
    """
    for column in RANKED:
        active = [node for node in graph.column(column) if node.activation > 0]
        if active:
            first = max(active, key=lambda node: node.activation)
            strongest = max(active, key=lambda node: abs(node.effect))
            yield {
                "column": column,
                "n": len(active),
                "most_active": first.name,
                "effect": first.effect,
                "strongest": strongest.name,
                "strongest_effect": strongest.effect,
                "rank_correlation": rank_correlation(
                    [node.activation for node in active], [abs(node.effect) for node in active]
                ),
                "idle": [node.name for node in active if not graph.has_effect(node)],
            }

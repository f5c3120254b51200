"""Path patching to the logits, linearised: the final norm's scale is held at the corrupted run's.

This is what tools that divide by a cached norm compute (TransformerLens's direct path patching among them). It is no
measurement: `causal.path_patching` runs the model, and here is how far the shortcut is from it.
"""

from dataclasses import dataclass

from bathyscope.attribution.direct import Tail, part_sites, residual_parts
from bathyscope.causal.pairs import pair
from bathyscope.forward import capture
from bathyscope.model import Model, Prompt
from bathyscope.readouts import Logit, LogitDiff
from bathyscope.sites import Site


@dataclass(frozen=True)
class LinearisedPath:
    """What a sender would do to the logits if the final norm did not answer.

    Args:
        site: the sender.
        attribution: its clean output less its corrupted one, at the last token, through the held norm to the metric.
    """

    site: str
    attribution: float


def linearised_path_patching(
    model: Model, clean: Prompt, corrupted: Prompt, metric: Logit | LogitDiff, *, heads: bool = True
) -> tuple[LinearisedPath, ...]:
    """Estimate each component's direct effect on the logits with the final norm's scale held.

    Args:
        model: the model.
        clean: the prompt whose answer is right.
        corrupted: one of as many tokens, whose answer is another.
        metric: a logit, or a difference of two.
        heads: whether each head is a sender by itself.

    Returns:
        One a sender: the embedding, heads or attentions, MLPs; their sum is the metric's change at the held scale.

    Raises:
        UsageError: prompts of different lengths, or a metric or norm that is not linear.

    Example:
        >>> import bathyscope
        >>> from bathyscope.attribution import linearised_path_patching
        >>> from bathyscope.readouts import LogitDiff
        >>> found = linearised_path_patching(bathyscope.load(), "The boats", "The boat", LogitDiff(" they", " it"))
        >>> max(found, key=lambda path: path.attribution).site.split(".")[0] in ("mlp_out", "z", "embed")
        True
    """
    asked = pair(model, clean, corrupted, metric)
    sites, at = part_sites(model, heads=heads), len(asked.clean) - 1
    one, other = (capture(model, tokens, sites) for tokens in (asked.clean, asked.corrupted))
    tail = Tail.of(model, metric, other[Site("resid_post", model.n_layers - 1)][0][at])
    before = {(site, part): value for site, part, value in residual_parts(model, other, at)}
    return tuple(
        LinearisedPath(str(site), tail.share(value - before[site, part]))
        for site, part, value in residual_parts(model, one, at)
        if not part
    )

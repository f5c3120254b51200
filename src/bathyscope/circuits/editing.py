"""Editing: a model some of whose latents are set to a value, beside what their attributions said that this would do.

A person who judges that a feature has no place in a decision takes it out, and sees what the model does then (SHIFT,
arXiv 2403.19647). All other latents are kept, and so are errors, unless one of them is what is taken out.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bathyscope.circuits.attributions import STEPS, mean_gradient
from bathyscope.circuits.edit_result import Change, EditResult
from bathyscope.circuits.edited_texts import edited_loss, edited_writing
from bathyscope.circuits.ends import Ends, blocks
from bathyscope.circuits.examples import Examples
from bathyscope.circuits.features import Latents, flat
from bathyscope.circuits.placing import coder_site
from bathyscope.circuits.runs import Watch, measured
from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import UsageError
from bathyscope.generation import Progress
from bathyscope.interventions import Write
from bathyscope.model import Model
from bathyscope.results import provenance
from bathyscope.sae import Edit, SparseCoder, Splice
from bathyscope.sites import EMBEDDING_LAYER, Site
from bathyscope.starts import Start, read_starts, start_layer
from bathyscope.texts import Texts

DRAWS = 5
"""Sets of other latents that are set in the same way, for comparison."""
BACKWARD = 3
"""What a pass with gradients takes, in passes without."""


def edit_features(  # noqa: PLR0913 (what is changed, and what it is measured on)
    model: Model,
    coders: Sequence[SparseCoder],
    changes: Sequence[Change],
    examples: Examples,
    *,
    texts: Texts | None = None,
    n_tokens: int = 8192,
    prompts: Sequence[str] = (),
    new_tokens: int = 20,
    steps: int = STEPS,
    seed: int = 0,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> EditResult:
    """Set latents to values, and measure what becomes of pairs, of a text, and of what the model writes.

    Args:
        model: the model.
        coders: autoencoders of the sites that are changed.
        changes: what is set.
        examples: pairs; their clean prompts are run.
        texts: what the loss is measured on; changes of one position are left out there.
        n_tokens: at most so many tokens of it.
        prompts: what the model goes on with; changes of one position are left out there, too.
        new_tokens: at most so many tokens of each.
        steps: points between the runs for integrated gradients, of which the prediction is made.
        seed: of which other latents are set for comparison.
        progress: called with what is done and what there is to do.
        stop: looked at before every pass.

    Raises:
        UsageError: no change, a site without a coder, a latent or a position that is not there.
        CancelledError: `stop` said so.
    """
    began = time.perf_counter()
    editor = Editor(coders, examples, steps=steps)
    editor.check(changes)
    everywhere = editor.writes([one for one in changes if one.position is None])
    if not everywhere and (texts is not None or prompts):
        raise UsageError(
            "a text or a prompt was given, and all changes are at one position of the pairs",
            "a change without a position is made everywhere",
            str(replace(changes[0], position=None)).partition(" ")[0],
        )
    found = editor.edit(changes, seed=seed, progress=progress, stop=stop)
    spec = {**found.provenance["spec"], "text": None if texts is None else texts.describe()}
    return replace(
        found,
        loss={} if texts is None else edited_loss(model, texts, n_tokens, everywhere),
        written=tuple(edited_writing(model, prompts, new_tokens, everywhere)),
        provenance={**found.provenance, "spec": spec},
        timing={"seconds": round(time.perf_counter() - began, 4)},
    )


class Editor:
    """Latents set to values on the same pairs, again and again: what no edit changes is found once, and kept.

    That is what the pairs are without an edit and where they can be run from; and, of each site that was ever changed,
    the gradients that predictions are made of, which are most of the work of a first edit.

    Args:
        coders: autoencoders of the sites that may be changed.
        examples: pairs, and the model; their clean prompts are run.
        steps: points between the runs for integrated gradients, of which predictions are made.

    Raises:
        UsageError: a coder for other weights.

    Example:
        >>> import torch
        >>> import bathyscope
        >>> from bathyscope.causal.pairs import pair
        >>> from bathyscope.circuits import Change, Editor, Examples
        >>> from bathyscope.readouts import LogitDiff
        >>> from bathyscope.sae import KeepAbove, SparseCoder
        >>> model = bathyscope.load()
        >>> one, nothing, site = torch.eye(model.d_model), torch.zeros(model.d_model), model.site("resid_post.1")
        >>> coder = SparseCoder(one, nothing, one, nothing, KeepAbove(torch.tensor(0.0)), site=site, target=site)
        >>> pairs = Examples(model, [pair(model, "The boats", "The boat", LogitDiff(" they", " it"))])
        >>> found = Editor([coder], pairs, steps=2).edit([Change("resid_post.1", 3, position=1)])
        >>> len(found.changes), len(found.controls)
        (1, 5)
    """

    def __init__(self, coders: Sequence[SparseCoder], examples: Examples, *, steps: int = STEPS) -> None:
        self._model, self._examples, self._steps = examples.model, examples, steps
        self._coders = {coder_site(self._model, coder): coder for coder in coders}
        self._starts: dict[int, Start] = {}
        self._sites: dict[Site, _Linear] = {}
        self._plain: Tensor | None = None

    def edit(
        self,
        changes: Sequence[Change],
        *,
        seed: int = 0,
        progress: Progress | None = None,
        stop: Stop | None = None,
    ) -> EditResult:
        """Make changes, each alone and all together.

        Args:
            changes: what is set.
            seed: of which other latents are set for comparison.
            progress: called with what is done and what there is to do.
            stop: looked at before every pass.

        Returns:
            What `edit_features` returns without a text and without a prompt.

        Raises:
            UsageError: no change, a site without a coder, a latent or a position that is not there.
            CancelledError: `stop` said so; what was found until then is kept for the next edit.
        """
        began = time.perf_counter()
        by_site = self.check(changes)
        alone = [[one] for one in changes] if len(changes) > 1 else []
        n, unknown = len(self._examples), sum(site not in self._sites for site in by_site)
        passes = (self._plain is None) + 1 + len(alone) + DRAWS
        work = _Work(n * (passes + unknown * BACKWARD * self._steps), progress, stop)
        plain = self._without(work)
        predicted, active = self._predicted(by_site, changes, work)
        others = [_others(changes, active, seed * DRAWS + draw) for draw in range(DRAWS)]
        edited = self._with(changes, work)
        each = [float((self._with(one, work) - plain).mean()) for one in alone] or [float((edited - plain).mean())]
        controls = [float((self._with(one, work) - plain).mean()) for one in others]
        rows = [
            {"change": str(one), "predicted": expected, "measured": measure}
            for one, expected, measure in zip(changes, predicted, each, strict=True)
        ]
        spec = {
            "changes": list(map(str, changes)),
            "coders": {str(site): self._coders[site].fingerprint for site in by_site},
            "pairs": n,
            "steps": self._steps,
            "seed": seed,
            "text": None,
        }
        return EditResult(
            changes=tuple(rows),
            before=_told(plain, self._examples),
            after=_told(edited, self._examples),
            controls=tuple(controls),
            loss={},
            written=(),
            provenance=provenance([self._model.provenance()], spec),
            timing={"seconds": round(time.perf_counter() - began, 4)},
        )

    def writes(self, changes: Sequence[Change]) -> list[Write]:
        """One splice a site and position: latents are read once, before any of them is set."""
        together: dict[tuple[Site, int | None], list[Change]] = {}
        for one in changes:
            together.setdefault((self._model.site(one.site), one.position), []).append(one)
        found = []
        for (site, position), ones in together.items():
            edits = [Edit(one.latent, "clamp", one.value) for one in ones if one.latent is not None]
            error = "keep" if all(one.latent is not None for one in ones) else "drop"
            found.append(Splice(self._coders[site], error, edits).write(self._model, position=position))
        return found

    def check(self, changes: Sequence[Change]) -> list[Site]:
        """The sites that are changed.

        Raises:
            UsageError: no change, a site without a coder, a latent or a position that is not there.
        """
        if not changes:
            raise UsageError("no change was given", "at least one latent to set", "resid_post.12/281")
        found, there, length = [], self._coders, self._examples.length
        for one in changes:
            given, site = f"{one} was asked for", self._model.site(one.site)
            if site not in there:
                raise UsageError(given, f"there are coders of {', '.join(map(str, there)) or 'no site'}")
            if one.latent is not None and one.latent >= there[site].n_latents:
                raise UsageError(given, f"the coder has latents 0 to {there[site].n_latents - 1}")
            if one.position is not None and one.position >= length:
                raise UsageError(given, f"the pairs have positions 0 to {length - 1}")
            found.append(site)
        return list(dict.fromkeys(found))

    def _start(self, layer: int) -> Start:
        if layer not in self._starts:
            self._starts |= read_starts(self._model, self._examples.clean, [layer])[0]
        return self._starts[layer]

    def _without(self, work: "_Work") -> Tensor:
        """The pairs' logit differences, (pairs,)."""
        if self._plain is None:
            asked = self._model, self._examples.clean, self._examples.answers
            self._plain = measured(*asked, self._start(EMBEDDING_LAYER), watch=work.watch())
        return self._plain

    def _with(self, changes: Sequence[Change], work: "_Work") -> Tensor:
        """The same under changes, run from below the lowest of them."""
        sites = [self._model.site(one.site) for one in changes]
        # A write at the residual stream itself needs the block that it stands behind.
        below = [start_layer(self._model, site) - (site.component == "resid_post") for site in sites]
        start = self._start(max(EMBEDDING_LAYER, min(below, default=EMBEDDING_LAYER)))
        asked = self._model, self._examples.clean, self._examples.answers
        return measured(*asked, start, self.writes(changes), work.watch())

    def _predicted(
        self, sites: Sequence[Site], changes: Sequence[Change], work: "_Work"
    ) -> tuple[list[float], list[list[int]]]:
        """What attributions say of each change, and which latents are active where it is made."""
        predicted, active = {}, {}
        for site in sites:
            if site not in self._sites:
                self._sites[site] = self._linear(site, work.watch(BACKWARD))
            own = [number for number, one in enumerate(changes) if self._model.site(one.site) == site]
            for number, (expected, there) in zip(
                own, self._sites[site].predicted([changes[number] for number in own]), strict=True
            ):
                predicted[number], active[number] = expected, there
        return [predicted[number] for number in range(len(changes))], [active[number] for number in range(len(changes))]

    def _linear(self, site: Site, watch: Watch) -> "_Linear":
        examples, basis, layer = self._examples, Latents(self._coders[site]), start_layer(self._model, site)
        starts, clean = read_starts(self._model, examples.clean, [layer], [site])
        _, corrupted = read_starts(self._model, examples.corrupted, [EMBEDDING_LAYER], [site])
        ends = Ends(basis, flat(clean[site], basis, site), flat(corrupted[site], basis, site), "corrupted")
        return _Linear(basis, ends.clean, mean_gradient(examples, site, ends, starts[layer], self._steps, watch))


@dataclass(frozen=True, eq=False)
class _Linear:
    """What predictions of a site's changes are made of.

    Args:
        basis: its latents.
        clean: what it holds in the clean runs, (pairs, positions, width).
        gradient: the metric's mean gradient on the way from the corrupted runs, likewise.
    """

    basis: Latents
    clean: Tensor
    gradient: Tensor

    def predicted(self, changes: Sequence[Change]) -> list[tuple[float, list[int]]]:
        """What becomes of the mean logit difference by each change, and which latents are active where it is made."""
        sums = torch.zeros(len(changes), dtype=torch.float64)
        active = torch.zeros(self.clean.shape[1], self.basis.n_features, dtype=torch.bool)
        for rows in blocks(len(self.clean)):  # latents of all pairs would be many times what is kept
            parts, slopes = self.basis.split(self.clean[rows]), self.gradient[rows]
            active |= (parts.features != 0).any(0).cpu()
            for number, one in enumerate(changes):
                where = _where(one)
                if one.latent is None:
                    moved = -(slopes[:, where] * parts.error[:, where])
                else:
                    pulled = slopes[:, where] @ self.basis.coder.decoder[one.latent].to(slopes)
                    moved = pulled * (one.value - parts.features[:, where, one.latent])
                sums[number] += float(moved.double().sum())
        means = (sums / len(self.clean)).tolist()
        return [
            (mean, active[_where(one)].any(0).nonzero().flatten().tolist())
            for mean, one in zip(means, changes, strict=True)
        ]


class _Work:
    """How much of an edit is done, in prompts that were run; it ends where somebody says so."""

    def __init__(self, of: int, progress: Progress | None, stop: Stop | None) -> None:
        self._of, self._progress, self._stop, self._done = of, progress, stop, 0

    def watch(self, weight: int = 1) -> Watch:
        def look(done: int) -> None:
            if self._stop is not None and (self._stop.now or self._stop.soon):
                raise CancelledError("the edit was stopped", f"{self._done / self._of:.0%} of its runs were done")
            self._done += weight * done
            if self._progress is not None and done:
                self._progress(min(self._done, self._of), self._of)

        return look


def _where(change: Change) -> slice:
    return slice(None) if change.position is None else slice(change.position, change.position + 1)


def _others(changes: Sequence[Change], active: Sequence[Sequence[int]], seed: int) -> list[Change]:
    """The same changes of other latents that are active where these are made: of silent ones they would say nothing.

    What stands beside an error is such a latent, too, taken away.
    """
    generator = torch.Generator().manual_seed(seed)
    own = {(one.site, one.latent) for one in changes}
    found = []
    for one, there in zip(changes, active, strict=True):
        pool = [latent for latent in there if (one.site, latent) not in own]
        if pool:
            drawn = pool[int(torch.randint(len(pool), (1,), generator=generator))]
            found.append(replace(one, latent=drawn))
    return found


def _told(values: Tensor, examples: Examples) -> dict[str, Any]:
    """Mean and accuracy of pairs, and by case."""
    rows: Mapping[str, list[int]] = {
        case: [row for row, one in enumerate(examples.cases) if one == case] for case in dict.fromkeys(examples.cases)
    }
    return {
        "logit_difference": float(values.mean()),
        "accuracy": float((values > 0).double().mean()),
        "by_case": {
            case: [float(values[own].mean()), float((values[own] > 0).double().mean())] for case, own in rows.items()
        },
    }

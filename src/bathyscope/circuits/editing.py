"""Editing: a model some of whose latents are set to a value, beside what their attributions said that this would do.

A person who judges that a feature has no place in a decision takes it out, and sees what the model does then (SHIFT,
arXiv 2403.19647). Errors are kept, and so are all other latents.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bathyscope.circuits.attributions import feature_attributions
from bathyscope.circuits.edit_result import Change, EditResult
from bathyscope.circuits.examples import Examples
from bathyscope.circuits.features import Basis, Latents
from bathyscope.circuits.placing import coder_site
from bathyscope.circuits.runs import measured
from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import UsageError
from bathyscope.forward import run
from bathyscope.generation import Progress, generate
from bathyscope.interventions import Write
from bathyscope.model import Model, Tokens
from bathyscope.results import provenance
from bathyscope.sae import Edit, SparseCoder, Splice
from bathyscope.sae.evaluate import batches
from bathyscope.sites import EMBEDDING_LAYER, Site
from bathyscope.starts import read_starts
from bathyscope.texts import Texts, windows

ROWS = 8
"""Windows of a text that are run together: their logits are all held."""
DRAWS = 5
"""Sets of other latents that are set in the same way, for comparison."""


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
    steps: int = 8,
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
        progress: called with the runs that are done and all of them.
        stop: looked at between sites and between runs.

    Raises:
        UsageError: no change, a site without a coder, a latent or a position that is not there.
        CancelledError: `stop` said so.
    """
    began = time.perf_counter()
    by_site = _checked(model, coders, changes, examples)
    everywhere = _writes(model, by_site, [one for one in changes if one.position is None])
    if not everywhere and (texts is not None or prompts):
        raise UsageError(
            "a text or a prompt was given, and all changes are at one position of the pairs",
            "a change without a position is made everywhere",
            str(replace(changes[0], position=None)).partition(" ")[0],
        )
    bases: dict[Site, Basis] = {site: Latents(coder) for site, coder in by_site.items()}
    predicted, active = _predicted(examples, bases, changes, steps, stop)
    others = [_others(changes, active, seed * DRAWS + draw) for draw in range(DRAWS)]
    runs = [[], changes, *([one] for one in changes), *others]
    found = []
    for done, one in enumerate(runs, 1):
        if stop is not None and (stop.now or stop.soon):
            raise CancelledError("the edit was stopped", f"{done - 1} of {len(runs)} runs are done")
        found.append(_differences(model, examples, _writes(model, by_site, one)))
        if progress is not None:
            progress(done, len(runs))
    plain, edited, rest = found[0], found[1], [float((one - found[0]).mean()) for one in found[2:]]
    rows = [
        {"change": str(one), "predicted": expected, "measured": measure}
        for one, expected, measure in zip(changes, predicted, rest, strict=False)
    ]
    spec = {
        "changes": list(map(str, changes)),
        "coders": {str(site): coder.fingerprint for site, coder in by_site.items()},
        "pairs": len(examples),
        "steps": steps,
        "seed": seed,
        "text": None if texts is None else texts.describe(),
    }
    return EditResult(
        changes=tuple(rows),
        before=_told(plain, examples),
        after=_told(edited, examples),
        controls=tuple(rest[len(changes) :]),
        loss={} if texts is None else _loss(model, texts, n_tokens, everywhere),
        written=tuple(_written(model, prompts, new_tokens, everywhere)),
        provenance=provenance([model.provenance()], spec),
        timing={"seconds": round(time.perf_counter() - began, 4)},
    )


def _writes(model: Model, coders: Mapping[Site, SparseCoder], changes: Sequence[Change]) -> list[Write]:
    """One splice a site and position: latents are read once, before any of them is set."""
    together: dict[tuple[Site, int | None], list[Edit]] = {}
    for one in changes:
        edit = Edit(one.latent, "clamp", one.value)
        together.setdefault((model.site(one.site), one.position), []).append(edit)
    return [
        Splice(coders[site], edits=edits).write(model, position=position)
        for (site, position), edits in together.items()
    ]


def _differences(model: Model, examples: Examples, writes: Sequence[Write]) -> Tensor:
    """The pairs' logit differences under writes, (pairs,)."""
    start = read_starts(model, examples.clean, [EMBEDDING_LAYER])[0][EMBEDDING_LAYER]
    return measured(model, examples.clean, examples.answers, start, writes)


def _checked(
    model: Model, coders: Sequence[SparseCoder], changes: Sequence[Change], examples: Examples
) -> dict[Site, SparseCoder]:
    """The coder of each site that is changed."""
    if not changes:
        raise UsageError("no change was given", "at least one latent to set", "resid_post.12/281")
    there = {coder_site(model, coder): coder for coder in coders}
    found = {}
    for one in changes:
        site = model.site(one.site)
        if site not in there:
            raise UsageError(f"{one} was asked for", f"there are coders of {', '.join(map(str, there)) or 'no site'}")
        if one.latent >= there[site].n_latents:
            raise UsageError(f"{one} was asked for", f"the coder has latents 0 to {there[site].n_latents - 1}")
        if one.position is not None and one.position >= examples.length:
            raise UsageError(f"{one} was asked for", f"the pairs have positions 0 to {examples.length - 1}")
        found[site] = there[site]
    return found


def _predicted(
    examples: Examples, bases: Mapping[Site, Basis], changes: Sequence[Change], steps: int, stop: Stop | None
) -> tuple[list[float], list[list[int]]]:
    """What attributions say of each change, and which latents are active where it is made."""
    found = feature_attributions(examples, bases, steps=steps, stop=stop)
    values = {site: basis.features(found.ends[site].clean) for site, basis in bases.items()}
    pulled = {site: basis.pulled(found.gradients[site]) for site, basis in bases.items()}
    predicted, active = [], []
    for one in changes:
        site = examples.model.site(one.site)
        where = slice(None) if one.position is None else slice(one.position, one.position + 1)
        change = one.value - values[site][:, where, one.latent]
        predicted.append(float((pulled[site][:, where, one.latent] * change).sum(1).mean()))
        active.append((values[site][:, where] != 0).any(0).any(0).nonzero().flatten().tolist())
    return predicted, active


def _others(changes: Sequence[Change], active: Sequence[Sequence[int]], seed: int) -> list[Change]:
    """The same changes of other latents that are active where these are made: of silent ones they would say nothing."""
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
    rows = {
        case: [row for row, one in enumerate(examples.cases) if one == case] for case in dict.fromkeys(examples.cases)
    }
    return {
        "logit_difference": float(values.mean()),
        "accuracy": float((values > 0).double().mean()),
        "by_case": {
            case: [float(values[own].mean()), float((values[own] > 0).double().mean())] for case, own in rows.items()
        },
    }


def _loss(model: Model, texts: Texts, n_tokens: int, writes: Sequence[Write]) -> dict[str, float]:
    """Mean cross-entropy of the next token, without and with writes, nats."""
    sums, count = [0.0, 0.0], 0
    for block in batches(_first(windows(model, texts, length=min(128, model.max_length or 128)), n_tokens), ROWS):
        for number, wanted in enumerate(((), writes)):
            for window, logits in zip(block, run(model, block, writes=wanted).logits, strict=True):
                targets = torch.tensor(window.ids[1:], device=logits.device)
                loss = torch.nn.functional.cross_entropy(logits[:-1].float(), targets, reduction="sum")
                sums[number] += float(loss)
        count += sum(len(window) - 1 for window in block)
    if not count:
        raise UsageError("the text has no window of two tokens", "a longer text is needed")
    return {"before": sums[0] / count, "after": sums[1] / count, "tokens": count}


def _first(found: Iterator[Tokens], n_tokens: int) -> Iterator[Tokens]:
    """Windows until these many tokens have been predicted."""
    count = 0
    for window in found:
        if count >= n_tokens:
            return
        count += len(window) - 1
        yield window


def _written(model: Model, prompts: Sequence[str], new_tokens: int, writes: Sequence[Write]) -> list[dict[str, str]]:
    found = []
    for prompt in prompts:
        texts = [generate(model, prompt, max_new_tokens=new_tokens, writes=one)[0].text for one in ((), writes)]
        found.append({"prompt": prompt, "before": texts[0], "after": texts[1]})
    return found

"""`bathyscope attribute`: what each part of a model adds to an answer, as heat maps, JSON or a page."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bathyscope.cli import attributions, choices, effects, options, terminal
from bathyscope.cli.opening import open_model
from bathyscope.cli.options import attribution, causal
from bathyscope.cli.stopping import stoppable
from bathyscope.errors import UsageError

if TYPE_CHECKING:
    from bathyscope.model import Model
    from bathyscope.readouts import Metric

TAKES = {
    "direct": {"--at"},
    "attribution-patching": {"--site", "--layers", "--direction", "--measure"},
    "integrated-gradients": {"--site", "--layers", "--direction", "--measure", "--steps"},
    "edges": {"--direction", "--steps"},
}
"""Options that only some methods take."""
MEASURED = "100"


def command(
    clean: attribution.Clean = None,
    corrupted: attribution.Corrupted = None,
    *,
    method: attribution.Method = None,
    answer: causal.Answer = None,
    wrong_answer: causal.WrongAnswer = None,
    pairs: attribution.PairsFile = None,
    at: attribution.At = "last",
    site: causal.SiteNames = None,
    layers: options.Layers = None,
    direction: causal.Direction = "denoising",
    steps: attribution.Steps = None,
    measure: attribution.Measure = MEASURED,
    top: attribution.Strongest = 10,
    model: options.ModelName = None,
    revision: options.Revision = None,
    dtype: options.Dtype = None,
    attention: options.Attention = None,
    as_json: options.AsJson = False,
    out: options.Out = None,
    debug: options.Debug = False,
) -> None:
    """Estimate what each part of a model adds to its answer.

    An attribution is an estimate, from one gradient or a few, or from the
    last linear step alone. An effect is measured: the part is written, and
    the model run. Both stand side by side, with their rank correlation.

    Methods:
      direct                what each head and MLP adds to the logit itself
      attribution-patching  what writing each part from CLEAN into CORRUPTED
                            would change, to first order
      integrated-gradients  the same, averaged on the way between the runs
      edges                 what each part tells each later part (EAP), and
                            with --steps EAP-IG

    Examples:
      bathyscope attribute "The boats of the city" --answer are --wrong-answer is
      bathyscope attribute "The boats" "The boat" --answer are --wrong-answer is --site z
      bathyscope attribute "The boats" "The boat" --answer are --wrong-answer is --method integrated-gradients
      bathyscope attribute "The boats" "The boat" --answer are --wrong-answer is --method edges --out edges.html
    """
    del debug  # its callback has done the work
    name = _method(clean, corrupted, method, pairs)
    given = {"--at": at != "last", "--site": site, "--layers": layers, "--direction": direction != "denoising"}
    given |= {"--steps": steps, "--measure": measure != MEASURED}
    _check_taken(name, given, pairs)
    count = _count(measure)
    prompts = tuple(one for one in (clean, corrupted) if one is not None)
    effects.check(prompts, (answer, wrong_answer), layers, revision, model, out)
    if site:
        from bathyscope.attribution.options import check_attributed

        check_attributed(site)
    shown = terminal.may_animate(as_json=as_json)
    read = open_model(model, revision=revision, dtype=dtype, attention=attention, shown=shown)
    notes: tuple[str, ...] = ()
    with terminal.progress(name, shown=shown) as tick, stoppable() as stop:
        if pairs is not None:
            result = _many(read, pairs, layers, steps, tick)
        else:
            assert clean is not None
            told = effects.measured(read, clean, answer, wrong_answer, probability=False)
            notes = told.notes
            common: dict[str, Any] = {"direction": direction, "progress": tick, "stop": stop}
            nodes = {**common, "sites": site or "resid_post", "layers": layers or "all", "measure": count}
            asked = {
                "direct": {"position": choices.position(at)},
                "attribution-patching": nodes,
                "integrated-gradients": {**nodes, **({"steps": steps} if steps else {})},
                "edges": {**common, "steps": steps},
            }
            result = _run(name, read, clean, corrupted, told.metric, asked[name])
    for note in notes:
        terminal.note(note)
    attributions.show_or_save(result, as_json=as_json, out=out, top=top)


def _run(
    name: str, model: "Model", clean: str, corrupted: str | None, metric: "Metric", asked: dict[str, Any]
) -> "attributions.Shown":
    from bathyscope import attribution as methods
    from bathyscope.readouts import Logit, LogProbability

    if name == "direct":
        linear = Logit(metric.token) if isinstance(metric, LogProbability) else metric
        return methods.direct_logit_attribution(model, clean, linear, **asked)  # type: ignore[arg-type]
    assert corrupted is not None
    functions = {
        "attribution-patching": methods.attribution_patching,
        "integrated-gradients": methods.integrated_gradients,
        "edges": methods.edge_attribution,
    }
    return functions[name](model, clean, corrupted, metric, **asked)


def _many(model: "Model", path: Path, layers: str | None, steps: int | None, tick: Any) -> "attributions.Shown":
    from bathyscope.attribution import completeness, load_pairs
    from bathyscope.attribution.integrated import STEPS

    with choices.refusing():
        found = load_pairs(model, path)
    if found.left_out:
        terminal.note(
            f"{len(found.pairs)} pairs; {found.left_out} others have prompts of different lengths, or answers of "
            "several tokens, and were left out"
        )
    return completeness(model, found.pairs, layers=layers or "all", steps=steps or STEPS, progress=tick)


def _method(clean: str | None, corrupted: str | None, method: str | None, pairs: Path | None) -> str:
    """The method that is meant.

    Raises:
        UsageError: the prompts are not those that it needs.
    """
    if pairs is not None:
        if clean is not None or method not in (None, "integrated-gradients"):
            given = clean if clean is not None else f"--method {method}"
            raise UsageError(
                f"--pairs was given with {given!r}", "it asks whether integrated gradients add up", "alone"
            )
        return "integrated-gradients"
    if clean is None:
        raise UsageError(
            "no prompt was given", "at least one is needed", 'bathyscope attribute "The keys to the cabinet"'
        )
    name = method or ("direct" if corrupted is None else "attribution-patching")
    if (name == "direct") != (corrupted is None):
        raise UsageError(
            f"--method {name} was given {'one prompt' if corrupted is None else 'two prompts'}",
            "direct reads one prompt, the other methods compare two",
            "--method direct" if corrupted is None else "--method attribution-patching",
        )
    return name


def _check_taken(name: str, given: dict[str, Any], pairs: Path | None) -> None:
    """Refuse an option that the method does not take."""
    takes = {"--layers", "--steps"} if pairs is not None else TAKES[name]
    for option, value in given.items():
        if value and option not in takes:
            raise UsageError(
                f"{option} was given to {'--pairs' if pairs is not None else name}",
                f"it takes {', '.join(sorted(takes))}",
                "bathyscope attribute --help",
            )


def _count(measure: str) -> int | None:
    if measure == "all":
        return None
    if not measure.isascii() or not measure.isdigit() or len(measure) > 9:
        raise UsageError(f"--measure {measure} was given", "a number, or all", "--measure 100")
    return int(measure)

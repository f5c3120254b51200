"""What `patch`, `trace` and `knockout` share: the token that is measured, how they run, how effects are shown."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bathyscope.cli import choices, signed, terminal
from bathyscope.cli.opening import opened
from bathyscope.cli.showing import show_or_save
from bathyscope.cli.stopping import stoppable
from bathyscope.signed_maps import number

if TYPE_CHECKING:
    from bathyscope.causal import CausalResult
    from bathyscope.model import Model
    from bathyscope.readouts import Metric

STRONGEST = 5


def check(
    prompts: "tuple[str, ...]",
    answers: "tuple[str | None, ...]",
    layers: str | None,
    revision: str | None,
    model: str | None,
    out: Path | None,
) -> None:
    """Refuse what can be refused without a model."""
    for prompt in prompts:
        choices.check_text(prompt)
    if given := [answer for answer in answers if answer is not None]:
        from bathyscope.readouts.tokens import check_answer

        for answer in given:
            check_answer(answer)
    choices.check_revision(revision, model)
    if layers is not None:
        choices.check_layers(layers, "--layers")
    if out is not None:
        choices.check_out(out, ".json", ".html")
        choices.check_writable(out.parent)


@dataclass(frozen=True)
class Asked:
    """What is measured.

    Args:
        metric: of the next token.
        notes: where that is not the very text that was typed.
    """

    metric: "Metric"
    notes: tuple[str, ...]


def measured(model: "Model", prompt: str, answer: str | None, wrong: str | None, *, probability: bool) -> Asked:
    """The difference of two logits, or one token's probability or its logarithm.

    Raises:
        UsageError: an answer without a character that is seen.
    """
    from bathyscope.readouts import LogitDiff, LogProbability, Probability

    notes: list[str] = []
    right = _token(model, prompt, answer, notes)
    if wrong is not None:
        metric: Metric = LogitDiff(right, _token(model, prompt, wrong, notes))
    else:
        metric = Probability(right) if probability else LogProbability(right)
    return Asked(metric, tuple(notes))


def run(
    method: Callable[..., "CausalResult"],
    *arguments: Any,
    measured: Asked,
    name: str,
    as_json: bool,
    out: Path | None,
    explain: bool,
    stored: bool,
    memory: int | None,
    **asked: Any,
) -> None:
    """Run a method with what a person sees meanwhile, and show or save what it returns."""
    if memory is not None:
        asked["budget"] = memory * 2**20
    if explain:
        asked["planned"] = lambda plan: terminal.note_lines(plan.explain())
    with (
        opened(stored=stored) as store,
        terminal.progress(name, shown=terminal.may_animate(as_json=as_json)) as tick,
        stoppable() as stop,
    ):
        result = method(*arguments, measured.metric, store=store, progress=tick, stop=stop, **asked)
    for note in measured.notes:  # after the run: a refusal is one line
        terminal.note(note)
    show_or_save(result, as_json=as_json, out=out, show=show)


def show(result: "CausalResult", console: Console) -> None:
    """Print a result's facts, its maps and its largest effects."""
    for name, text in result.facts().items():
        console.print(terminal.cell(f"{name}: {text}", wrap=True))
    signed.show(result.maps(), console)
    console.print()
    cells = result.strongest(STRONGEST)
    strongest = ", ".join(f"{cell.place} {number(cell.effect, abs(cells[0].effect))}" for cell in cells)
    console.print(terminal.cell(f"Largest effects: {strongest}", wrap=True))
    console.print(terminal.cell("Layers count from 0; embed is what comes before them.", "dim", wrap=True))


def _token(model: "Model", prompt: str, text: str | None, notes: list[str]) -> str | int:
    """The token that is meant; `notes` tells where it is not the very text that was typed."""
    from bathyscope.generation import generate
    from bathyscope.readouts import answer_token

    if text is None:
        own = _named(model, generate(model, prompt, max_new_tokens=1)[0].ids[0])
        notes.append(f"the answer is {own!r}, which the model says itself; another: --answer TEXT")
        return own
    found = answer_token(model, text, after=prompt)
    if found.n_tokens > 1:  # that a space was put before it goes without saying
        notes.append(f"{text!r} is measured as {found.token!r}, the first of {found.n_tokens} tokens")
    return _named(model, found.id)


def _named(model: "Model", token: int) -> str | int:
    """A token as text where that means the token, for people to read; its id where it does not."""
    (text,) = model.token_texts([token])
    return text if model.tokenizer(text, add_special_tokens=False)["input_ids"] == [token] else token

"""Latents in the terminal: a list of several, or one in full. Knows results, not models."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.text import Text

from bathyscope.cli import terminal

if TYPE_CHECKING:
    from bathyscope.sae.reading import Example, LatentReading, LatentReadings, TokenWeight

BARS: Final = "▁▂▃▄▅▆▇█"
PEAK, ACTIVE = "bold yellow", "yellow"


def show_facts(result: "LatentReadings", console: Console) -> None:
    """What was read, and how."""
    for fact, text in result.facts().items():
        console.print(terminal.cell(f"{fact}: {text}", wrap=True))


def show_list(latents: Sequence["LatentReading"], console: Console) -> None:
    """A table, one row a latent."""
    table = terminal.grid("latent", "density", "max", "F1 (control)", texts=["label", "promotes", "example"])
    for one in latents:
        promoted = " ".join(token.token.strip() or repr(token.token) for token in one.promoted[:4])
        table.add_row(
            str(one.latent),
            f"{one.density:.2%}",
            f"{one.largest:.3g}",
            _f1(one),
            # Its tokens are in the next column.
            terminal.cell(one.label) if one.label_from == "rule" else Text("no good rule", "dim"),
            terminal.cell(promoted),
            shown_example(one.examples[0], before=3, after=2) if one.examples else Text("never active", "dim"),
        )
    console.print(table)


def show_latent(one: "LatentReading", console: Console) -> None:
    """Everything that is known of a latent."""
    console.print()
    console.print(Text.assemble((f"{one.latent}  ", "bold"), (terminal.clean(one.label), "bold")), no_wrap=False)
    for name, text in _facts(one).items():
        console.print(terminal.cell(f"  {name}: {text}", wrap=True))
    for title, examples in (("examples", one.examples), ("samples of each quarter", one.samples)):
        if examples:
            console.print(f"  {title}:")
        for example in examples:
            line = Text.assemble((f"  {example.activation:8.3g}  ", "dim"), shown_example(example, before=12, after=6))
            line.no_wrap, line.overflow = True, "ellipsis"
            console.print(line)


def shown_example(example: "Example", *, before: int, after: int) -> Text:
    """The text around a place, the place marked and other active tokens coloured."""
    first, stop = max(0, example.peak - before), min(len(example.tokens), example.peak + after + 1)
    shown = Text(no_wrap=True, overflow="ellipsis")
    for index in range(first, stop):
        token, active = terminal.clean(example.tokens[index]), example.activations[index] > 0
        if index == example.peak:
            shown.append(f"«{token}»", PEAK)
        else:
            shown.append(token, ACTIVE if active else "")
    return shown


def _facts(one: "LatentReading") -> dict[str, str]:
    found = {
        "active": f"at {one.active:,} positions, {one.density:.3%}; at most {one.largest:.4g}",
        "rule": _rule(one),
    }
    if one.description is not None:
        told = one.description
        found["the model"] = (
            f"{told.shown} (score {told.score:.2f}, best of {told.n_controls} controls {told.control:.2f}; "
            f"it wrote {told.text!r} at layer {told.layer}, {told.scale:g} x)"
        )
    if one.promoted:
        found |= {"promotes": _tokens(one.promoted), "suppresses": _tokens(one.suppressed)}
    found["nearest"] = ", ".join(f"{near.latent} ({near.cosine:.2f})" for near in one.neighbours[:6])
    found["encoder and decoder"] = f"cosine {one.own_cosine:.2f}"
    if one.histogram:
        found["histogram"] = f"{one.histogram[0][0]:.3g} {_bars(one)} {one.histogram[-1][0]:.3g}, by half octaves"
    return found


def _rule(one: "LatentReading") -> str:
    if one.rule is None:
        return "none: no token or shape is met with it twice"
    held_out = one.rule.held_out
    return (
        f"{one.rule_words} (precision {held_out.precision:.2f}, recall {held_out.recall:.2f}, F1 {_f1(one)}; "
        f"on held-out documents, active at {held_out.active:,} positions there)"
    )


def _f1(one: "LatentReading") -> str:
    return one.rule.f1_told() if one.rule else "no rule"


def _tokens(tokens: Sequence["TokenWeight"]) -> str:
    return ", ".join(f"{one.token!r} {one.weight:+.2f}" for one in tokens)


def _bars(one: "LatentReading") -> str:
    most = max(count for _, count in one.histogram)
    return "".join(BARS[round((len(BARS) - 1) * count / most)] if count else " " for _, count in one.histogram)

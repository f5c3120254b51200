"""What the comparison of sparse coders found: its table, its promises, and what each was trained with."""

import json
from dataclasses import dataclass, field
from typing import Any

from measure import Check, median
from rich.console import Console
from sae_quality import Quality
from tables import table


@dataclass
class Measured:
    """The rounds of one contender, or why there are none.

    Args:
        name: for people.
        wanted: how many times faster this project is to be.
        rates: tokens a second.
        processor_rates: tokens a second of processor time, all threads together.
        qualities: of what was trained.
        settings: what it was trained with.
        failed: why it was not measured, or not to the end.
    """

    name: str
    wanted: float = 1.0
    rates: list[float] = field(default_factory=list)
    processor_rates: list[float] = field(default_factory=list)
    qualities: list[Quality] = field(default_factory=list)
    settings: list[dict[str, Any]] = field(default_factory=list)
    failed: str = ""

    @property
    def best(self) -> int:
        """The round that left least unexplained."""
        return min(range(len(self.qualities)), key=lambda index: self.qualities[index].fvu)


def checks(ours: Measured | None, others: list[Measured]) -> list[Check]:
    """The promises: how many times faster, how much worse, how many more dead latents, than each of the others."""
    made = []
    for theirs in others:
        if ours is None or not ours.rates or not theirs.rates:
            made.append(Check(f"times {theirs.name}", None, theirs.wanted))
            continue
        # Round by round, since the machine drifts.
        times = median([one / other for one, other in zip(ours.rates, theirs.rates, strict=False)])
        mine, best = ours.qualities[ours.best], theirs.qualities[theirs.best]
        made += [
            Check(f"times {theirs.name}", times, theirs.wanted),
            Check(f"FVU over that of {theirs.name}", mine.fvu / best.fvu, 1.02, at_least=False),
            Check(f"dead latents above those of {theirs.name}", mine.dead - best.dead, 0, at_least=False),
        ]
    return made


def show(console: Console, found: list[Measured]) -> None:
    """Speed and quality of each, then what each was trained with."""
    headings = ["", "tokens/s", "rounds", "of processor time", "held-out FVU", "rounds", "dead", "L0"]
    table(console, headings, [_row(one) for one in found])
    console.print()
    for one in found:
        for index, told in enumerate(one.settings):
            best = ", the best" if index == one.best else ""
            console.print(f"* {one.name}, round {index + 1}{best}: {json.dumps(told)}")
        if one.failed:
            console.print(f"* {one.name}: {one.failed}")


def _row(one: Measured) -> list[str]:
    if not one.rates:
        return [one.name, "not measured", "", "", "", "", "", ""]
    best = one.qualities[one.best]
    return [
        one.name,
        f"{median(one.rates):,.0f}",
        " / ".join(f"{rate:,.0f}" for rate in one.rates),
        f"{median(one.processor_rates):,.0f}" if one.processor_rates else "",
        f"{best.fvu:.4f}",
        " / ".join(f"{each.fvu:.4f}" for each in one.qualities),
        f"{best.dead}",
        f"{best.l0:.1f}",
    ]

"""Panel "Controls": what the figures of a patchscope are compared with."""

from typing import Annotated

import typer

from bathyscope.cli.choices import readable

CONTROL = "Controls"

ControlNames = Annotated[
    str | None,
    typer.Option(
        "--controls",
        metavar="all|NAME,NAME",
        callback=readable,
        show_default="unpatched",
        help="What to write instead, to compare with, such as --controls random,mean: no-activation (zeros), random (a "
        "vector of the same length), mean and shuffled (of other tokens), prompting (the text itself in the prompt); "
        "unpatched, nothing written, is always there.",
        rich_help_panel=CONTROL,
    ),
]
ControlTexts = Annotated[
    list[str] | None,
    typer.Option(
        "--control-text",
        metavar="TEXT",
        show_default="TEXT itself",
        help='Whose tokens mean and shuffled take, such as --control-text "The cat is asleep"; it may be given twice.',
        rich_help_panel=CONTROL,
    ),
]
ControlSeed = Annotated[
    int,
    typer.Option(
        "--seed",
        metavar="N",
        min=0,
        help="Of what is drawn for the controls random and shuffled, such as --seed 1.",
        rich_help_panel=CONTROL,
    ),
]

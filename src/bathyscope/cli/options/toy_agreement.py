"""The options of `bathyscope study toy-agreement`."""

from typing import Annotated

import typer

from bathyscope.cli.choices import readable
from bathyscope.cli.options.study import MEASURE

TRAIN = "What to train"

Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        metavar="N",
        min=0,
        help="Draws noise, held-out nouns and first weights, such as --seed 1: the same seed trains the same.",
        rich_help_panel=TRAIN,
    ),
]
Latents = Annotated[
    int | None,
    typer.Option(
        "--latents",
        metavar="N",
        min=1,
        max=64,
        show_default="6",
        help="How many latents the sparse coder of the four hidden units has, such as --latents 8.",
        rich_help_panel=TRAIN,
    ),
]
ByHand = Annotated[
    bool,
    typer.Option(
        "--by-hand",
        metavar="",
        help="With --by-hand, train nothing: take weights that were set by hand, with a unit that fires and does "
        "nothing.",
        rich_help_panel=TRAIN,
    ),
]
Verb = Annotated[
    str,
    typer.Option(
        "--verb",
        metavar="run|runs",
        callback=readable,
        help="What effects are on, such as --verb runs: this verb's logit less the other's.",
        rich_help_panel=MEASURE,
    ),
]
Clean = Annotated[
    str,
    typer.Option(
        "--clean",
        metavar="TEXT",
        callback=readable,
        help='The input that is run: singular or plural, without noise, or a sentence, such as --clean "The dog runs".',
        rich_help_panel=MEASURE,
    ),
]
Corrupted = Annotated[
    str,
    typer.Option(
        "--corrupted",
        metavar="TEXT",
        callback=readable,
        help='Whose activations are written into it, such as --corrupted "The dogs run".',
        rich_help_panel=MEASURE,
    ),
]

"""The options of `bathyscope attribute` and `bathyscope steer` that no other command has."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from bathyscope.cli.choices import readable
from bathyscope.cli.options.causal import ANSWER, CHANGE
from bathyscope.cli.options.read import READ
from bathyscope.cli.options.show import SHOW

DIRECTION = "What to add"

Clean = Annotated[
    str | None,
    typer.Argument(
        metavar="[CLEAN]",
        callback=readable,
        show_default=False,
        help='The prompt whose answer is right, such as "The keys to the cabinet".',
    ),
]
Corrupted = Annotated[
    str | None,
    typer.Argument(
        metavar="[CORRUPTED]",
        callback=readable,
        show_default=False,
        help='A prompt of as many tokens with another answer, such as "The key to the cabinet"; all methods but direct '
        "need one.",
    ),
]
Method = Annotated[
    Literal["direct", "attribution-patching", "integrated-gradients", "edges"] | None,
    typer.Option(
        metavar="NAME",
        show_default="direct for one prompt, attribution-patching for two",
        help="direct, attribution-patching, integrated-gradients or edges, such as --method edges.",
        rich_help_panel=ANSWER,
    ),
]
At = Annotated[
    str,
    typer.Option(
        "--at",
        metavar="last|INDEX|TEXT",
        callback=readable,
        help="direct: after which token of the prompt, such as --at 3 for the fourth.",
        rich_help_panel=READ,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        show_default="10; for edges none, the gradient of one run",
        help="integrated-gradients and edges: at how many points between the two runs gradients are taken, such as "
        "--steps 20.",
        rich_help_panel=CHANGE,
    ),
]
Measure = Annotated[
    str,
    typer.Option(
        metavar="N|all",
        callback=readable,
        help="How many effects are measured beside their estimates, the largest first, such as --measure all or "
        "--measure 0.",
        rich_help_panel=ANSWER,
    ),
]
Strongest = Annotated[
    int,
    typer.Option(
        "--top",
        metavar="N",
        min=0,
        help="How many are listed, the strongest first, such as --top 20.",
        rich_help_panel=SHOW,
    ),
]
PairsFile = Annotated[
    Path | None,
    typer.Option(
        "--pairs",
        metavar="FILE",
        help="Instead of prompts, a file of JSON lines with clean, corrupted, answer and wrong_answer, such as --pairs "
        "pairs.jsonl: do integrated gradients add up?",
        rich_help_panel=READ,
    ),
]
Positives = Annotated[
    list[str] | None,
    typer.Option(
        "--positive",
        metavar="TEXT",
        callback=lambda texts: texts and [readable(text) for text in texts],
        help='A prompt that has what is wanted, such as --positive "I love it"; it may be given several times.',
        rich_help_panel=DIRECTION,
    ),
]
Negatives = Annotated[
    list[str] | None,
    typer.Option(
        "--negative",
        metavar="TEXT",
        callback=lambda texts: texts and [readable(text) for text in texts],
        help='A prompt that lacks it, such as --negative "I hate it"; it may be given several times.',
        rich_help_panel=DIRECTION,
    ),
]
Layer = Annotated[
    int | None,
    typer.Option(
        "--layer",
        metavar="N",
        show_default="two thirds of the way up",
        help="After which layer prompts are compared and the direction is added, such as --layer 20; -1 is the "
        "embedding.",
        rich_help_panel=DIRECTION,
    ),
]
AtEach = Annotated[
    str,
    typer.Option(
        "--at",
        metavar="last|all|INDEX",
        callback=readable,
        help="At which token of each of those prompts, such as --at last.",
        rich_help_panel=DIRECTION,
    ),
]
Saved = Annotated[
    Path | None,
    typer.Option(
        "--direction",
        metavar="FILE",
        help="Instead of prompts, a direction that was kept, such as --direction kind.json.",
        rich_help_panel=DIRECTION,
    ),
]
LatentCoder = Annotated[
    str | None,
    typer.Option(
        "--coder",
        metavar="DIR",
        callback=lambda text: text and readable(text),
        help="Instead of prompts, a latent of the sparse coder in a folder, such as --coder coders/resid_post.12; "
        "factors are units of its activation.",
        rich_help_panel=DIRECTION,
    ),
]
Latent = Annotated[
    int | None,
    typer.Option(
        "--latent",
        metavar="N",
        min=0,
        help="Which latent of the coder, such as --latent 281.",
        rich_help_panel=DIRECTION,
    ),
]
Keep = Annotated[
    Path | None,
    typer.Option(
        "--keep",
        metavar="FILE",
        help="Keep the direction, such as --keep kind.json, which writes kind.safetensors as well.",
        rich_help_panel=DIRECTION,
    ),
]
Factors = Annotated[
    str,
    typer.Option(
        metavar="X,Y",
        callback=readable,
        help="What the direction is multiplied by, such as --factors -2,2; its own length is that of the difference of "
        "means.",
        rich_help_panel=DIRECTION,
    ),
]
RandomSeed = Annotated[
    int,
    typer.Option(
        "--seed", metavar="N", help="Of the random direction beside it, such as --seed 1.", rich_help_panel=DIRECTION
    ),
]

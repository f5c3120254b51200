"""The options of `bathyscope study agreement`."""

from pathlib import Path
from typing import Annotated

import typer

from bathyscope.cli.choices import readable
from bathyscope.cli.options.study import MEASURE

CODERS, CIRCUITS = "Sparse coders", "Circuits"

Folder = Annotated[
    Path,
    typer.Option(
        "--coders",
        metavar="DIR",
        help="Where the coders lie, in DIR/SITE, as `bathyscope sae train` leaves them: --coders trained. With --text "
        "they are trained there first.",
        rich_help_panel=CODERS,
    ),
]
Text = Annotated[
    str | None,
    typer.Option(
        "--text",
        metavar="FILE",
        callback=readable,
        show_default=False,
        help="Train coders on this text and on sentences of the project's grammar (train nouns only), if the folder "
        "has none yet: --text news.txt.",
        rich_help_panel=CODERS,
    ),
]
Sites = Annotated[
    str | None,
    typer.Option(
        "--sites",
        metavar="SITE,SITE",
        callback=readable,
        show_default="all in the folder; of a training, 10 spread over the blocks",
        help="Which sites are cut, such as --sites resid_post.10,resid_post.19.",
        rich_help_panel=CODERS,
    ),
]
Latents = Annotated[
    int,
    typer.Option(
        "--latents",
        metavar="N",
        min=1,
        help="Latents of each coder that is trained, such as --latents 2048.",
        rich_help_panel=CODERS,
    ),
]
Case = Annotated[
    str,
    typer.Option(
        "--case",
        metavar="NAME",
        callback=readable,
        help="What stands between noun and verb: simple (The teacher | is), nounpp (The teacher near the cars | is), "
        "within_rc (The guest that the teacher | likes) or rc (The teacher that the guests like | is): --case rc.",
        rich_help_panel=MEASURE,
    ),
]
Train = Annotated[
    int,
    typer.Option(
        "--train",
        metavar="N",
        min=4,
        help="Pairs that circuits are found on, such as --train 40; a multiple of 4.",
        rich_help_panel=MEASURE,
    ),
]
HeldOut = Annotated[
    int,
    typer.Option(
        "--held-out",
        metavar="N",
        min=4,
        help="Pairs of other nouns that they are checked on, such as --held-out 40; a multiple of 4.",
        rich_help_panel=MEASURE,
    ),
]
Errors = Annotated[
    str,
    typer.Option(
        "--errors",
        metavar="ablated|nodes|kept",
        callback=readable,
        help="Whether what no latent explains is ablated in circuits, counts as a feature, or is kept: --errors nodes.",
        rich_help_panel=CIRCUITS,
    ),
]
Ablation = Annotated[
    str,
    typer.Option(
        "--ablation",
        metavar="mean|resample|zero",
        callback=readable,
        help="What is put in the place of what is ablated, such as --ablation zero.",
        rich_help_panel=CIRCUITS,
    ),
]
Sizes = Annotated[
    str,
    typer.Option(
        "--sizes",
        metavar="N,N",
        callback=readable,
        help="Sizes of the circuits of largest attributions, such as --sizes 10,50.",
        rich_help_panel=CIRCUITS,
    ),
]
Penalties = Annotated[
    str,
    typer.Option(
        "--penalties",
        metavar="X,X",
        callback=readable,
        help="Penalties of the learned masks, one mask each, such as --penalties 0.1,1; none learns none.",
        rich_help_panel=CIRCUITS,
    ),
]
Steps = Annotated[
    int,
    typer.Option(
        "--steps",
        metavar="N",
        min=1,
        help="Points between the runs for integrated gradients, such as --steps 16.",
        rich_help_panel=CIRCUITS,
    ),
]
Compare = Annotated[
    bool,
    typer.Option(
        "--compare/--no-compare",
        help="--no-compare leaves out coordinates, neurons, random latents and directions: quicker.",
        rich_help_panel=CIRCUITS,
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        help='Your own labels, a JSON object such as {"resid_post.12/281": "plural subject"}: --labels labels.json.',
        rich_help_panel=CIRCUITS,
    ),
]

"""The options of `bathyscope circuit find`, `eval` and `edit`."""

from pathlib import Path
from typing import Annotated

import typer

from bathyscope.cli.choices import readable
from bathyscope.cli.options.agreement import CIRCUITS
from bathyscope.cli.options.output import OUTPUT

GIVEN, EDITS = "What is given", "What is changed and measured"

File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        show_default=False,
        help="A circuit, as `bathyscope circuit find` or `bathyscope study agreement` leaves it in a file.",
    ),
]
PairsFile = Annotated[
    Path,
    typer.Option(
        "--pairs",
        metavar="FILE",
        show_default=False,
        help="JSON lines of clean, corrupted, answer, wrong_answer (or clean_prefix, patch_prefix, clean_answer, "
        "patch_answer): --pairs nounpp.jsonl. Prompts of one length are used, with answers of one token.",
        rich_help_panel=GIVEN,
    ),
]
EditPairs = Annotated[
    Path | None,
    typer.Option(
        "--pairs",
        metavar="FILE",
        show_default="those that it was found on",
        help="JSON lines of clean, corrupted, answer, wrong_answer (or clean_prefix, patch_prefix, clean_answer, "
        "patch_answer): --pairs nounpp.jsonl. Prompts of one length are used, with answers of one token.",
        rich_help_panel=GIVEN,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        metavar="N",
        min=1,
        show_default="all",
        help="At most so many pairs, the first ones, such as --limit 80.",
        rich_help_panel=GIVEN,
    ),
]
Coders = Annotated[
    Path,
    typer.Option(
        "--coders",
        metavar="DIR",
        show_default=False,
        help="Where sparse coders lie, in DIR/SITE, as `bathyscope sae train` leaves them: --coders trained.",
        rich_help_panel=GIVEN,
    ),
]
ItsCoders = Annotated[
    Path | None,
    typer.Option(
        "--coders",
        metavar="DIR",
        show_default="where they lay",
        help="Where its coders lie now, in DIR/SITE: --coders trained.",
        rich_help_panel=GIVEN,
    ),
]
Sites = Annotated[
    str | None,
    typer.Option(
        "--sites",
        metavar="SITE,SITE",
        callback=readable,
        show_default="all in the folder",
        help="Which sites are cut, such as --sites resid_post.10,resid_post.19.",
        rich_help_panel=GIVEN,
    ),
]
Nodes = Annotated[
    int | None,
    typer.Option(
        "--nodes",
        metavar="N",
        min=1,
        show_default="as few as are faithful",
        help="At most so many features, such as --nodes 20.",
        rich_help_panel=CIRCUITS,
    ),
]
Method = Annotated[
    str,
    typer.Option(
        "--method",
        metavar="NAME",
        callback=readable,
        help="How features are attributed: integrated-gradients, relp (one pass, with rules for what is not linear) or "
        "attribution-patching (one gradient): --method relp.",
        rich_help_panel=CIRCUITS,
    ),
]
Baseline = Annotated[
    str,
    typer.Option(
        "--baseline",
        metavar="NAME",
        callback=readable,
        help="What attributions and effects compare the clean prompt with: the corrupted one, the mean of all "
        "corrupted ones, or zero: --baseline mean.",
        rich_help_panel=CIRCUITS,
    ),
]
Effects = Annotated[
    int,
    typer.Option(
        "--effects",
        metavar="N",
        min=0,
        help="Measure the effects of the N largest attributions of each site as well, and tell how well attributions "
        "rank them: --effects 50.",
        rich_help_panel=CIRCUITS,
    ),
]
Seed = Annotated[
    int,
    typer.Option("--seed", metavar="N", min=0, help="Decides what is drawn: --seed 1.", rich_help_panel=CIRCUITS),
]
CircuitOut = Annotated[
    Path,
    typer.Option(
        "--out",
        metavar="FILE",
        show_default=False,
        help="The circuit's file: --out circuit.json. What is finished is kept beside it until the whole is.",
        rich_help_panel=OUTPUT,
    ),
]
Changes = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="FEATURE[=X]",
        show_default=False,
        help="A latent that is set to a value, 0 unless said: --set resid_post.12/281, at one position of the pairs "
        "--set resid_post.12/281@1, or to another value --set resid_post.12/281=5; or an error that is taken away: "
        "--set resid_post.12/error@1. May be given several times.",
        rich_help_panel=EDITS,
    ),
]
EditText = Annotated[
    str | None,
    typer.Option(
        "--text",
        metavar="FILE",
        callback=readable,
        show_default=False,
        help="Measure the loss on this text, too: --text news.txt.",
        rich_help_panel=EDITS,
    ),
]
EditTokens = Annotated[
    int,
    typer.Option(
        "--tokens",
        metavar="N",
        min=1,
        help="At most so many tokens of the text, such as --tokens 20000.",
        rich_help_panel=EDITS,
    ),
]
EditPrompts = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt",
        metavar="TEXT",
        show_default=False,
        help='Let the model write, before and after: --prompt "The teachers near the car". May be given several times.',
        rich_help_panel=EDITS,
    ),
]
EditOut = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE",
        help="Also write a file: --out edit.json to compute with, --out edit.html to look at.",
        rich_help_panel=OUTPUT,
    ),
]

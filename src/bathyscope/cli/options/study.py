"""Panels "What to measure" and "Fitted lenses": the options of `bathyscope study`."""

from pathlib import Path
from typing import Annotated

import typer

from bathyscope.cli.choices import readable
from bathyscope.cli.options.output import OUTPUT
from bathyscope.cli.options.texts import column_in

MEASURE, FITTED = "What to measure", "Fitted lenses"

Text = Annotated[
    str,
    typer.Option(
        "--text",
        metavar="FILE",
        callback=readable,
        show_default=False,
        help="What the model reads: --text news.txt (plain text), --text news.jsonl, --text news.parquet, or "
        "--text hf:owner/name:config:split (a data set of the Hugging Face hub). The last documents are measured on.",
        rich_help_panel=MEASURE,
    ),
]
Column = Annotated[str, column_in(MEASURE)]
Positions = Annotated[
    int,
    typer.Option(
        "--positions",
        metavar="N",
        min=2,
        help="At how many token positions to measure, such as --positions 5000.",
        rich_help_panel=MEASURE,
    ),
]
PerWindow = Annotated[
    int | None,
    typer.Option(
        "--per-window",
        metavar="N",
        min=1,
        show_default="4, or more where the text is short",
        help="At most so many positions of one window of 128 tokens, such as --per-window 8: quicker, but they "
        "share their text, so that intervals are wider.",
        rich_help_panel=MEASURE,
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        metavar="N",
        min=0,
        help="Decides which items and controls are drawn, such as --seed 1: the same seed measures the same.",
        rich_help_panel=MEASURE,
    ),
]
Layers = Annotated[
    str,
    typer.Option(
        "--layers",
        metavar="all|embed|3|3,7|0-10",
        callback=readable,
        help="After which layers to measure, such as --layers 0-10. They count from 0; -1 (or embed) is the embedding.",
        rich_help_panel=MEASURE,
    ),
]
Methods = Annotated[
    str | None,
    typer.Option(
        "--methods",
        metavar="NAME,NAME",
        callback=readable,
        show_default="all five",
        help="Which of logit-lens, tuned-lens, jacobian-lens, token-identity and bare-placeholder, such as "
        "--methods logit-lens,token-identity (neither of which has to be fitted).",
        rich_help_panel=MEASURE,
    ),
]
HeldOut = Annotated[
    float | None,
    typer.Option(
        "--held-out",
        metavar="SHARE",
        min=0.001,
        max=1.0,
        show_default="0.3, or less where a lens has seen more",
        help="Which share of the documents is measured on, such as --held-out 0.5. Lenses are fitted on the others; "
        "1 is all of them, where nothing is fitted on this text.",
        rich_help_panel=MEASURE,
    ),
]
TunedLens = Annotated[
    Path | None,
    typer.Option(
        "--tuned-lens",
        metavar="MAP",
        show_default="fitted on the rest of the text, and kept",
        help="What bathyscope mapping fit wrote, such as --tuned-lens tuned.safetensors.",
        rich_help_panel=FITTED,
    ),
]
JacobianLens = Annotated[
    Path | None,
    typer.Option(
        "--jacobian-lens",
        metavar="MAP",
        show_default="fitted on the rest of the text, and kept",
        help="What bathyscope mapping fit wrote, or a published lens: --jacobian-lens lens.pt.",
        rich_help_panel=FITTED,
    ),
]
FitPositions = Annotated[
    int | None,
    typer.Option(
        "--fit-positions",
        metavar="N",
        min=2,
        show_default="20,000",
        help="On how many positions a tuned lens is fitted here, such as --fit-positions 100000.",
        rich_help_panel=FITTED,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE",
        help="Also write a file: --out study.json to compute with, --out study.html to look at.",
        rich_help_panel=OUTPUT,
    ),
]
Plots = Annotated[
    list[Path] | None,
    typer.Option(
        "--plot",
        metavar="FILE",
        help="Also draw a picture, such as --plot study.png or --plot study.svg; it may be given twice.",
        rich_help_panel=OUTPUT,
    ),
]

"""Panels of `bathyscope sae train`: which coders, what they learn from, and how."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from bathyscope.cli.choices import readable
from bathyscope.cli.options.output import OUTPUT
from bathyscope.cli.options.texts import column_in

CODER, TEXTS, TRAINING = "Which coders", "What they learn from", "How they learn"

SPARSITIES = "topk, batch-topk, matryoshka, jumprelu, l1, p-anneal, gated"

Sites = Annotated[
    list[str],
    typer.Option(
        "--site",
        metavar="SITE",
        callback=lambda sites: [readable(site) for site in sites],
        show_default=False,
        help="What is taken apart: --site resid_post.12; several, --site mlp_out.3 --site z.5, learn from one pass.",
        rich_help_panel=CODER,
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        metavar="SITE",
        callback=readable,
        show_default="the site itself",
        help="What a transcoder reconstructs from its site: --site resid_mid.5 --target mlp_out.5.",
        rich_help_panel=CODER,
    ),
]
Skip = Annotated[
    bool,
    typer.Option(
        "--skip",
        metavar="",
        help="With --skip, a transcoder has a linear path beside its latents.",
        rich_help_panel=CODER,
    ),
]
Latents = Annotated[
    int,
    typer.Option(metavar="N", min=1, help="Latents of each coder, such as --latents 16384.", rich_help_panel=CODER),
]
K = Annotated[
    int | None,
    typer.Option(
        "--k",
        metavar="N",
        min=1,
        show_default="32",
        help="Active latents of a token, such as --k 64; for topk, batch-topk, matryoshka and jumprelu.",
        rich_help_panel=CODER,
    ),
]
SparsityName = Annotated[
    Literal["topk", "batch-topk", "matryoshka", "jumprelu", "l1", "p-anneal", "gated"],
    typer.Option(
        "--sparsity",
        metavar="NAME",
        help=f"What makes codes sparse: {SPARSITIES}; such as --sparsity batch-topk.",
        rich_help_panel=CODER,
    ),
]
Coefficient = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        show_default="the sparsity's own",
        help="How much active latents cost, such as --coefficient 0.05; for jumprelu, l1, p-anneal and gated.",
        rich_help_panel=CODER,
    ),
]
Texts = Annotated[
    list[str],
    typer.Option(
        "--text",
        metavar="FILE[:WEIGHT]",
        callback=lambda texts: [readable(text) for text in texts],
        show_default=False,
        help="What the model reads: --text news.txt, --text songs.jsonl, --text hf:owner/name:config:split; several "
        "may be given. --text verbs.txt:3 goes through it three times an epoch, --text long.txt:0.5 through half.",
        rich_help_panel=TEXTS,
    ),
]
Column = Annotated[str, column_in(TEXTS)]
HeldOut = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        min=0,
        max=0.9,
        help="Documents at the end of each text that are left out, to measure on: --held-out 0.2; 0 for none.",
        rich_help_panel=TEXTS,
    ),
]
Length = Annotated[
    int,
    typer.Option(
        metavar="N", min=2, help="Tokens of a window, which are read together: --length 256.", rich_help_panel=TEXTS
    ),
]
Keep = Annotated[
    Literal["float32", "bfloat16", "nothing"],
    typer.Option(
        metavar="NAME",
        help="How activations are kept on disk while coders learn: float32, bfloat16 (half the room), or nothing "
        "(the model reads again in every epoch); such as --keep bfloat16.",
        rich_help_panel=TEXTS,
    ),
]
MostRoom = Annotated[
    float,
    typer.Option(
        "--most-room",
        metavar="GIB",
        min=0,
        help="Room that activations may take on disk, such as --most-room 50.",
        rich_help_panel=TEXTS,
    ),
]
Epochs = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=1,
        help="How many times the texts are gone through, such as --epochs 6.",
        rich_help_panel=TRAINING,
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(
        "--batch", metavar="N", min=1, help="Tokens of a step, such as --batch 4096.", rich_help_panel=TRAINING
    ),
]
LearningRate = Annotated[
    float | None,
    typer.Option(
        "--learning-rate",
        metavar="X",
        show_default="by the number of latents",
        help="Learning rate, such as --learning-rate 0.0005.",
        rich_help_panel=TRAINING,
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        metavar="N", min=0, help="Decides the start and the order, such as --seed 1.", rich_help_panel=TRAINING
    ),
]
Folder = Annotated[
    Path,
    typer.Option(
        "--out",
        metavar="DIR",
        show_default=False,
        help="Where coders are kept, each in a folder named after its site: --out coders.",
        rich_help_panel=OUTPUT,
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force", metavar="", help="With --force, train again what is there already.", rich_help_panel=OUTPUT
    ),
]

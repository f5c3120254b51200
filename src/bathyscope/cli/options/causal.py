"""The options of `bathyscope patch`, `trace` and `knockout` that no other command has."""

from typing import Annotated, Literal

import typer

from bathyscope.cli.choices import readable
from bathyscope.cli.options.read import READ

CHANGE, ANSWER = "What to change", "What to measure"

Clean = Annotated[
    str,
    typer.Argument(
        metavar="CLEAN",
        callback=readable,
        show_default=False,
        help='The prompt whose answer is right, such as "The boats near the cabinet".',
    ),
]
Corrupted = Annotated[
    str,
    typer.Argument(
        metavar="CORRUPTED",
        callback=readable,
        show_default=False,
        help='A prompt of as many tokens with another answer, such as "The boat near the cabinet".',
    ),
]
Prompt = Annotated[
    str,
    typer.Argument(
        metavar="PROMPT",
        callback=readable,
        show_default=False,
        help='What the model reads, such as "The capital of France is".',
    ),
]
Subject = Annotated[
    str,
    typer.Option(
        "--subject",
        metavar="TEXT",
        callback=readable,
        show_default=False,
        help="The part of the prompt that is noised, such as --subject France.",
        rich_help_panel=CHANGE,
    ),
]
Blocks = Annotated[
    str | None,
    typer.Option(
        "--layers",
        metavar="all|3|3,7|0-10",
        callback=readable,
        show_default="all",
        help="The blocks in whose attention edges are cut, the middle one of each window, such as --layers 0-10. They "
        "count from 0; the embedding has no attention.",
        rich_help_panel=READ,
    ),
]
Answer = Annotated[
    str | None,
    typer.Option(
        "--answer",
        metavar="TEXT",
        callback=readable,
        show_default="what the model says itself",
        help="The next token that is measured, such as --answer Paris. Its leading space is put there where it needs "
        "one; of several tokens the first is measured.",
        rich_help_panel=ANSWER,
    ),
]
WrongAnswer = Annotated[
    str | None,
    typer.Option(
        "--wrong-answer",
        metavar="TEXT",
        callback=readable,
        show_default="none: the answer's log-probability is measured",
        help="The token that the answer is compared with, such as --wrong-answer Rome: the difference of their logits "
        "is measured.",
        rich_help_panel=ANSWER,
    ),
]
SiteNames = Annotated[
    list[str] | None,
    typer.Option(
        "--site",
        metavar="COMPONENT",
        help="What is written: resid_post, attn_out, mlp_out, z, q, k, v, mlp_post or another component that "
        "bathyscope doctor lists, such as --site z; several options for several.",
        rich_help_panel=CHANGE,
    ),
]
Positions = Annotated[
    str,
    typer.Option(
        "--at",
        metavar="all|last|INDEX|TEXT",
        callback=readable,
        help="At which token: --at all at each in turn, --at 3 at the fourth, --at France at the last token of "
        "that text.",
        rich_help_panel=READ,
    ),
]
Heads = Annotated[
    bool,
    typer.Option(
        "--heads",
        metavar="",
        help="With --heads, each head by itself.",
        rich_help_panel=CHANGE,
    ),
]
Together = Annotated[
    bool,
    typer.Option(
        "--together", metavar="", help="With --together, all tokens of --at in one run.", rich_help_panel=CHANGE
    ),
]
Window = Annotated[
    int,
    typer.Option(
        metavar="LAYERS",
        min=1,
        help="How many neighbouring layers are changed together, such as --window 5.",
        rich_help_panel=CHANGE,
    ),
]
Direction = Annotated[
    Literal["denoising", "noising"],
    typer.Option(
        metavar="denoising|noising",
        help="denoising writes what the clean run holds into the corrupted one, noising the other way, such as "
        "--direction noising.",
        rich_help_panel=CHANGE,
    ),
]
NoiseText = Annotated[
    str,
    typer.Option(
        "--noise",
        metavar="sX|X|usX|uX",
        callback=readable,
        help="How strong: --noise s3 is three times the standard deviation of subjects' embeddings, --noise 0.1 is "
        "absolute, and a u before either makes it uniform.",
        rich_help_panel=CHANGE,
    ),
]
Samples = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=1,
        help="Over how many draws of noise effects are averaged, such as --samples 3.",
        rich_help_panel=CHANGE,
    ),
]
NoiseSeed = Annotated[
    int, typer.Option("--seed", metavar="N", help="Of the first draw, such as --seed 2.", rich_help_panel=CHANGE)
]
Queries = Annotated[
    str,
    typer.Option(
        metavar="last|INDEX|TEXT",
        callback=readable,
        help="Which token may not look, such as --queries last.",
        rich_help_panel=CHANGE,
    ),
]
Keys = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT|INDEX",
        show_default="each token in turn",
        help="What it may not look at: all tokens of a text, such as --keys France, or one by its index; several "
        "options for several.",
        rich_help_panel=CHANGE,
    ),
]

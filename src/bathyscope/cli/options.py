"""The options of the commands: their names, help and panels.

What they mean together is in `choices`. Help shows an example of each, and a test reads the examples.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from bathyscope.cli.choices import CANDIDATES, NEW_TOKENS, model_name, readable

READ, WRITE, SHOW, MODEL, OUTPUT = "What to read", "Where to write", "What to show", "Model", "Output"
"""Panels of the help text."""


@dataclass
class Session:
    """What `main` has to know of the options after a command has failed."""

    debug: bool = False


def remember_debug(context: typer.Context, wanted: bool) -> None:
    """Have `main` print tracebacks, and the log of what Bathyscope does."""
    if wanted:
        context.ensure_object(Session).debug = True
        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("bathyscope").setLevel(logging.DEBUG)


# What to read

Text = Annotated[
    str,
    typer.Argument(
        metavar="TEXT",
        callback=readable,
        show_default=False,
        help='What the model reads, such as "Diana, Princess of Wales".',
    ),
]
At = Annotated[
    str,
    typer.Option(
        metavar="last|all|INDEX|TEXT",
        callback=readable,
        help="Which token to look into: --at 3 is the fourth, --at -2 the last but one, --at Princess the last "
        "token of that text, --at all is every token.",
        rich_help_panel=READ,
    ),
]
Layers = Annotated[
    str,
    typer.Option(
        metavar="all|embed|3|3,7|0-10",
        callback=readable,
        help="After which layers to look, such as --layers 0-10 or --layers embed,3,7. They count from 0; "
        "-1 (or embed) is the embedding.",
        rich_help_panel=READ,
    ),
]

# Where to write

PromptName = Annotated[
    Literal["entity-description", "token-identity", "bare", "attribute", "selfie"] | None,
    typer.Option(
        metavar="NAME",
        show_default="entity-description",
        help="A prompt that makes the model speak of what stands in it: entity-description, token-identity, bare, "
        "attribute or selfie, such as --prompt token-identity.",
        rich_help_panel=WRITE,
    ),
]
OwnPrompt = Annotated[
    str | None,
    typer.Option(
        "--text",
        metavar="TEXT",
        callback=readable,
        help='A prompt of your own instead, such as --text "The capital city of x".',
        rich_help_panel=WRITE,
    ),
]
Placeholder = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        callback=readable,
        show_default="x",
        help="With --text: the part of it that is overwritten, the last if it stands there twice, such as "
        '--text "Who is Ann?" --placeholder Ann.',
        rich_help_panel=WRITE,
    ),
]
Chat = Annotated[
    bool | None,
    typer.Option(
        "--chat/--no-chat",
        metavar="",
        show_default="--chat for selfie only",
        help="Put the prompt to a chat model as a user's message, such as --prompt entity-description --chat.",
        rich_help_panel=WRITE,
    ),
]
TargetLayer = Annotated[
    str,
    typer.Option(
        metavar="same|N|all",
        callback=readable,
        help="After which layer to write: the one that was read, a fixed one (--target-layer 2), or every one "
        "(--target-layer all).",
        rich_help_panel=WRITE,
    ),
]
MappingName = Annotated[
    Literal["identity", "norm-match", "scale"] | None,
    typer.Option(
        metavar="NAME",
        show_default="identity",
        help="What is done to a vector before it is written: identity, norm-match (it gets the length of the one "
        "it replaces) or scale, such as --mapping norm-match.",
        rich_help_panel=WRITE,
    ),
]
Factor = Annotated[
    float | None,
    typer.Option(
        "--scale",
        metavar="FACTOR",
        help="Multiply vectors before they are written, such as --scale 2.",
        rich_help_panel=WRITE,
    ),
]

# What to show

NewTokens = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        show_default=str(NEW_TOKENS),
        help="How many tokens the model may write, such as --new-tokens 8.",
        rich_help_panel=SHOW,
    ),
]
NextToken = Annotated[
    bool,
    typer.Option(
        "--next-token",
        metavar="",
        help="Instead of a text, show the likeliest next tokens and their probabilities.",
        rich_help_panel=SHOW,
    ),
]
Top = Annotated[
    int | None,
    typer.Option(
        metavar="K",
        show_default=str(CANDIDATES),
        help="How many next tokens, such as --top 5; it means --next-token.",
        rich_help_panel=SHOW,
    ),
]

# Model

ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        callback=model_name,
        show_default="the embedded model",
        help="A Hugging Face id or a local folder, such as --model gpt2 or --model ./my-model.",
        rich_help_panel=MODEL,
    ),
]
TargetModel = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        callback=model_name,
        show_default="the same",
        help="Another model, which is written to and speaks, such as --target-model ./my-model.",
        rich_help_panel=MODEL,
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        callback=readable,
        help="Branch, tag or commit of the Hugging Face id, such as --revision main.",
        rich_help_panel=MODEL,
    ),
]
Dtype = Annotated[
    Literal["float32", "float64", "bfloat16", "float16"] | None,
    typer.Option(
        metavar="NAME",
        show_default="float32 on a CPU",
        help="Type of the weights: float32, float64, bfloat16 or float16, such as --dtype bfloat16.",
        rich_help_panel=MODEL,
    ),
]
Attention = Annotated[
    Literal["eager", "sdpa"] | None,
    typer.Option(
        metavar="NAME",
        show_default="the model's own",
        help="How attention is computed: eager or sdpa, such as --attention eager.",
        rich_help_panel=MODEL,
    ),
]

# Output

AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        metavar="",
        help="Print one JSON object instead of a table, for another program.",
        rich_help_panel=OUTPUT,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Also write a file: --out diana.json to compute with, --out diana.html to look at.",
        rich_help_panel=OUTPUT,
    ),
]
Explain = Annotated[
    bool,
    typer.Option(
        "--explain",
        metavar="",
        help="With --explain, say on stderr before running what will be run and what each saving saves.",
        rich_help_panel=OUTPUT,
    ),
]
Stored = Annotated[
    bool,
    typer.Option(
        "--store/--no-store",
        metavar="",
        help="--store keeps finished cells, so that none is computed twice (see bathyscope runs); --no-store does not.",
        rich_help_panel=OUTPUT,
    ),
]
Memory = Annotated[
    int | None,
    typer.Option(
        metavar="MB",
        min=1,
        show_default="2048",
        help="How much memory a batch may take above the model, such as --memory 256; less means more batches.",
        rich_help_panel=OUTPUT,
    ),
]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        metavar="",
        callback=remember_debug,
        help="If something fails, print the traceback as well.",
        rich_help_panel=OUTPUT,
    ),
]

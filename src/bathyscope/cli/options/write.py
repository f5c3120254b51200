"""Panel "Where to write": the prompt and the layer that a vector is written into, and what is done to it before."""

from typing import Annotated, Literal

import typer

from bathyscope.cli.choices import readable

WRITE = "Where to write"

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
    str | None,
    typer.Option(
        metavar="same|N|all|below",
        callback=readable,
        show_default="same",
        help="After which layer to write: the one that was read (same), a fixed one (--target-layer 2), every "
        "one (--target-layer all), or every one below it (--target-layer below).",
        rich_help_panel=WRITE,
    ),
]
MappingName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        callback=readable,
        show_default="identity",
        help="What is done to a vector before it is written. --mapping norm-match gives it the length of the one it "
        "replaces, --mapping scale:2 doubles it, --mapping gpt2.safetensors applies what bathyscope mapping fit wrote.",
        rich_help_panel=WRITE,
    ),
]
Factor = Annotated[
    float | None,
    typer.Option(
        "--scale",
        metavar="FACTOR",
        help="Multiply vectors before they are written: --scale 2 is --mapping scale:2.",
        rich_help_panel=WRITE,
    ),
]

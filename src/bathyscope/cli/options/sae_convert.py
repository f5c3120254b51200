"""Panel "Conversion": which coder is read, and how it is written."""

from pathlib import Path
from typing import Annotated, Literal

import typer

CONVERSION = "Conversion"

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A folder or a file with a coder, a folder of such folders, or hf:owner/name/folder@revision.",
    ),
]
Destination = Annotated[Path, typer.Argument(metavar="OUT", help="The folder that is written.")]
To = Annotated[
    Literal["bathyscope", "saelens", "sparsify"],
    typer.Option(
        metavar="FORMAT",
        help="What is written: bathyscope, saelens or sparsify, such as --to saelens.",
        rich_help_panel=CONVERSION,
    ),
]
Site = Annotated[
    str | None,
    typer.Option(
        metavar="SITE",
        show_default="what the file says",
        help="What the coder encodes, such as --site resid_post.12.",
        rich_help_panel=CONVERSION,
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        metavar="SITE",
        show_default="what the file says",
        help="What a transcoder imitates, such as --target mlp_out.12.",
        rich_help_panel=CONVERSION,
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        metavar="",
        help="With --force, another coder that OUT has is replaced.",
        rich_help_panel=CONVERSION,
    ),
]

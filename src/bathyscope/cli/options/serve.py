"""Panel "Server": what is served, where, and whether a browser is opened."""

from typing import Annotated

import typer

from bathyscope.cli.choices import model_name

SERVER = "Server"


def _each_name(names: list[str] | None) -> list[str] | None:
    for name in names or ():
        model_name(name)
    return names


ServedModels = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="NAME",
        callback=_each_name,
        show_default="the embedded model",
        help="A Hugging Face id or a local folder, such as --model gpt2; several where it is given several times. "
        "Pages can ask these models and no others.",
        rich_help_panel=SERVER,
    ),
]
Port = Annotated[
    int,
    typer.Option(
        metavar="PORT",
        min=0,
        max=65535,
        help="Where to listen on 127.0.0.1, such as --port 8000; 0 takes any that is free.",
        rich_help_panel=SERVER,
    ),
]
NoBrowser = Annotated[
    bool,
    typer.Option(
        "--no-browser",
        metavar="",
        help="With --no-browser, only print the address instead of opening it as well.",
        rich_help_panel=SERVER,
    ),
]

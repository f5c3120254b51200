"""Panel "Server": what is served, where, and whether a browser is opened."""

from pathlib import Path
from typing import Annotated

import typer

from bathyscope.cli.choices import model_name, readable

SERVER, FILES = "Server", "What is looked at besides"


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
        show_default="those that the files are of, else the embedded model",
        help="A Hugging Face id or a local folder, such as --model gpt2, or the embedded model by its name, which is "
        "SmolLM2-135M-Instruct; several where it is given several times. Pages can ask these models and no others.",
        rich_help_panel=SERVER,
    ),
]
Circuits = Annotated[
    list[Path] | None,
    typer.Option(
        "--circuit",
        metavar="FILE",
        help="A circuit to look at, whose latents can be ablated, or another graph, such as --circuit circuit.json; "
        "several where it is given several times.",
        rich_help_panel=FILES,
    ),
]
CircuitCoders = Annotated[
    Path | None,
    typer.Option(
        "--coders",
        metavar="DIR",
        show_default="where they lay",
        help="Where the circuits' coders lie now, in DIR/SITE: --coders trained.",
        rich_help_panel=FILES,
    ),
]
Coders = Annotated[
    list[str] | None,
    typer.Option(
        "--coder",
        metavar="DIR",
        callback=lambda paths: paths and [readable(path) for path in paths],
        help="A sparse coder whose latents can be steered with, such as --coder coders/resid_post.12; several where it "
        "is given several times.",
        rich_help_panel=FILES,
    ),
]
Features = Annotated[
    list[Path] | None,
    typer.Option(
        "--features",
        metavar="FILE",
        help="What a text says of a coder's latents, as `bathyscope sae features` saves it in a file, to search and "
        "browse: --features features.json; several where it is given several times.",
        rich_help_panel=FILES,
    ),
]
Mappings = Annotated[
    list[Path] | None,
    typer.Option(
        "--mapping",
        metavar="FILE",
        help="What `bathyscope mapping fit` wrote: a lens to look through, or a way into another model, such as "
        "--mapping tuned.safetensors; several where it is given several times.",
        rich_help_panel=FILES,
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

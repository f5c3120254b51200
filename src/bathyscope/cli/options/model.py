"""Panel "Model": which models are loaded, and how."""

from typing import Annotated, Literal

import typer

from bathyscope.cli.choices import model_name, readable

MODEL = "Model"

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
SourceModel = Annotated[
    str | None,
    typer.Option(
        "--source-model",
        "--model",
        metavar="NAME",
        callback=model_name,
        show_default="the embedded model",
        help="The model that is read: a Hugging Face id or a local folder, such as --source-model gpt2.",
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

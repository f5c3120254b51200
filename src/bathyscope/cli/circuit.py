"""`bathyscope circuit`: which features cause a decision, looked at and handed on."""

import typer

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


@app.callback()
def root() -> None:
    """Look at feature circuits, and convert them for other tools.

    A circuit is what of a model is enough for a decision: features of sparse
    coders at tokens, what each does to the answer, and by way of which others.

    Examples:
      bathyscope circuit show circuit.json
      bathyscope circuit show circuit.json --out circuit.html
      bathyscope circuit convert circuit.json circuit.graph.json
    """

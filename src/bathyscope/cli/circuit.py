"""`bathyscope circuit`: which features of a model cause a decision, and what they stand for."""

import typer

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


@app.callback()
def root() -> None:
    """Put the features of a circuit into words.

    A circuit is the features of a model, at some sites and positions, that are
    enough for a decision. `bathyscope study agreement` finds one.

    Examples:
      bathyscope circuit label circuit.json --text news.txt
      bathyscope circuit label circuit.json --text news.txt --no-describe --json
    """

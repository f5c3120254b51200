"""`bathyscope circuit`: which features cause a decision, from pairs of prompts to a picture that is proved."""

import typer

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


@app.callback()
def root() -> None:
    """Find, check, label, draw and edit circuits of features.

    A circuit is the few features of some sites that a decision goes through:
    run with these alone, all else ablated, the model decides as it does.

    Examples:
      bathyscope circuit find --pairs pairs.jsonl --coders coders --out circuit.json
      bathyscope circuit eval circuit.json --pairs others.jsonl
      bathyscope circuit label circuit.json --text news.txt
      bathyscope circuit edit circuit.json --pairs others.jsonl --set resid_post.8/281
      bathyscope circuit show circuit.json --out circuit.html
    """

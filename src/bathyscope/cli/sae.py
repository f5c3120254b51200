"""`bathyscope sae`: sparse coders, from text to a page that shows what each latent stands for."""

import typer

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


@app.callback()
def root() -> None:
    """Train, measure, read and convert sparse coders.

    A sparse coder (a sparse autoencoder or a transcoder) takes a representation
    apart into the few of its many latents that are active.

    Examples:
      bathyscope sae train --site resid_post.8 --text news.txt --epochs 6 --out trained
      bathyscope sae eval coders --text news.txt --held-out 0.1
      bathyscope sae features coders --text news.txt --html latents.html
      bathyscope sae explain coders --latent 3
      bathyscope sae convert coders/resid_post.8 for-saelens --to saelens
    """

"""`bathyscope sae`: sparse coders, from text to a page that shows what each latent stands for."""

import typer

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


@app.callback()
def root() -> None:
    """Train, measure, read and convert sparse coders.

    A sparse coder (a sparse autoencoder or a transcoder) takes a representation
    apart into the few of its many latents that are active.

    Examples:
      bathyscope sae convert coders/resid_post.12 for-saelens --to saelens
      bathyscope sae convert coders copies --json
    """

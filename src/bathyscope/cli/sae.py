"""`bathyscope sae`: sparse coders, from text to a page that shows what each latent stands for."""

import typer

app = typer.Typer(
    no_args_is_help=True,
    help="Train, measure, read and convert sparse coders (sparse autoencoders and transcoders).",
)

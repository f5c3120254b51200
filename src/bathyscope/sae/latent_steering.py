"""A latent's direction, to steer with: what one more unit of its activation writes."""

from bathyscope.errors import UsageError
from bathyscope.model import Model
from bathyscope.results import provenance
from bathyscope.sae.coder import SparseCoder
from bathyscope.steering import Direction


def latent_direction(model: Model, coder: SparseCoder, latent: int) -> Direction:
    """The decoder row of a latent as a direction for `steer`, whose factors then are units of its activation.

    Adding it is what `Splice` does with `Edit(latent, "add", factor)`, whatever the coder makes of the rest.

    Args:
        model: the model that the coder is for.
        coder: the coder.
        latent: its number.

    Raises:
        UsageError: another model's coder, a latent that it lacks, or a coder that norms its inputs, whose latents
            write what depends on the input.

    Example:
        >>> import bathyscope, torch
        >>> from bathyscope.sae import KeepTop, SparseCoder, latent_direction
        >>> model = bathyscope.load()
        >>> coder = SparseCoder(torch.eye(576), torch.zeros(576), torch.eye(576), torch.zeros(576), KeepTop(9),
        ...     site=model.site("resid_post.12"), target=model.site("resid_post.12"))
        >>> latent_direction(model, coder, 7).norm
        1.0
    """
    site = coder.check(model)[1]
    if not 0 <= latent < coder.n_latents:
        raise UsageError(f"latent {latent} was asked for", f"the coder has latents 0 to {coder.n_latents - 1}")
    if coder.normed:
        raise UsageError(
            f"{coder} was given to steer with", "it norms its inputs: what a latent writes depends on them", "Splice"
        )
    spec = {
        "method": "latent",
        "site": str(site),
        "latent": latent,
        "coder": coder.fingerprint,
        "fingerprint": model.fingerprint,
    }
    vector = coder.decoder[latent].detach().clone().float()
    return Direction(str(site), vector, 0, 0, provenance([model.provenance()], spec))

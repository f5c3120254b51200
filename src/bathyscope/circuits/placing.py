"""Placing: at which sites of a model the latents of coders are features."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from bathyscope.circuits.features import Basis, Latents
from bathyscope.errors import UsageError
from bathyscope.model import Model
from bathyscope.sae import SparseCoder
from bathyscope.sites import Site, residual_site


def coder_site(model: Model, coder: SparseCoder) -> Site:
    """Where a coder's latents are features: what enters a block is called what left the one before it.

    Public coders of GPT-2 stand at `resid_pre`; edges and starts know the residual stream by one name.

    Raises:
        UsageError: the coder is for other weights, or for a site that the model lacks.
    """
    site = coder.check(model)[0]
    if site.component == "resid_pre" and site.layer is not None:
        return residual_site(site.layer - 1)
    return site


def latent_bases(model: Model, coders: Iterable[SparseCoder]) -> dict[Site | str, Basis]:
    """A basis for each coder's site, from below to above.

    Raises:
        UsageError: no coder, two of one site, or a coder for other weights.
    """
    found: dict[Site | str, Basis] = {}
    for coder in coders:
        site = coder_site(model, coder)
        if site in found:
            raise UsageError(f"two coders of {site} were given", "one for each site")
        found[site] = Latents(coder)
    if not found:
        raise UsageError("no coder was given", "at least one is needed", "bathyscope sae train")
    return dict(sorted(found.items(), key=lambda entry: (getattr(entry[0], "layer", 0), str(entry[0]))))


def coder_records(model: Model, coders: Mapping[Path, SparseCoder]) -> dict[str, dict[str, str]]:
    """Where each site's coder lies, and which it is."""
    return {
        str(coder_site(model, coder)): {"path": str(path), "fingerprint": coder.fingerprint}
        for path, coder in coders.items()
    }

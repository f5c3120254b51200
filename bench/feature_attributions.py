"""Attributions of features by integrated gradients: this project beside the method of sparse feature circuits.

    python bench/feature_attributions.py [--pairs 100] [--steps 4] [--blocks 12-19] [--json FILE]

The method of arXiv 2403.19647 goes module by module and step by step: the whole model runs with one module's coder
in its place, features and error between the two runs, and the gradient by the features is taken. Here a gradient by
the activation is taken, from the block on that the site is in, and every feature's is made of it. Same coders (drawn
at random, as large as trained ones), same pairs, same points between the runs; the largest difference is told.

That method's own code (github.com/saprmarks/feature-circuits, attribution.py) calls backward on a model whose
parameters all want gradients, so that those of every weight are computed, too, and thrown away. Here it is timed so,
as published, and with the parameters frozen.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported

import torch
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

import bathyscope
from bathyscope.circuits import Examples, Latents, feature_attributions
from bathyscope.model import Model
from bathyscope.sae import KeepTop, SparseCoder
from bathyscope.sites import Site, parse_layers
from bathyscope.studies.agreement_study.items import Items

COMPONENTS, LATENTS, K = ("attn_out", "mlp_out", "resid_post"), 4608, 32


def main() -> None:
    """Measure both, print their times and the largest difference."""
    asked = _arguments()
    disable_progress_bar()
    torch.set_num_threads(asked.threads)
    model = bathyscope.load()
    examples = Items.of(model, "nounpp", asked.pairs, 4, 0).train
    sites = [Site(name, layer) for layer in parse_layers(asked.blocks, model.n_layers) for name in COMPONENTS]
    bases = {site: Latents(drawn(model, examples, site, seed)) for seed, site in enumerate(sites)}
    began = time.perf_counter()
    ours = feature_attributions(examples, bases, steps=asked.steps)
    every = {site: ours.pairs(site) for site in bases}
    seconds = {"this project": time.perf_counter() - began}
    largest = scale = 0.0
    for name, frozen in (("as published", False), ("parameters frozen", True)):
        model.hf.requires_grad_(not frozen)
        began = time.perf_counter()
        for number, (site, basis) in enumerate(bases.items()):
            found = by_module(model, examples, site, basis.coder, asked.steps)
            largest = max(largest, float((found - every[site]).abs().max()))
            scale = max(scale, float(found.abs().max()))
            print(f"{name}, {site}: {number + 1} of {len(bases)}", file=sys.stderr)
        seconds[name] = time.perf_counter() - began
    told = {
        "pairs": len(examples),
        "steps": asked.steps,
        "sites": len(sites),
        "seconds": seconds,
        "times faster": {
            name: seconds[name] / seconds["this project"] for name in ("as published", "parameters frozen")
        },
        "largest difference": largest,
        "largest effect": scale,
    }
    print(json.dumps(told, indent=1))
    if asked.json is not None:
        asked.json.write_text(json.dumps(told, indent=1), "utf-8")


def drawn(model: Model, examples: Examples, site: Site, seed: int) -> SparseCoder:
    """A coder of random directions, centred on what the site holds."""
    width = model.d_model
    generator = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(LATENTS, width, generator=generator), dim=1)
    read = bathyscope.capture(model, examples.clean, [site])[site]
    mean = torch.stack([one[1:].mean(0) for one in read]).mean(0)
    return SparseCoder(rows, torch.zeros(LATENTS), rows, mean, KeepTop(K), centre=mean, site=site, target=site)


def by_module(model: Model, examples: Examples, site: Site, coder: SparseCoder, steps: int) -> Tensor:
    """One module, one step at a time: the whole model with the coder in its place, (pairs, positions, F + 1)."""
    read = {}
    for name, rows in (("clean", examples.clean), ("corrupted", examples.corrupted)):
        x = torch.stack(list(bathyscope.capture(model, rows, [site])[site]))
        latents = coder.encode(x.flatten(0, 1)).dense().view(*x.shape[:2], -1)
        read[name] = latents, x - latents @ coder.decoder - coder.decoder_bias
    (end, end_error), (start, start_error) = read["clean"], read["corrupted"]
    module = model.hf.get_submodule(model.architecture.module_path(site))
    ids = torch.tensor([row.ids for row in examples.clean])
    gradients: list[list[Tensor]] = []
    for step in range(steps):
        share = (step + 0.5) / steps
        latents = torch.lerp(start, end, share).requires_grad_()
        error = torch.lerp(start_error, end_error, share).requires_grad_()

        def place(
            _module: object, _args: object, output: object, latents: Tensor = latents, error: Tensor = error
        ) -> object:
            made = latents @ coder.decoder + coder.decoder_bias + error
            return (made, *output[1:]) if isinstance(output, tuple) else made

        handle = module.register_forward_hook(place)
        try:
            with torch.enable_grad():
                logits = model.hf(input_ids=ids).logits[:, -1]
                metric = logits.gather(1, examples.answers)
                (metric[:, 0] - metric[:, 1]).sum().backward()
            gradients.append([one.grad for one in (latents, error) if one.grad is not None])
            model.hf.zero_grad(set_to_none=True)
        finally:
            handle.remove()
    by_latents, by_error = (torch.stack([one[part] for one in gradients]).mean(0) for part in (0, 1))
    of_error = (by_error * (end_error - start_error)).sum(-1, keepdim=True)
    return torch.cat([by_latents * (end - start), of_error], -1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure effects of features against the module-by-module method.")
    parser.add_argument("--pairs", type=int, default=100, metavar="N", help="a multiple of 4; default: %(default)s")
    parser.add_argument("--steps", type=int, default=4, metavar="N", help="default: %(default)s")
    parser.add_argument("--blocks", default="12-19", metavar="LAYERS", help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write a file")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: torch's, %(default)s")
    return parser.parse_args()


if __name__ == "__main__":
    main()

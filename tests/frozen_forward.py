"""The slow reference of attribution graphs: the Hugging Face model itself, its patterns and norm scales held by hooks.

Shares nothing with `bathyscope.circuits.attribution_graphs`: norms are written out from their weights, queries and keys
are those of the clean run, transcoders are applied by their definition, and every part of the residual stream has a
factor of its own, 1 in the model, so that a part's contribution is a derivative, or what doubling it changes.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bathyscope import capture
from bathyscope.architectures import Tap
from bathyscope.batches import Batch
from bathyscope.hooks import Hooks
from bathyscope.interventions import Replace, Write
from bathyscope.model import Model
from bathyscope.sae import SparseCoder
from bathyscope.sites import Site


@dataclass
class FrozenForward:
    """Args: the model, a prompt's ids, transcoders, and how many first positions have none."""

    model: Model
    ids: list[int]
    coders: list[SparseCoder]
    sinks: int = 1
    active: dict[int, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)
    errors: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        model = self.model
        self.layers = range(model.n_layers)
        self.by_layer = {coder.target.layer: coder for coder in self.coders}
        self.scales: dict[str, Tensor] = {}
        sites = [Site(name, layer) for layer in self.layers for name in ("q", "k", "mlp_out")]
        read = capture(model, self.ids, [*sites, Site("embed"), *(coder.site for coder in self.coders)])
        self.clean = {site: read[site][0] for site in read}
        self._measure_norms()
        for layer in self.layers:
            out = self.clean[Site("mlp_out", layer)].clone()
            if layer in self.by_layer:
                coder = self.by_layer[layer]
                x = self.clean[coder.site]
                latents = coder.encode(x).dense()
                latents[: self.sinks] = 0
                positions, numbers = latents.nonzero(as_tuple=True)
                self.active[layer] = positions, numbers, latents[positions, numbers]
                made = latents @ coder.decoder.to(x) + coder.decoder_bias.to(x)
                if coder.skip is not None:
                    made = made + x @ coder.skip.to(x)
                out[self.sinks :] -= made[self.sinks :]
            self.errors[layer] = out

    def ones(self) -> dict[str, Tensor]:
        """A factor for each part: features and errors of each layer, and tokens."""
        found = {"tokens": torch.ones(len(self.ids), dtype=self.model.dtype)}
        for layer in self.layers:
            found[f"errors.{layer}"] = torch.ones(len(self.ids), dtype=self.model.dtype)
            if layer in self.active:
                found[f"features.{layer}"] = torch.ones_like(self.active[layer][2])
        return found

    def run(self, factors: dict[str, Tensor]) -> tuple[dict[int, Tensor], Tensor]:
        """Pre-activations of the active features of each layer, and logits of the last position less their mean."""
        batch = Batch(self.model, [self.model.tokenize(self.ids)])
        writes = [
            Write(Site(name, layer), Replace(self.clean[Site(name, layer)]))
            for layer in self.layers
            for name in ("q", "k")
        ]
        self.met: dict[Site, Tensor] = {}
        handles = [*self._norm_hooks(), *self._stream_hooks(), *self._embed_hook(factors["tokens"])]
        handles += [self._mlp_hook(layer, factors) for layer in self.layers]
        handles += self._detached()
        try:
            with Hooks(self.model, batch.window, writes=writes):
                logits = batch.logits()[0, -1]
        finally:
            for handle in handles:
                handle.remove()
        read = {}
        for layer, (positions, numbers, _) in self.active.items():
            coder = self.by_layer[layer]
            x = (
                self.met[coder.site]
                if coder.centre is None
                else self.met[coder.site] - coder.centre.to(self.model.dtype)
            )
            rows = coder.encoder[numbers].to(x)
            read[layer] = (x[positions] * rows).sum(-1) + coder.encoder_bias[numbers].to(x)
        return read, logits - logits.mean()

    def _norms(self) -> dict[str, nn.Module]:
        architecture = self.model.architecture
        return {
            name: module
            for name, module in self.model.hf.named_modules()
            if "Norm" in type(module).__name__
            and (name == architecture.norm or name.startswith(f"{architecture.blocks}."))
            and (name == architecture.norm or name.count(".") == architecture.blocks.count(".") + 2)
        }

    def _measure_norms(self) -> None:
        def measure(name: str, module: nn.Module):
            def hook(_module, args, _output):
                x = args[0]
                centred = x - x.mean(-1, keepdim=True) if _subtracts_mean(module) else x
                eps = getattr(module, "eps", getattr(module, "variance_epsilon", None))
                self.scales[name] = (centred.pow(2).mean(-1, keepdim=True) + eps).rsqrt()

            return hook

        handles = [module.register_forward_hook(measure(name, module)) for name, module in self._norms().items()]
        with torch.no_grad():
            Batch(self.model, [self.model.tokenize(self.ids)]).logits()
        for handle in handles:
            handle.remove()

    def _norm_hooks(self):
        def frozen(name: str, module: nn.Module):
            gain = 1 + module.weight if "Gemma" in type(module).__name__ else module.weight
            bias = getattr(module, "bias", None)

            def hook(_module, args, _output):
                x = args[0]
                centred = x - x.mean(-1, keepdim=True) if _subtracts_mean(module) else x
                return gain * centred * self.scales[name].view(*x.shape[:-1], 1) + (0 if bias is None else bias)

            return hook

        return [module.register_forward_hook(frozen(name, module)) for name, module in self._norms().items()]

    def _detached(self):
        """Queries and keys, without their graph: what is written over them has none, and its zeros would cost time."""
        for layer in self.layers:
            paths = {name: self.model.architecture.module_path(Site(name, layer)) for name in ("q", "k", "v")}
            for path in {paths["q"], paths["k"]} - {paths["v"]}:
                yield self.model.hf.get_submodule(path).register_forward_hook(lambda *seen: seen[2].detach())

    def _stream_hooks(self):
        """What transcoders read, kept with its graph."""

        def keep(site: Site, tap: Tap):
            def before(_module, args, kwargs):
                x = args[0] if args else kwargs["hidden_states"]
                self.met[site] = x.view(len(self.ids), -1)

            def after(_module, _args, output):
                self.met[site] = (output if isinstance(output, Tensor) else output[0])[0]

            return before if tap.side == "in" else after

        for site in {coder.site for coder in self.coders}:
            tap = self.model.tap(site)
            module = self.model.hf.get_submodule(self.model.architecture.module_path(site))
            if tap.side == "in":
                yield module.register_forward_pre_hook(keep(site, tap), with_kwargs=True)
            else:
                yield module.register_forward_hook(keep(site, tap))

    def _embed_hook(self, factors: Tensor):
        tap = self.model.tap(Site("embed"))
        module = self.model.hf.get_submodule(self.model.architecture.module_path(Site("embed")))
        embed = self.clean[Site("embed")] / tap.multiplier
        yield module.register_forward_hook(lambda *_: (factors[:, None] * embed)[None])

    def _mlp_hook(self, layer: int, factors: dict[str, Tensor]):
        tap = self.model.tap(Site("mlp_out", layer))
        module = self.model.hf.get_submodule(self.model.architecture.module_path(Site("mlp_out", layer)))

        def hook(_module, _args, output):
            made = factors[f"errors.{layer}"][:, None] * self.errors[layer]
            if layer in self.by_layer:
                coder, (positions, numbers, activations) = self.by_layer[layer], self.active[layer]
                written = (factors[f"features.{layer}"] * activations)[:, None] * coder.decoder[numbers].to(made)
                rest = coder.decoder_bias.to(made).expand_as(made)
                if coder.skip is not None:
                    rest = rest + self.met[coder.site] @ coder.skip.to(made)
                kept = torch.arange(len(self.ids))[:, None] >= self.sinks
                made = (made + rest * kept).index_add(0, positions, written)
            made = made / tap.multiplier
            return made.view(output.shape) if isinstance(output, Tensor) else (made[None], *output[1:])

        return module.register_forward_hook(hook)


def _subtracts_mean(module: nn.Module) -> bool:
    return "RMS" not in type(module).__name__

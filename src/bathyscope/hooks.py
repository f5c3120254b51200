"""The only file that registers hooks. Each is counted, and each is removed, whatever happens.

`Hooks` carries out reads and writes during the passes run inside its `with` block. A read sees what
the rest of the model sees, that is, the activation after the writes at the same site.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bathyscope.architectures import Tap
from bathyscope.errors import InterventionError
from bathyscope.interventions import CutEdges, Write
from bathyscope.mask_cuts import Cut, cut_mask, open_edges
from bathyscope.model import Model
from bathyscope.sites import Site
from bathyscope.tap_layout import get, lay_out, one_head, pick, put, written
from bathyscope.window import Window


class EnoughRead(Exception):
    """All reads have happened, and the pass need not go on."""


@dataclass
class _Visit:
    """What happens at one site: writes, then a read; one that lends holds what it met for writes elsewhere."""

    site: Site
    tap: Tap
    writes: list[Write] = field(default_factory=list)
    is_read: bool = False
    seen: list[Tensor] = field(default_factory=list)
    fired: set[int] = field(default_factory=set)
    in_tuple: bool = False
    lends: bool = False
    held: tuple[int, Tensor] | None = None


class Hooks:
    """Reads and writes, in force inside a `with` block.

    Args:
        model: the model.
        window: the pass in progress; the caller keeps `start` and `length` up to date.
        reads: sites whose activations are kept.
        writes: what is written; `row` counts the rows of the batch.
        graph: keep the very tensors, for gradients, and start the graph there: at the embedding, or at this site
            of the residual stream.
        stop: end the pass with `EnoughRead` once everything has been read.
    """

    def __init__(
        self,
        model: Model,
        window: Window,
        *,
        reads: Sequence[Site] = (),
        writes: Sequence[Write] = (),
        graph: bool | Site = False,
        stop: bool = False,
    ) -> None:
        self.model, self.window, self.graph, self.stop = model, window, graph, stop
        self._visits: dict[Site, _Visit] = {}
        self._handles: list[RemovableHandle] = []
        self._cuts: dict[str, list[Cut]] = {}
        for write in writes:
            if isinstance(write.intervention, CutEdges):
                path = model.architecture.module_path(write.site)
                self._cuts.setdefault(path, []).append(Cut(write, write.intervention))
            else:
                if write.intervention.reads is not None:
                    self._visit(write.intervention.reads).lends = True
                self._visit(write.site).writes.append(write)
        for site in reads:
            self._visit(site).is_read = True

    def __enter__(self) -> Self:
        modules: dict[tuple[str, str], list[_Visit]] = {}
        for visit in self._visits.values():
            path = self.model.architecture.module_path(visit.site)
            modules.setdefault((path, visit.tap.side), []).append(visit)
        try:
            if self.graph:
                self._start_graph()
            for (path, side), visits in modules.items():
                module = self.model.hf.get_submodule(path)
                self._handles.append(self._register(module, side, visits))
            for path, cuts in self._cuts.items():
                self._handles.append(self._register_cuts(self.model.hf.get_submodule(path), cuts))
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._remove()

    def check(self) -> None:
        """Raise if any read or write did not happen.

        Raises:
            InterventionError: naming the sites.
        """
        silent = [
            f"the {'read' if visit.is_read and not visit.seen else 'write'} at {visit.site}"
            for visit in self._visits.values()
            if (visit.is_read and not visit.seen) or len(visit.fired) < len(visit.writes)
        ]
        silent += [str(cut) for cuts in self._cuts.values() for cut in cuts if not cut.fired]
        if silent:
            raise InterventionError(
                f"{', '.join(silent)} never happened",
                "the model did not call that module, or no pass held that position; nothing of this run can be trusted",
            )

    def activations(self, site: Site) -> list[Tensor]:
        """What was read at a site, a tensor for each row, (positions, ...site shape), padding left out."""
        visit = self._visits[site]
        whole = torch.cat(visit.seen, dim=1) if len(visit.seen) > 1 else visit.seen[0]
        rows = [whole[row, pad:] for row, pad in enumerate(self.window.pads)]
        if visit.tap.axes == "batch head pos key":
            rows = [row[..., pad:] for row, pad in zip(rows, self.window.pads, strict=True)]
        return [row.clone() for row in rows]

    def tensor(self, site: Site) -> Tensor:
        """With `graph`, the very tensor that was met at a site, padding and all: gradients may be taken by it."""
        return self._visits[site].seen[0]

    def in_tuple(self, site: Site) -> bool:
        """Whether the module of a site that was read returns a tuple."""
        return self._visits[site].in_tuple

    def gradients(self, metric: Tensor, sites: Sequence[Site]) -> list[list[Tensor]]:
        """Gradients of a scalar by what was read: for each site one a row, (positions, ...site shape), no padding."""
        visits = [self._visits[site] for site in sites]
        grads = torch.autograd.grad(metric, [visit.seen[0] for visit in visits], allow_unused=True)
        found = []
        for visit, grad in zip(visits, grads, strict=True):
            grad = torch.zeros_like(visit.seen[0]) if grad is None else grad
            # d metric / d (multiplier * tensor) is the tensor's gradient divided by the multiplier.
            whole = self._get(visit, grad) / visit.tap.multiplier**2
            found.append([whole[row, pad:] for row, pad in enumerate(self.window.pads)])
        return found

    def one_head(self, gradient: Tensor, site: Site, head: int) -> Tensor:
        """A gradient by the very tensor that was met at a site, with zero for all but one head in it."""
        return one_head(gradient, self._visits[site].tap, head, self.window.length)

    def _visit(self, site: Site) -> _Visit:
        if site not in self._visits:
            self._visits[site] = _Visit(site, self.model.tap(site))
        return self._visits[site]

    def _register(self, module: nn.Module, side: str, visits: list[_Visit]) -> RemovableHandle:
        if side == "out":

            def after(_module: nn.Module, _args: Any, output: Any) -> Any:
                for visit in visits:
                    visit.in_tuple = isinstance(output, tuple)
                    output = put(output, visit.tap.item, self._happen(visit, pick(output, visit.tap.item)))
                return output

            return module.register_forward_hook(after)

        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            for visit in visits:
                if args:
                    args = (self._happen(visit, args[0]), *args[1:])
                else:
                    kwargs = {**kwargs, "hidden_states": self._happen(visit, kwargs["hidden_states"])}
            return args, kwargs

        return module.register_forward_pre_hook(before, with_kwargs=True)

    def _register_cuts(self, module: nn.Module, cuts: list[Cut]) -> RemovableHandle:
        """Have an attention module read a mask in which edges are closed besides those that are."""

        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            if "attention_mask" not in kwargs:
                raise InterventionError(
                    f"{type(_module).__name__} was given no attention mask by name", "edges are cut in the mask"
                )
            mask, n_heads = kwargs["attention_mask"], self.model.architecture.n_heads
            is_open = open_edges(_module, mask, self.window)
            mask = cut_mask(mask, is_open, cuts, self.window, n_rows=len(hidden), n_heads=n_heads)
            return args, {**kwargs, "attention_mask": mask}

        return module.register_forward_pre_hook(before, with_kwargs=True)

    def _start_graph(self) -> None:
        site = self.graph if isinstance(self.graph, Site) else Site("embed")
        module, item = self.model.hf.get_submodule(self.model.architecture.module_path(site)), self.model.tap(site).item

        def after(_module: nn.Module, _args: Any, output: Any) -> Any:
            return put(output, item, pick(output, item).detach().requires_grad_())

        self._handles.append(module.register_forward_hook(after))

    def _happen(self, visit: _Visit, tensor: Tensor) -> Tensor:
        found = [(index, self.window.find(write)) for index, write in enumerate(visit.writes)]
        if any(places for _, places in found):
            # The tensor may be held by a cache, another hook or the model's own residual: it is copied
            # before it is written, except where that very residual is what has to change.
            tensor = tensor if visit.tap.in_place else tensor.clone()
            laid_out = lay_out(tensor, visit.tap, self.window.length)
            for index, places in found:
                for rows, columns in places:
                    at = (rows.to(tensor.device), columns.to(tensor.device))
                    intervention = visit.writes[index].intervention
                    read = None if intervention.reads is None else self._lent(intervention.reads, visit.site)[at]
                    laid_out[at] = written(laid_out[at], visit.tap, visit.site, intervention, read)
                    visit.fired.add(index)
        if visit.lends:
            visit.held = self.window.start, self._get(visit, tensor).clone()
        if visit.is_read:
            visit.seen.append(tensor if self.graph else self._get(visit, tensor).clone())
            if self.graph and not visit.tap.in_place:
                # A model may go on to add to it in place, as Falcon does, which would make what was met another's sum.
                tensor = tensor.clone()
            if self.stop and all(other.seen for other in self._visits.values()):
                raise EnoughRead
        return tensor

    def _get(self, visit: _Visit, tensor: Tensor) -> Tensor:
        """The activation at a visited site, (batch, positions, ...site shape), in the module's tensor."""
        return get(lay_out(tensor, visit.tap, self.window.length), visit.tap, visit.site)

    def _lent(self, site: Site, to: Site) -> Tensor:
        """What this pass has met at a site, (batch, positions, ...site shape), for a write at another."""
        held = self._visits[site].held
        if held is None or held[0] != self.window.start:
            raise InterventionError(
                f"what is written at {to} depends on {site}, which this pass has not met before",
                "a site is read before what depends on it is written",
            )
        return held[1]

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

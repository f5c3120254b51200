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
from bathyscope.interventions import CutEdges, Intervention, Write
from bathyscope.model import Model
from bathyscope.sites import Site


@dataclass
class Window:
    """The columns of a left-padded batch that the current pass computes.

    Args:
        pads: how many columns of padding each row begins with, (rows,).
        prompt: columns of the whole prompt, padding included.
        start: first column of this pass.
        length: columns of this pass.
    """

    pads: tuple[int, ...]
    prompt: int
    start: int
    length: int

    def find(self, write: Write) -> list[tuple[Tensor, Tensor]]:
        """Rows and columns, within this pass, that a write touches: one pair for each row that it touches.

        Each row is written by itself, so that a row of a batch gets what it would get alone; one intervention of
        `together` is given all rows at once, and has to see to that itself.
        """
        found = []
        for row in range(len(self.pads)) if write.row is None else (write.row,):
            if self.start >= self.prompt:
                columns = [] if write.when == "prompt" else [0]
            elif write.when == "generated":
                columns = []
            else:
                columns = [column - self.start for column in self._columns(write, row)]
            inside = torch.tensor([column for column in columns if 0 <= column < self.length], dtype=torch.long)
            if len(inside):
                found.append((torch.full_like(inside, row), inside))
        if write.intervention.together and found:
            return [(torch.cat([rows for rows, _ in found]), torch.cat([columns for _, columns in found]))]
        return found

    def _columns(self, write: Write, row: int) -> list[int]:
        pad = self.pads[row]
        return [pad + index for index in write.indices(self.prompt - pad)]


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


@dataclass
class _Cut:
    """Edges that are cut, and whether any of them was there."""

    write: Write
    edges: CutEdges
    fired: bool = False

    def __str__(self) -> str:
        keys, queries = list(self.edges.keys), self.write.position
        return f"the cut at {self.write.site} of keys {keys} from positions {queries} (no such edge was open)"


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
        self._cuts: dict[str, list[_Cut]] = {}
        for write in writes:
            if isinstance(write.intervention, CutEdges):
                path = model.architecture.module_path(write.site)
                self._cuts.setdefault(path, []).append(_Cut(write, write.intervention))
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
            whole = _get(_lay_out(grad, visit.tap, self.window.length), visit) / visit.tap.multiplier**2
            found.append([whole[row, pad:] for row, pad in enumerate(self.window.pads)])
        return found

    def one_head(self, gradient: Tensor, site: Site, head: int) -> Tensor:
        """A gradient by the very tensor that was met at a site, with zero for all but one head in it."""
        tap, kept = self._visits[site].tap, torch.zeros_like(gradient)
        given, into = (_lay_out(one, tap, self.window.length) for one in (gradient, kept))
        if tap.columns is not None:
            columns = tap.columns[head].to(gradient.device)
            into[..., columns] = given[..., columns]
        else:
            into.select(into.ndim - 2, head).copy_(given.select(given.ndim - 2, head))
        return kept

    def _visit(self, site: Site) -> _Visit:
        if site not in self._visits:
            self._visits[site] = _Visit(site, self.model.tap(site))
        return self._visits[site]

    def _register(self, module: nn.Module, side: str, visits: list[_Visit]) -> RemovableHandle:
        if side == "out":

            def after(_module: nn.Module, _args: Any, output: Any) -> Any:
                for visit in visits:
                    visit.in_tuple = isinstance(output, tuple)
                    output = _put(output, visit.tap.item, self._happen(visit, _pick(output, visit.tap.item)))
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

    def _register_cuts(self, module: nn.Module, cuts: list["_Cut"]) -> RemovableHandle:
        """Have an attention module read a mask in which edges are closed besides those that are."""

        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            if "attention_mask" not in kwargs:
                raise InterventionError(
                    f"{type(_module).__name__} was given no attention mask by name", "edges are cut in the mask"
                )
            is_open = _open_edges(_module, kwargs["attention_mask"], self.window)
            return args, {**kwargs, "attention_mask": self._cut(kwargs["attention_mask"], is_open, len(hidden), cuts)}

        return module.register_forward_pre_hook(before, with_kwargs=True)

    def _cut(self, mask: Tensor | None, is_open: Tensor, n_rows: int, cuts: list["_Cut"]) -> Tensor | None:
        """The mask with edges closed; where nothing of this pass is cut, the mask itself."""
        found = [(cut, rows, columns) for cut in cuts for rows, columns in self.window.find(cut.write)]
        if not found:
            return mask
        by_head = is_open.shape[1] > 1 or any(cut.write.site.head is not None for cut, _, _ in found)
        n_heads = self.model.architecture.n_heads if by_head else 1
        is_open = is_open.expand(n_rows, n_heads, -1, -1).clone()
        for cut, rows, columns in found:
            row, pad, head = int(rows[0]), self.window.pads[int(rows[0])], cut.write.site.head
            heads = slice(None) if head is None else slice(head, head + 1)
            before = is_open[row, heads][:, columns, pad:]
            after = cut.edges.apply(before)
            cut.fired |= cut.edges.missing_ok or bool((after != before).any())
            if not (kept := after.any(-1).all(0)).all():
                starved = columns[~kept] + self.window.start - pad
                raise InterventionError(
                    f"the cuts at {cut.write.site} leave the query at position {', '.join(map(str, starved.tolist()))} "
                    "no key to attend to",
                    "attention must go somewhere; a token may always attend to itself",
                    "fewer keys",
                )
            is_open[row, heads][:, columns, pad:] = after
        if mask is None or mask.dtype == torch.bool:
            return is_open
        return mask.expand_as(is_open).masked_fill(~is_open, torch.finfo(mask.dtype).min)

    def _start_graph(self) -> None:
        site = self.graph if isinstance(self.graph, Site) else Site("embed")
        module, item = self.model.hf.get_submodule(self.model.architecture.module_path(site)), self.model.tap(site).item

        def after(_module: nn.Module, _args: Any, output: Any) -> Any:
            return _put(output, item, _pick(output, item).detach().requires_grad_())

        self._handles.append(module.register_forward_hook(after))

    def _happen(self, visit: _Visit, tensor: Tensor) -> Tensor:
        found = [(index, self.window.find(write)) for index, write in enumerate(visit.writes)]
        if any(places for _, places in found):
            # The tensor may be held by a cache, another hook or the model's own residual: it is copied
            # before it is written, except where that very residual is what has to change.
            tensor = tensor if visit.tap.in_place else tensor.clone()
            laid_out = _lay_out(tensor, visit.tap, self.window.length)
            for index, places in found:
                for rows, columns in places:
                    at = (rows.to(tensor.device), columns.to(tensor.device))
                    intervention = visit.writes[index].intervention
                    read = None if intervention.reads is None else self._lent(intervention.reads, visit.site)[at]
                    laid_out[at] = _write(laid_out[at], visit, intervention, read)
                    visit.fired.add(index)
        if visit.lends:
            visit.held = self.window.start, _get(_lay_out(tensor, visit.tap, self.window.length), visit).clone()
        if visit.is_read:
            laid_out = _lay_out(tensor, visit.tap, self.window.length)
            visit.seen.append(tensor if self.graph else _get(laid_out, visit).clone())
            if self.graph and not visit.tap.in_place:
                # A model may go on to add to it in place, as Falcon does, which would make what was met another's sum.
                tensor = tensor.clone()
            if self.stop and all(other.seen for other in self._visits.values()):
                raise EnoughRead
        return tensor

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


def _open_edges(module: nn.Module, mask: Tensor | None, window: Window) -> Tensor:
    """Which keys each query of a pass may attend to, (rows or 1, heads or 1, queries, keys)."""
    columns = slice(window.start, window.start + window.length)
    if mask is None:  # attention that knows by itself that it is causal
        keys = torch.arange(columns.stop)
        return (keys <= keys[columns, None])[None, None]
    is_open = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    # GPT-Neo closes what is beyond its local window inside the module, where no mask shows it.
    own = getattr(module, "bias", None)
    if isinstance(own, Tensor) and own.dtype == torch.bool and own.ndim == 4:
        is_open = is_open & own[:, :, columns, : columns.stop]
    return is_open


def _lay_out(tensor: Tensor, tap: Tap, length: int) -> Tensor:
    """A view of the module's tensor as (batch, positions, ...)."""
    if tap.axes in ("batch head pos width", "batch head pos key"):
        return tensor.transpose(1, 2)
    if tap.axes == "rows width":
        return tensor.view(-1, length, tensor.shape[-1])
    return tensor


def _get(laid_out: Tensor, visit: _Visit) -> Tensor:
    """The site's activation, (..., site shape), from the module's tensor, (..., module shape)."""
    tap = visit.tap
    value = laid_out if tap.columns is None else laid_out[..., tap.columns.to(laid_out.device)]
    value = value if tap.multiplier == 1.0 else value * tap.multiplier
    if visit.site.head is None:
        return value
    return value.select(value.ndim - 2, visit.site.head)


def _write(old: Tensor, visit: _Visit, intervention: Intervention, read: Tensor | None) -> Tensor:
    """The module's tensor at the written places, (n, ...), after an intervention on the site within it."""
    tap = visit.tap
    before = _get(old, visit)
    after = intervention.apply(before) if read is None else intervention.apply_given(before, read)
    if after.shape != before.shape:
        raise InterventionError(
            f"{type(intervention).__name__} returned shape {tuple(after.shape)} at {visit.site}",
            f"it must keep the shape {tuple(before.shape)}",
        )
    after = (after if tap.multiplier == 1.0 else after / tap.multiplier).to(old)
    new = old.clone()
    if tap.columns is not None:
        columns = tap.columns if visit.site.head is None else tap.columns[visit.site.head]
        new[..., columns.to(old.device)] = after
    elif visit.site.head is not None:
        new.select(new.ndim - 2, visit.site.head).copy_(after)
    else:
        new = after
    return new


def _pick(output: Any, item: int) -> Tensor:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, (tuple, list)):
        return output[item]
    return output.logits


def _put(output: Any, item: int, value: Tensor) -> Any:
    if isinstance(output, Tensor):
        return value
    if isinstance(output, (tuple, list)):
        return (*output[:item], value, *output[item + 1 :])
    output.logits = value
    return output

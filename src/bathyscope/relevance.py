"""Relevance: gradients by the rules of layer-wise relevance propagation, for any model, while a context is open.

What is not linear is held as it is at the input: a norm's scale and the pattern of attention (arXiv 2202.07304), the
share that an activation function lets through, and of a product of two branches each gets half (arXiv 2402.05602).
What is left is linear in the representation, so that gradient times input adds up. RelP (arXiv 2508.21258) puts such
coefficients in the place of gradients.

Rules are put where a model calls torch, not where a table says that a family has its norms. What a model computes stays
what it is; only gradients are others. Whether every rule was met is checked: a model whose norms or attention were not
seen is refused.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from bathyscope.errors import InterventionError
from bathyscope.model import Model

ACTIVATIONS: Final = (functional.silu, functional.gelu, functional.relu, functional.relu6, functional.leaky_relu)
SCALES: Final = (torch.rsqrt, Tensor.rsqrt)
NORMS: Final = (functional.layer_norm, functional.rms_norm)
PATTERNS: Final = (functional.softmax, torch.softmax, Tensor.softmax)
PRODUCTS: Final = (torch.mul, Tensor.mul, Tensor.__mul__)
HOMES: Final = ("transformers.activations", "torch.nn.modules.activation")
SMALLEST: Final = 1e-6
"""An input of an activation function that is nearer to 0 is taken for this, so that its share is that of its slope."""


@contextmanager
def relevance(model: Model, blocks: int | None = None) -> Iterator[None]:
    """While open, gradients through a model are relevance coefficients.

    Args:
        model: the model.
        blocks: how many of its blocks are run meanwhile; all unless said.

    Raises:
        InterventionError: when it closes: fewer norms or attentions were met than there are blocks.

    Example:
        >>> import bathyscope, torch
        >>> from bathyscope import differentiate
        >>> from bathyscope.relevance import relevance
        >>> model = bathyscope.load()
        >>> with relevance(model):
        ...     out = model.hf(inputs_embeds=torch.zeros(1, 2, model.d_model, requires_grad=True))
    """
    rules = _Rules()
    handles = [module.register_forward_hook(rules.of_module) for module in model.hf.modules() if _is_activation(module)]
    try:
        with rules:
            yield
    finally:
        for handle in handles:
            handle.remove()
    rules.check(model, model.n_layers if blocks is None else blocks)


class _Rules(TorchFunctionMode):
    """What torch's functions do meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = self.attentions = 0
        self._gates: list[Tensor] = []
        """What activation functions made last: a product with one of them is a gate's."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        given = dict(kwargs or {})
        if func is functional.scaled_dot_product_attention:
            self.attentions += 1
            query, key, *rest = args
            return func(query.detach(), key.detach(), *rest, **given)
        if func in PATTERNS:
            self.attentions += 1
            return func(*args, **given).detach()
        if func in SCALES:
            self.norms += 1
            return func(*args, **given).detach()
        if func in NORMS:
            self.norms += 1
            return _held_norm(func, *args, **given)
        if func in (torch.tanh, Tensor.tanh):  # of logits that are capped
            return _identity(args[0], func(*args, **given))
        if func in ACTIVATIONS:
            return self._gate(_identity(args[0], func(*args, **given)))
        if func in PRODUCTS and any(one is gate for one in args for gate in self._gates):
            return _halved(*args)
        return func(*args, **given)

    def of_module(self, module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        """The identity rule for an activation function that is a module, whatever it is made of."""
        del module
        return self._gate(_identity(args[0], out.detach()))

    def check(self, model: Model, blocks: int) -> None:
        """Refuse gradients that are none of these."""
        if min(self.norms, self.attentions) < blocks:
            raise InterventionError(
                f"{self.norms} norms and {self.attentions} attentions were met in {blocks} blocks of {model.name}",
                "relevance has rules for torch's own norms and attention",
                "another method",
            )

    def _gate(self, made: Tensor) -> Tensor:
        self._gates = [made]
        return made


def _identity(x: Tensor, out: Tensor) -> Tensor:
    """What an activation function made, as its input times a share that is held."""
    if not x.requires_grad:
        return out.detach()
    safe = torch.where(x.detach().abs() < SMALLEST, SMALLEST, x.detach())
    share = out.detach() / safe
    return out.detach() + (x - x.detach()) * share


def _halved(one: Tensor, other: Tensor) -> Tensor:
    """A product each of whose factors gets half of the gradient."""
    a, b = one.detach(), other.detach()
    return a * b + 0.5 * ((one - a) * b + (other - b) * a)


def _held_norm(func: Callable[..., Tensor], x: Tensor, shape: Any, *args: Any, **kwargs: Any) -> Tensor:
    """A norm of torch with its scale held: the same value, another gradient."""
    out = func(x.detach(), shape, *args, **kwargs).detach()
    axes = tuple(range(-len(tuple(shape)), 0))
    change = x - x.detach()
    weight = kwargs.get("weight", args[0] if args else None)
    if func is functional.layer_norm:
        eps = kwargs.get("eps", args[2] if len(args) > 2 else 1e-5)
        change = change - change.mean(axes, keepdim=True)
        scale = (x.detach().var(axes, correction=0, keepdim=True) + eps).rsqrt()
    else:
        eps = kwargs.get("eps", args[1] if len(args) > 1 else None)
        smallest = torch.finfo(x.dtype).eps if eps is None else eps
        scale = (x.detach().square().mean(axes, keepdim=True) + smallest).rsqrt()
    change = change * scale
    return out + (change if weight is None else change * weight.detach())


def _is_activation(module: nn.Module) -> bool:
    """Whether a module is an activation function: without parameters, of torch's or transformers' own, or called so."""
    kind = type(module)
    return (
        (kind.__module__ in HOMES or "gelu" in kind.__name__.lower())
        and not isinstance(module, (nn.Softmax, nn.LogSoftmax, nn.MultiheadAttention))
        and not any(True for _ in module.parameters())
    )

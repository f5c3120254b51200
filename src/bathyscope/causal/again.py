"""Causal runs of the store, asked once more: what is there is not computed again, and what is missing is."""

from collections.abc import Mapping
from typing import Any, Final

from bathyscope.causal.knockout import attention_knockout
from bathyscope.causal.patching import activation_patching
from bathyscope.causal.result import CausalResult
from bathyscope.causal.tracing import NoiseRule, causal_tracing
from bathyscope.errors import UsageError
from bathyscope.model import Model, Tokens
from bathyscope.readouts import Metric, readout_of


def causal_again(spec: Mapping[str, Any], model: Model, **options: Any) -> CausalResult:
    """Ask once more what a stored run asked.

    Args:
        spec: the run's spec, as `Store.show` gives it.
        model: the model that the spec names.
        options: see `RunOptions`.

    Raises:
        UsageError: the run is of another method, or was stored when runs did not yet say what they read.
    """
    method = METHODS.get(spec["method"])
    if method is None:
        raise UsageError(
            f"the run is of {spec['method']}", f"those of {', '.join(METHODS)} say enough", "the same call"
        )
    if "prompts" not in spec or "component" not in spec:
        raise UsageError(
            "the run was stored by an older version, which did not keep its prompts",
            "asked again it costs nothing",
            "the command that made it",
        )
    metric = readout_of(spec)
    assert isinstance(metric, Metric)
    prompts = {
        role: Tokens(one["prompt"], tuple(one["ids"]), tuple(one["tokens"])) for role, one in spec["prompts"].items()
    }
    return method(spec, model, prompts, metric, options)


def _patching(
    spec: Mapping[str, Any], model: Model, prompts: Mapping[str, Tokens], metric: Metric, options: Mapping[str, Any]
) -> CausalResult:
    return activation_patching(
        model,
        prompts["clean"],
        prompts["corrupted"],
        metric,
        component=spec["component"],
        layers=spec["layers"],
        position=[one for group in spec["positions"] for one in group],
        together=any(len(group) > 1 for group in spec["positions"]),
        heads=spec["heads"],
        window=spec["window"],
        direction=spec["direction"],
        **options,
    )


def _tracing(
    spec: Mapping[str, Any], model: Model, prompts: Mapping[str, Tokens], metric: Metric, options: Mapping[str, Any]
) -> CausalResult:
    return causal_tracing(
        model,
        prompts["prompt"],
        spec["subject"],
        metric,
        component=spec["component"],
        layers=spec["layers"],
        position=spec["positions"],
        window=spec["window"],
        noise=NoiseRule(std=spec["noise"]["strength"], uniform=spec["noise"]["uniform"]),
        samples=spec["samples"],
        seed=spec["seed"],
        **options,
    )


def _knockout(
    spec: Mapping[str, Any], model: Model, prompts: Mapping[str, Tokens], metric: Metric, options: Mapping[str, Any]
) -> CausalResult:
    return attention_knockout(
        model,
        prompts["prompt"],
        metric,
        queries=spec["queries"],
        keys=spec["keys"],
        layers=spec["layers"],
        heads=spec["heads"],
        window=spec["window"],
        **options,
    )


METHODS: Final = {
    "activation-patching": _patching,
    "causal-tracing": _tracing,
    "attention-knockout": _knockout,
}
"""The methods whose runs can be asked again, by the name in their specs."""

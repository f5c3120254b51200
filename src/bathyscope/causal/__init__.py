"""Causal methods: change a run at one place, and measure what that does to the answer."""

from bathyscope.causal.back_patch import back_patching
from bathyscope.causal.knockout import attention_knockout
from bathyscope.causal.linearised import LinearisedPath, linearised_path_patching
from bathyscope.causal.measuring import RunOptions
from bathyscope.causal.patching import activation_patching
from bathyscope.causal.paths import path_patching
from bathyscope.causal.result import CausalCell, CausalResult
from bathyscope.causal.tracing import NoiseRule, causal_tracing

__all__ = [
    "CausalCell",
    "CausalResult",
    "LinearisedPath",
    "NoiseRule",
    "RunOptions",
    "activation_patching",
    "attention_knockout",
    "back_patching",
    "causal_tracing",
    "linearised_path_patching",
    "path_patching",
]

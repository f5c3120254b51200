"""Causal methods: change a run at one place, and measure what that does to the answer."""

from bathyscope.causal.again import causal_again
from bathyscope.causal.back_patch import back_patching
from bathyscope.causal.knockout import attention_knockout
from bathyscope.causal.measuring import RunOptions
from bathyscope.causal.patching import activation_patching
from bathyscope.causal.paths import path_patching
from bathyscope.causal.result import CausalCell, CausalResult
from bathyscope.causal.tracing import NoiseRule, causal_tracing

__all__ = [
    "CausalCell",
    "CausalResult",
    "NoiseRule",
    "RunOptions",
    "activation_patching",
    "attention_knockout",
    "back_patching",
    "causal_again",
    "causal_tracing",
    "path_patching",
]

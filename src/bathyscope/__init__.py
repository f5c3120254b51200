"""Bathyscope shows what language models hold inside.

Public names are resolved when they are first used: importing the package loads neither torch nor
transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bathyscope import (
        attribution,
        causal,
        circuits,
        controls,
        engine,
        facts,
        fitting,
        interventions,
        lenses,
        mappings,
        probing,
        prompts,
        readouts,
        sae,
        steering,
        studies,
        texts,
    )
    from bathyscope.errors import BathyscopeError
    from bathyscope.forward import Activations, Run, capture, differentiate, run
    from bathyscope.generation import Continuation, generate
    from bathyscope.interventions import Intervention, Write
    from bathyscope.lens_result import LensCell, LensResult
    from bathyscope.loading import load, wrap
    from bathyscope.model import Model
    from bathyscope.patchscope_request import Source, Target
    from bathyscope.patchscope_result import ControlCell, PatchscopeCell, PatchscopeResult
    from bathyscope.patchscopes import patchscope, plan_patchscope
    from bathyscope.results import Result
    from bathyscope.sites import Site
    from bathyscope.store import Store

__version__: str

_WHERE = {
    "errors": ("BathyscopeError",),
    "forward": ("Activations", "Run", "capture", "differentiate", "run"),
    "generation": ("Continuation", "generate"),
    "interventions": ("Intervention", "Write"),
    "lens_result": ("LensCell", "LensResult"),
    "loading": ("load", "wrap"),
    "model": ("Model",),
    "patchscope_request": ("Source", "Target"),
    "patchscope_result": ("ControlCell", "PatchscopeCell", "PatchscopeResult"),
    "patchscopes": ("patchscope", "plan_patchscope"),
    "store": ("Store",),
    "results": ("Result",),
    "sites": ("Site",),
}
_HOME = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "Activations",
    "BathyscopeError",
    "Continuation",
    "ControlCell",
    "Intervention",
    "LensCell",
    "LensResult",
    "Model",
    "PatchscopeCell",
    "PatchscopeResult",
    "Result",
    "Run",
    "Site",
    "Source",
    "Store",
    "Target",
    "Write",
    "attribution",
    "capture",
    "causal",
    "circuits",
    "controls",
    "differentiate",
    "engine",
    "facts",
    "fitting",
    "generate",
    "interventions",
    "lenses",
    "load",
    "mappings",
    "patchscope",
    "plan_patchscope",
    "probing",
    "prompts",
    "readouts",
    "run",
    "sae",
    "steering",
    "studies",
    "texts",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"bathyscope.{_HOME[name]}"), name)
    if name == "__version__":
        from importlib import metadata  # a tenth of what it takes to print help

        return metadata.version("bathyscope")
    if name in __all__:
        return import_module(f"bathyscope.{name}")
    raise AttributeError(f"module 'bathyscope' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

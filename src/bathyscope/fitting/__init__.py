"""Fitting: mappings made from what models do on text. What a fitted mapping is stands in `mappings.affine`."""

from bathyscope.fitting.future import fit_future_lens
from bathyscope.fitting.jacobian import fit_jacobian_lens
from bathyscope.fitting.jacobian_files import load_jacobian_lens, save_jacobian_lens
from bathyscope.fitting.regression import fit_affine
from bathyscope.fitting.relations import faithfulness, fit_relation, relation_edit
from bathyscope.fitting.sinks import usable
from bathyscope.fitting.soft_prompts import fit_soft_prompt
from bathyscope.fitting.tuned import fit_tuned_lens

__all__ = [
    "faithfulness",
    "fit_affine",
    "fit_future_lens",
    "fit_jacobian_lens",
    "fit_relation",
    "fit_soft_prompt",
    "fit_tuned_lens",
    "load_jacobian_lens",
    "relation_edit",
    "save_jacobian_lens",
    "usable",
]

"""Studies: one question asked of many texts, layers and methods, with intervals and controls."""

from bathyscope.studies.asked import NextTokenChoices
from bathyscope.studies.cross_model_result import PROMPTS, CrossModelResult
from bathyscope.studies.cross_model_study import cross_model
from bathyscope.studies.crossing import CrossModelChoices
from bathyscope.studies.fitted import LensFit, lens_folder
from bathyscope.studies.next_token_result import NextTokenResult
from bathyscope.studies.next_token_study import lens_fits, next_token, plan_next_token
from bathyscope.studies.pairs import rotated, save_pair, truncated
from bathyscope.studies.result import StudyResult
from bathyscope.studies.slicing import Sliced, sliced
from bathyscope.studies.unseen import parted
from bathyscope.studies.ways import METHODS, check_methods

__all__ = [
    "METHODS",
    "PROMPTS",
    "CrossModelChoices",
    "CrossModelResult",
    "LensFit",
    "NextTokenChoices",
    "NextTokenResult",
    "Sliced",
    "StudyResult",
    "check_methods",
    "cross_model",
    "lens_fits",
    "lens_folder",
    "next_token",
    "parted",
    "plan_next_token",
    "rotated",
    "save_pair",
    "sliced",
    "truncated",
]

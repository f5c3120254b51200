"""Studies: one question asked of many texts, layers and methods, with intervals and controls."""

from bathyscope.studies.asked import NextTokenChoices
from bathyscope.studies.fitted import LensFit, lens_folder
from bathyscope.studies.next_token import lens_fits, next_token, plan_next_token
from bathyscope.studies.next_token_result import NextTokenResult
from bathyscope.studies.result import StudyResult
from bathyscope.studies.ways import METHODS, check_methods

__all__ = [
    "METHODS",
    "LensFit",
    "NextTokenChoices",
    "NextTokenResult",
    "StudyResult",
    "check_methods",
    "lens_fits",
    "lens_folder",
    "next_token",
    "plan_next_token",
]

"""Studies: one question asked of many texts, layers and methods, with intervals and controls."""

from bathyscope.studies.asked import NextTokenChoices
from bathyscope.studies.attribute_asked import AttributeChoices
from bathyscope.studies.attribute_result import AttributeExtractionResult
from bathyscope.studies.attribute_study import attribute_extraction, plan_attribute_extraction
from bathyscope.studies.cross_model_result import PROMPTS, CrossModelResult
from bathyscope.studies.cross_model_study import cross_model
from bathyscope.studies.crossing import CrossModelChoices
from bathyscope.studies.entity_asked import EntityResolutionChoices, drawn_entities
from bathyscope.studies.entity_result import EntityResolutionResult
from bathyscope.studies.entity_study import entity_resolution
from bathyscope.studies.fitted import LensFit, lens_folder
from bathyscope.studies.multihop_result import MultihopResult
from bathyscope.studies.multihop_study import MultihopChoices, multihop, plan_multihop
from bathyscope.studies.next_token_result import NextTokenResult
from bathyscope.studies.next_token_study import lens_fits, next_token, plan_next_token
from bathyscope.studies.pairs import rotated, save_pair, truncated
from bathyscope.studies.result import StudyResult
from bathyscope.studies.slicing import Sliced, sliced
from bathyscope.studies.tokenization_asked import TokenizationChoices, drawn_words
from bathyscope.studies.tokenization_result import TokenizationResult
from bathyscope.studies.tokenization_study import tokenization
from bathyscope.studies.unseen import parted
from bathyscope.studies.ways import METHODS, check_methods

__all__ = [
    "METHODS",
    "PROMPTS",
    "AttributeChoices",
    "AttributeExtractionResult",
    "CrossModelChoices",
    "CrossModelResult",
    "EntityResolutionChoices",
    "EntityResolutionResult",
    "LensFit",
    "MultihopChoices",
    "MultihopResult",
    "NextTokenChoices",
    "NextTokenResult",
    "Sliced",
    "StudyResult",
    "TokenizationChoices",
    "TokenizationResult",
    "attribute_extraction",
    "check_methods",
    "cross_model",
    "drawn_entities",
    "drawn_words",
    "entity_resolution",
    "lens_fits",
    "lens_folder",
    "multihop",
    "next_token",
    "parted",
    "plan_attribute_extraction",
    "plan_multihop",
    "plan_next_token",
    "rotated",
    "save_pair",
    "sliced",
    "tokenization",
    "truncated",
]

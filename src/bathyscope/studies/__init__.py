"""Studies: one question asked of many texts, layers and methods, with intervals and controls."""

from bathyscope.studies.agreement_study.result import AgreementResult
from bathyscope.studies.agreement_study.study import AgreementChoices, agreement
from bathyscope.studies.attribute_extraction_study.asked import AttributeChoices
from bathyscope.studies.attribute_extraction_study.result import AttributeExtractionResult
from bathyscope.studies.attribute_extraction_study.study import attribute_extraction, plan_attribute_extraction
from bathyscope.studies.cross_model_study.asked import CrossModelChoices
from bathyscope.studies.cross_model_study.pairs import rotated, save_pair, truncated
from bathyscope.studies.cross_model_study.result import PROMPTS, CrossModelResult
from bathyscope.studies.cross_model_study.slicing import Sliced, sliced
from bathyscope.studies.cross_model_study.study import cross_model
from bathyscope.studies.entity_resolution_study.asked import EntityResolutionChoices, drawn_entities
from bathyscope.studies.entity_resolution_study.result import EntityResolutionResult
from bathyscope.studies.entity_resolution_study.study import entity_resolution
from bathyscope.studies.multihop_study.result import MultihopResult
from bathyscope.studies.multihop_study.study import MultihopChoices, multihop, plan_multihop
from bathyscope.studies.next_token_study.asked import NextTokenChoices
from bathyscope.studies.next_token_study.fitted import LensFit, lens_folder
from bathyscope.studies.next_token_study.result import NextTokenResult
from bathyscope.studies.next_token_study.study import lens_fits, next_token, plan_next_token
from bathyscope.studies.next_token_study.ways import METHODS, check_methods
from bathyscope.studies.result import StudyResult
from bathyscope.studies.tokenization_study.asked import TokenizationChoices, drawn_words
from bathyscope.studies.tokenization_study.result import TokenizationResult
from bathyscope.studies.tokenization_study.study import tokenization
from bathyscope.studies.toy_agreement_study.result import ToyAgreementResult
from bathyscope.studies.toy_agreement_study.study import toy_agreement
from bathyscope.studies.unseen import parted

__all__ = [
    "METHODS",
    "PROMPTS",
    "AgreementChoices",
    "AgreementResult",
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
    "ToyAgreementResult",
    "agreement",
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
    "toy_agreement",
    "truncated",
]

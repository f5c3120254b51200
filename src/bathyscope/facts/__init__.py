"""Facts to ask a model about: the project's own tables, relations of the public format, and two-hop questions.

Beside them, sentences whose verb agrees with a noun. Knows no model. The tables and word lists are in
`bathyscope/data`, as files that can be read and checked by eye.
"""

from bathyscope.facts.agreement import AGREEMENT_CASES, AgreementPair, agreement_pairs, agreement_sentences
from bathyscope.facts.agreement_files import load_agreement, write_agreement
from bathyscope.facts.agreement_words import Forms, agreement_distractors, agreement_nouns
from bathyscope.facts.joins import TwoHop, two_hops
from bathyscope.facts.lists import Entity, SplitWord, contexts, entities, load_entities, split_words
from bathyscope.facts.own import own_relation, own_relations
from bathyscope.facts.relations import Fact, Relation, load_relation

__all__ = [
    "AGREEMENT_CASES",
    "AgreementPair",
    "Entity",
    "Fact",
    "Forms",
    "Relation",
    "SplitWord",
    "TwoHop",
    "agreement_distractors",
    "agreement_nouns",
    "agreement_pairs",
    "agreement_sentences",
    "contexts",
    "entities",
    "load_agreement",
    "load_entities",
    "load_relation",
    "own_relation",
    "own_relations",
    "split_words",
    "two_hops",
    "write_agreement",
]

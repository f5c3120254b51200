"""Facts to ask a model about: the project's own tables, relations of the public format, and two-hop questions.

Knows no model. The tables are in `bathyscope/data`, as files that can be read and checked by eye.
"""

from bathyscope.facts.joins import TwoHop, two_hops
from bathyscope.facts.lists import Entity, SplitWord, contexts, entities, load_entities, split_words
from bathyscope.facts.own import own_relation, own_relations
from bathyscope.facts.relations import Fact, Relation, load_relation

__all__ = [
    "Entity",
    "Fact",
    "Relation",
    "SplitWord",
    "TwoHop",
    "contexts",
    "entities",
    "load_entities",
    "load_relation",
    "own_relation",
    "own_relations",
    "split_words",
    "two_hops",
]

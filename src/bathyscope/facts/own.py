"""The project's own relations, by name."""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from bathyscope.errors import UsageError, nearest
from bathyscope.facts.relations import Relation, relation_of


@cache
def own_relations() -> Mapping[str, Relation]:
    """The project's own tables of facts by name, in alphabetical order.

    Example:
        >>> from bathyscope.facts import own_relations
        >>> len(own_relations()), len(own_relations()["landmark-country"].facts)
        (12, 88)
    """
    folder = files("bathyscope") / "data" / "relations"
    found = sorted((one for one in folder.iterdir() if one.name.endswith(".json")), key=lambda one: one.name)
    relations = (relation_of(json.loads(one.read_text("utf-8")), one.name) for one in found)
    return MappingProxyType({relation.name: relation for relation in relations})


def own_relation(name: str) -> Relation:
    """One of the project's own relations.

    Raises:
        UsageError: there is none of that name; says which there are.

    Example:
        >>> from bathyscope.facts import own_relation
        >>> own_relation("animal-class").facts[0]
        Fact(subject='alligator', object='reptile')
    """
    if name not in own_relations():
        there = ", ".join(own_relations())
        likely = nearest(name, own_relations())
        raise UsageError(f"no relation is called {name!r}", f"there are {there}", f"{likely}, or a FILE.json")
    return own_relations()[name]

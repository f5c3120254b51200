"""The project's own lists: entities with descriptions, words that a tokenizer splits, sentences to stand in."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from bathyscope.errors import UsageError
from bathyscope.facts.relations import read_json

REMEDY = '[{"name": "Paris", "type": "city", "description": "Capital city of France"}]'


@dataclass(frozen=True)
class Entity:
    """Something with a name.

    Args:
        name: such as "Paris".
        type: what it is: "person", "city", "country", "company", "work" or "landmark" in the project's own list.
        description: a few words that say what or who it is.
    """

    name: str
    type: str
    description: str


@dataclass(frozen=True)
class SplitWord:
    """An English word that the embedded model's tokenizer splits, with and without a space before it.

    Args:
        word: such as "woodpecker".
        gloss: one word that says what it is, and is not in it: "bird".
    """

    word: str
    gloss: str


@cache
def entities() -> tuple[Entity, ...]:
    """The project's own well-known entities, by type and then by name.

    Example:
        >>> from bathyscope.facts import entities
        >>> entities()[0]
        Entity(name='Amsterdam', type='city', description='Capital city of the Netherlands')
    """
    return _entities(_own("entities.json"), "entities.json")


def load_entities(path: str | Path) -> tuple[Entity, ...]:
    """Read entities from a JSON file: a list of objects with "name", "type" and "description".

    Raises:
        StorageError: the file is missing or not JSON.
        UsageError: it is no such list, a cell is empty, or a name stands there twice.

    Example:
        >>> import pathlib, tempfile
        >>> from bathyscope.facts import load_entities
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "entities.json"
        >>> _ = path.write_text('[{"name": "Paris", "type": "city", "description": "Capital city of France"}]')
        >>> load_entities(path)
        (Entity(name='Paris', type='city', description='Capital city of France'),)
    """
    return _entities(read_json(Path(path), "entities"), str(path))


@cache
def split_words() -> tuple[SplitWord, ...]:
    """The project's own words that the embedded model's tokenizer splits, in alphabetical order.

    Example:
        >>> from bathyscope.facts import split_words
        >>> len(split_words()), split_words()[0]
        (71, SplitWord(word='accordion', gloss='instrument'))
    """
    return tuple(SplitWord(**one) for one in _own("split_words.json"))


@cache
def contexts() -> tuple[str, ...]:
    """Sentences that a subject can stand in, at their end, where its place is "{}"; none says anything about it.

    Example:
        >>> from bathyscope.facts import contexts
        >>> contexts()[0].format("Paris")
        'Yesterday I was reading about Paris'
    """
    return tuple((files("bathyscope") / "data" / "contexts.txt").read_text("utf-8").splitlines())


def _own(name: str) -> Any:
    return json.loads((files("bathyscope") / "data" / name).read_text("utf-8"))


def _entities(data: Any, where: str) -> tuple[Entity, ...]:
    if not isinstance(data, list) or not data:
        raise UsageError(f"{where} holds no list of entities", "a list with at least one is needed", REMEDY)
    found: dict[str, Entity] = {}
    for number, one in enumerate(data, 1):
        given = {name: one.get(name) for name in ("name", "type", "description")} if isinstance(one, dict) else {}
        cells = {name: cell.strip() for name, cell in given.items() if isinstance(cell, str) and cell.strip()}
        if len(cells) < 3:
            lacking = " and ".join(name for name in given if name not in cells) or "everything"
            raise UsageError(
                f"entity {number} of {where} lacks {lacking}", "name, type and description are text", REMEDY
            )
        if cells["name"] in found:
            raise UsageError(f"{where} has {cells['name']!r} twice", "an entity is there once", "one of them")
        found[cells["name"]] = Entity(**cells)
    return tuple(found.values())

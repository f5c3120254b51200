"""Relations: pairs of a subject and an object, with sentences that ask for the object.

The format is that of the public relation files (arXiv 2308.09124), one JSON object a relation. Three
templates are this project's own, and are made from the others where a file lacks them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bathyscope.errors import StorageError, UsageError

PLACE: Final = "{}"
"""Where a template has the subject."""
REMEDY: Final = (
    '{"name": "...", "prompt_templates": ["The capital of {} is"], "samples": [{"subject": "...", "object": "..."}]}'
)


@dataclass(frozen=True)
class Fact:
    """One pair of a relation, such as France and Paris."""

    subject: str
    object: str


@dataclass(frozen=True)
class Relation:
    """A relation: what is asked of each of its subjects.

    Args:
        name: such as "country-capital".
        facts: the pairs; no subject twice with the same object.
        prompt_templates: sentences with the subject at "{}", behind which the object comes next.
        zero_shot_templates: the same, understood without examples; never empty.
        extraction_template: a phrase with the subject at "{}", at its very end where that is possible: a target
            prompt that says the object of whatever is written there.
        extraction_from: where that phrase comes from: "extraction_template" of the file, or the template that it
            was cut from.
        hop1_template: a phrase for the object, by its subject: "the country where {} is located"; None if unknown.
        hop2_template: what stands before a subject to ask for its object: "The capital city of"; None if unknown.
        properties: what else the file says: "relation_type", "domain_name", "range_name", "symmetric".

    Example:
        >>> from bathyscope.facts import own_relation
        >>> relation = own_relation("country-capital")
        >>> relation.ask("France"), relation.objects[:2]
        ('The capital of France is', ('Algiers', 'Buenos Aires'))
    """

    name: str
    facts: tuple[Fact, ...]
    prompt_templates: tuple[str, ...]
    zero_shot_templates: tuple[str, ...]
    extraction_template: str
    extraction_from: str = "extraction_template"
    hop1_template: str | None = None
    hop2_template: str | None = None
    properties: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subjects, in the file's order."""
        return tuple(fact.subject for fact in self.facts)

    @property
    def objects(self) -> tuple[str, ...]:
        """Every object once, in the file's order: the classes of a probe."""
        return tuple(dict.fromkeys(fact.object for fact in self.facts))

    def ask(self, subject: str) -> str:
        """The first zero-shot sentence about a subject; the object should come next."""
        return self.zero_shot_templates[0].replace(PLACE, subject)


def load_relation(path: str | Path) -> Relation:
    """Read a relation of the public format.

    Fields that other tools add are left alone. A pair that stands there twice is taken once.

    Args:
        path: a JSON file with "name", "samples" of "subject" and "object", and "prompt_templates",
            "prompt_templates_zs" or both. "extraction_template", "hop1_template" and "hop2_template" may be there.

    Raises:
        StorageError: the file is missing or not JSON.
        UsageError: a field is missing or of another type, a cell is empty, or a template has not exactly one "{}".

    Example:
        >>> import json, pathlib, tempfile
        >>> from bathyscope.facts import load_relation
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "colours.json"
        >>> asked = {"name": "fruit colour", "prompt_templates": ["The colour of {} is"]}
        >>> _ = path.write_text(json.dumps(asked | {"samples": [{"subject": "limes", "object": "green"}]}))
        >>> relation = load_relation(path)
        >>> relation.extraction_template, relation.extraction_from
        ('The colour of {}', 'The colour of {} is')
    """
    return relation_of(read_json(Path(path), "a relation"), str(path))


def read_json(path: Path, what: str) -> Any:
    """What a JSON file holds.

    Raises:
        StorageError: it is missing, unreadable, or not JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise StorageError(
            f"{path} could not be read ({error.strerror})", f"a JSON file of {what} is needed"
        ) from error
    except ValueError as error:  # not JSON, or not even UTF-8
        raise StorageError(f"{path} is not JSON ({error})", f"a JSON file of {what} is needed") from error


def relation_of(data: Any, where: str) -> Relation:
    """The relation that JSON values describe.

    Args:
        data: of a file.
        where: what an error calls it.

    Raises:
        UsageError: as `load_relation`.
    """
    if not isinstance(data, dict):
        raise UsageError(f"{where} holds a {type(data).__name__}", "a relation is a JSON object", REMEDY)
    name = _text(data.get("name"), "name", where)
    prompts = _templates(data, "prompt_templates", where)
    zero_shot = _templates(data, "prompt_templates_zs", where) or prompts
    if not zero_shot:
        raise UsageError(f"{where} has no templates", "prompt_templates or prompt_templates_zs is needed", REMEDY)
    if "extraction_template" in data:
        extraction, origin = _template(data["extraction_template"], "extraction_template", where), "extraction_template"
    else:
        extraction, origin = extraction_from([*zero_shot, *prompts])
    hop1, hop2 = data.get("hop1_template"), data.get("hop2_template")
    return Relation(
        name=name,
        facts=_facts(data.get("samples"), where),
        prompt_templates=prompts or zero_shot,
        zero_shot_templates=zero_shot,
        extraction_template=extraction,
        extraction_from=origin,
        hop1_template=None if hop1 is None else _template(hop1, "hop1_template", where),
        hop2_template=None if hop2 is None else _text(hop2, "hop2_template", where),
        properties=data.get("properties", {}),
    )


def extraction_from(templates: Sequence[str]) -> tuple[str, str]:
    """A phrase that ends in the subject, and the template that it was cut from.

    A template that ends in its subject is taken as it is; one such as "The capital of {} is" is cut behind it. Of
    others a part would no longer ask for anything ("People in {} speak"): the first is taken whole, with the subject
    inside it.

    Args:
        templates: at least one, each with one "{}".

    Example:
        >>> from bathyscope.facts.relations import extraction_from
        >>> extraction_from(["{} is in the country of", "The country of {} is"])
        ('The country of {}', 'The country of {} is')
        >>> extraction_from(["People in {} speak"])
        ('People in {} speak', 'People in {} speak')
    """
    for template in templates:
        before, _, behind = template.partition(PLACE)
        names_it = before.startswith("The ") and behind.split()[:1] in (["is"], ["are"], ["was"], ["were"])
        if before.strip() and (names_it or not behind.strip()):
            return before + PLACE, template
    return templates[0], templates[0]


def _templates(data: Mapping[str, Any], field: str, where: str) -> tuple[str, ...]:
    found = data.get(field, [])
    if not isinstance(found, list):
        raise UsageError(
            f"{field} of {where} is {found!r}", "it must be a list of sentences", '["The capital of {} is"]'
        )
    return tuple(_template(one, field, where) for one in found)


def _template(value: Any, field: str, where: str) -> str:
    found = _text(value, field, where)
    if found.count(PLACE) != 1:
        raise UsageError(
            f"{field} of {where} has {found!r}", "the subject's place {} must be in it once", '"The capital of {} is"'
        )
    return found


def _facts(samples: Any, where: str) -> tuple[Fact, ...]:
    if not isinstance(samples, list) or not samples:
        raise UsageError(f"{where} has no samples", "a list of subjects and objects is needed", REMEDY)
    found = []
    for number, sample in enumerate(samples, 1):
        if not isinstance(sample, dict):
            raise UsageError(f"sample {number} of {where} is {sample!r}", "it must be an object", REMEDY)
        cells = (_text(sample.get(name), f"{name} of sample {number}", where) for name in ("subject", "object"))
        found.append(Fact(*cells))
    return tuple(dict.fromkeys(found))


def _text(value: Any, field: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        given = "is missing" if value is None else f"is {value!r}"
        raise UsageError(f"{field} of {where} {given}", "text is needed", REMEDY)
    return value.strip()

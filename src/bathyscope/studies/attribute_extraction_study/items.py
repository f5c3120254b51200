"""What the attribute-extraction study asks: a relation's pairs, each in a sentence that says nothing of its attribute.

Knows facts and tokens, no representations.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bathyscope.controls import occurs_in
from bathyscope.errors import UsageError
from bathyscope.facts import Fact, Relation, contexts
from bathyscope.facts.relations import PLACE, extraction_from
from bathyscope.model import Model, Tokens
from bathyscope.probing.reading import subject_position
from bathyscope.prompts import Inspection, Span, resolve
from bathyscope.readouts import answer_token

PLACEHOLDER: Final = "x"


@dataclass(frozen=True)
class Item:
    """One subject in one sentence.

    Args:
        subject, object: the pair.
        source: the sentence.
        position: the subject's last token in it.
        prompted: the target prompt with the subject where its placeholder is.
        first_token: the object's first token, as it stands in a sentence.
        given: whether the object stands in the sentence or in the target prompt already.
    """

    subject: str
    object: str
    source: Tokens
    position: int
    prompted: Tokens
    first_token: int
    given: bool


@dataclass(frozen=True)
class RelationItems:
    """A relation's items and its target prompt.

    Args:
        relation: the relation.
        template: the phrase that it is extracted with.
        inspection: that phrase with the placeholder in its subject's place.
        items: by pair, then by sentence.
        n_pairs: how many pairs the relation has; not more of them were drawn than were asked for.
    """

    relation: Relation
    template: str
    inspection: Inspection
    items: tuple[Item, ...]
    n_pairs: int


def relation_items(
    model: Model, relation: Relation, *, pairs: int | None = None, n_contexts: int = 1, seed: int = 0
) -> RelationItems:
    """Draw pairs, and sentences for each.

    Args:
        model: whose tokens they are.
        relation: the relation.
        pairs: at most so many; all unless said.
        n_contexts: sentences a pair.
        seed: decides which.

    Raises:
        UsageError: more sentences than there are, fewer than two subjects, or a placeholder that is no token.

    Example:
        >>> import bathyscope
        >>> from bathyscope.facts import own_relation
        >>> from bathyscope.studies.attribute_extraction_study.items import relation_items
        >>> found = relation_items(bathyscope.load(), own_relation("country-capital"), pairs=3)
        >>> found.inspection.tokens.text, len(found.items)
        ('The capital city of x', 3)
    """
    sentences = contexts()
    if not 1 <= n_contexts <= len(sentences):
        raise UsageError(
            f"{n_contexts} contexts a pair were asked for", f"1 to {len(sentences)}, which there are", "--contexts 5"
        )
    facts = list(relation.facts)
    if pairs is not None and pairs < len(facts):
        # Shuffled and not sampled, so that fewer pairs are among more.
        random.Random(f"{seed}|{relation.name}").shuffle(facts)
        facts = facts[:pairs]
    if len({fact.subject for fact in facts}) < 2:
        raise UsageError(f"the relation {relation.name!r} has one subject", "at least 2 are compared", "--pairs 40")
    template = template_of(relation)
    items = tuple(
        _item(model, template, fact, sentence)
        for fact in facts
        for sentence in random.Random(f"{seed}|{fact.subject}").sample(sentences, n_contexts)
    )
    return RelationItems(relation, template, _inspection(model, relation.name, template), items, len(relation.facts))


def template_of(relation: Relation) -> str:
    """The phrase that a relation is extracted with: its own, or one of its sentences that does not offer the objects.

    Some public files offer the objects to choose from ("Is a {} a animal, bird, fish ...? It is a").

    Example:
        >>> from bathyscope.facts import own_relation
        >>> from bathyscope.studies.attribute_extraction_study.items import template_of
        >>> template_of(own_relation("country-capital"))
        'The capital city of {}'
    """
    if not _offers(relation.extraction_template, relation):
        return relation.extraction_template
    sentences = (*relation.zero_shot_templates, *relation.prompt_templates)
    silent = [sentence for sentence in sentences if not _offers(sentence, relation)]
    return extraction_from(silent)[0] if silent else relation.extraction_template


def _offers(template: str, relation: Relation) -> bool:
    """Whether objects to choose from stand in a template; a single one may be there by chance."""
    return sum(occurs_in(name, template) for name in relation.objects) > 1


def _item(model: Model, template: str, fact: Fact, sentence: str) -> Item:
    source = model.tokenize(sentence.replace(PLACE, fact.subject))
    return Item(
        fact.subject,
        fact.object,
        source,
        subject_position(source, fact.subject),
        model.tokenize(template.replace(PLACE, fact.subject)),
        answer_token(model, fact.object, after="It is").id,
        occurs_in(fact.object, source.text, template),
    )


def _inspection(model: Model, name: str, template: str) -> Inspection:
    before, _, behind = template.partition(PLACE)
    tokens = model.tokenize(before + PLACEHOLDER + behind)
    place = Span(PLACEHOLDER, occurrence=before.count(PLACEHOLDER))
    (position,) = resolve(tokens, place)
    start, stop = tokens.offsets[position]
    if tokens.text[start:stop].strip() != PLACEHOLDER:
        raise UsageError(
            f"the template {template!r} of {name!r} has its subject inside a word",
            f"the tokens are {tokens.numbered()}",
            'a space around it: "extraction_template": "The capital of {}"',
        )
    return Inspection(tokens, (position,), PLACEHOLDER)


def subjects_of(items: Sequence[Item]) -> list[str]:
    """The subject of each item."""
    return [item.subject for item in items]

"""Two-hop questions, made of relations: the object of one fact is the subject of another."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bathyscope.facts.relations import PLACE, Fact, Relation


@dataclass(frozen=True)
class TwoHop:
    """Two facts that make one question.

    Args:
        first: from the subject to what stands between, such as the Taj Mahal and India.
        second: from there to the answer, such as India and New Delhi.
        first_relation: the name of the first fact's relation.
        second_relation: that of the second.
        hop1: the words for what stands between: "the country where the Taj Mahal is located".
        hop2: the words that ask about it: "The capital city of".
    """

    first: Fact
    second: Fact
    first_relation: str
    second_relation: str
    hop1: str
    hop2: str

    @property
    def query(self) -> str:
        """The whole question; the answer comes next."""
        return f"{self.hop2} {self.hop1}"

    @property
    def answer(self) -> str:
        """The object of the second fact."""
        return self.second.object


def two_hops(relations: Iterable[Relation]) -> tuple[TwoHop, ...]:
    """Every two facts of the relations such that the first one's object is the second one's subject, to the letter.

    Only relations with a `hop1_template` come first, and only those with a `hop2_template` second. A pair that leads
    back to its own subject (the opposite of the opposite) is no question and left out, and so is a relation
    followed by itself.

    Args:
        relations: in any order; questions come in the order of the first relation, then of its facts.

    Example:
        >>> from bathyscope.facts import own_relation, two_hops
        >>> asked = two_hops([own_relation("landmark-country"), own_relation("country-capital")])
        >>> asked[0].query, asked[0].answer
        ('The capital city of the country where Abu Simbel is located', 'Cairo')
    """
    relations = tuple(relations)
    return tuple(
        question for first in relations for fact in first.facts for question in _questions(first, fact, relations)
    )


def joined_with(relation: Relation, others: Iterable[Relation]) -> tuple[str, ...]:
    """The names of the others that make a question with a relation, before it or behind it.

    Args:
        relation: any.
        others: those that may stand beside it.

    Example:
        >>> from bathyscope.facts import own_relation, own_relations
        >>> from bathyscope.facts.joins import joined_with
        >>> joined_with(own_relation("person-occupation"), own_relations().values())
        ()
    """
    return tuple(other.name for other in others if two_hops((relation, other)))


def _questions(first: Relation, fact: Fact, relations: tuple[Relation, ...]) -> Iterator[TwoHop]:
    if first.hop1_template is None:
        return
    hop1 = first.hop1_template.replace(PLACE, fact.subject)
    for second in relations:
        if second.hop2_template is None or second.name == first.name:
            continue
        for follows in second.facts:
            if follows.subject == fact.object and follows.object != fact.subject:
                yield TwoHop(fact, follows, first.name, second.name, hop1, second.hop2_template)

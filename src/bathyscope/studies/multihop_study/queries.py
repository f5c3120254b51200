"""What the multi-hop study asks: two-hop queries, their hops alone, and how a model answers them by itself."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bathyscope.controls import occurs_in
from bathyscope.errors import UsageError
from bathyscope.facts import Relation, TwoHop, own_relations, two_hops
from bathyscope.facts.joins import joined_with
from bathyscope.generation import Progress, generate
from bathyscope.model import Model, Tokens
from bathyscope.readouts import Contains

STEP_BY_STEP: Final = "Let's think step by step. "
"""What stands before a query for chain of thought (arXiv 2205.11916, as arXiv 2401.06102 has it)."""
TOGETHER: Final = 32
"""Prompts that are continued together."""


@dataclass(frozen=True)
class Answered:
    """A query and what the model says to it and to its hops, none of them patched.

    Args:
        query: the query.
        hop1, hop2: what it says to each hop alone, in the words of its relation's own sentence.
        vanilla: to the query as it stands.
        statement: to the query with " is" behind it, which asks a model that comments on phrases for the answer.
        chain_of_thought: to the query behind "Let's think step by step.".
    """

    query: TwoHop
    hop1: str
    hop2: str
    vanilla: str
    statement: str
    chain_of_thought: str

    @property
    def knows_hops(self) -> tuple[bool, bool]:
        """Whether each hop alone is right: the first names what stands between, the second the answer."""
        return Contains(self.query.first.object).found_in(self.hop1), self.right(self.hop2)

    def right(self, text: str) -> bool:
        """Whether a text has the query's answer."""
        return Contains(self.query.answer).found_in(text)


def draw_queries(relations: Iterable[Relation], *, count: int | None = None, seed: int = 0) -> tuple[TwoHop, ...]:
    """Two-hop queries whose answer does not stand in them, of every pair of relations about as many.

    Args:
        relations: to be joined.
        count: how many; all unless said.
        seed: decides which, and in which order.

    Raises:
        UsageError: the relations make no query.

    Example:
        >>> from bathyscope.facts import own_relations
        >>> from bathyscope.studies.multihop_study.queries import draw_queries
        >>> len(draw_queries(own_relations().values(), count=200))
        200
    """
    relations = tuple(relations)
    joins: dict[tuple[str, str], list[TwoHop]] = {}
    for query in two_hops(relations):
        if not occurs_in(query.answer, query.query):
            joins.setdefault((query.first_relation, query.second_relation), []).append(query)
    if not joins:
        raise UsageError(
            f"no two of the relations make a query: {', '.join(relation.name for relation in relations)}",
            "the objects of one are to be the subjects of another, with hop1_template and hop2_template",
            _joinable(relations),
        )
    for name, queries in joins.items():
        random.Random(f"{seed}|{name}").shuffle(queries)
    # In turns, so that fewer queries are among more, and relations of many facts do not outweigh the others.
    longest = max(map(len, joins.values()))
    dealt = [queries[turn] for turn in range(longest) for queries in joins.values() if turn < len(queries)]
    return tuple(dealt[:count])


def _joinable(relations: Sequence[Relation]) -> str:
    """One of the relations with those of the project's own that go with it."""
    for relation in relations:
        if others := joined_with(relation, own_relations().values()):
            return f"{relation.name} with {', '.join(others)}"
    return "the project's own relations"


def answer_all(
    model: Model,
    queries: Sequence[TwoHop],
    relations: Iterable[Relation],
    *,
    new_tokens: int,
    progress: Progress | None = None,
) -> tuple[Answered, ...]:
    """Ask each query and each hop alone, greedily; nothing is written.

    Args:
        model: the model.
        queries: the queries.
        relations: those that they are of.
        new_tokens: at most so many tokens each.
        progress: called with the tokens that are there and those there may be.
    """
    by_name = {relation.name: relation for relation in relations}
    asked = {query: _prompts(query, by_name) for query in queries}
    prompts = sorted({prompt for them in asked.values() for prompt in them}, key=len)
    found = generate(model, prompts, max_new_tokens=new_tokens, batch_size=TOGETHER, progress=progress)
    said = {prompt: one.text for prompt, one in zip(prompts, found, strict=True)}
    return tuple(Answered(query, *(said[prompt] for prompt in asked[query])) for query in queries)


def _prompts(query: TwoHop, relations: Mapping[str, Relation]) -> tuple[str, ...]:
    """As the fields of `Answered` are in order."""
    hop1 = relations[query.first_relation].ask(query.first.subject)
    hop2 = relations[query.second_relation].ask(query.second.subject)
    return hop1, hop2, query.query, f"{query.query} is", STEP_BY_STEP + query.query


@dataclass(frozen=True)
class Split:
    """A query's tokens, parted into the words of its second hop, which come first, and those of its first.

    Args:
        tokens: the whole query.
        start: the first token of the first hop's words.
    """

    tokens: Tokens
    start: int

    @classmethod
    def of(cls, model: Model, query: TwoHop) -> "Split":
        """Tokenize a query.

        Raises:
            UsageError: a token holds words of both.
        """
        tokens = model.tokenize(query.query)
        border = len(query.hop2)
        first = next(place for place, (_, stop) in enumerate(tokens.offsets) if stop > border)
        if tokens.offsets[first][0] < border:
            raise UsageError(
                f"the token {tokens.texts[first]!r} of {query.query!r} holds words of both hops",
                "one hop is hidden from the other by its tokens",
                "another hop2_template",
            )
        return cls(tokens, first)

    def before(self, model: Model) -> Tokens:
        """The query up to the last token of its second hop's words."""
        ids = self.tokens.ids[: self.start]
        return Tokens(model.decode(ids), ids, self.tokens.texts[: self.start])

"""Pairs of sentences that differ in the number of one noun, so that another verb agrees; and whole sentences like them.

The words are those of `agreement_words`. No noun of a held-out pair stands in any pair or sentence of the train split.
Knows no tokenizer: which pairs have equally many tokens, and answers of one, a model has to say.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Final, Literal, get_args

from bathyscope.errors import UsageError, nearest
from bathyscope.facts.agreement_words import Forms, Number, Split, known_split, words

Case = Literal["simple", "nounpp", "within_rc", "rc"]
AGREEMENT_CASES: Final[tuple[Case, ...]] = get_args(Case)
"""What stands between a noun and its verb: nothing, a preposition with a noun, or a relative clause; within_rc is the
verb inside that clause, whose subject is the changed noun."""
TEMPLATES: Final[dict[Case, str]] = {
    "simple": "The {noun}",
    "nounpp": "The {noun} {link} the {distractor}",
    "within_rc": "The {distractor} that the {noun}",
    "rc": "The {noun} that the {distractor} {link}",
}
SENTENCES: Final[tuple[Case, ...]] = ("simple", "nounpp", "rc")
"""Each whole sentence of within_rc is one of rc, too."""


@dataclass(frozen=True, slots=True)
class AgreementPair:
    """Two beginnings of a sentence that differ in one noun's number, and the verbs that agree with either.

    Args:
        case: one of `AGREEMENT_CASES`; of a file's sentences that are none of these, the file's own word.
        clean: such as "The teacher near the cars".
        corrupted: such as "The teachers near the cars".
        answer: the verb that agrees in the clean one, with a space before it: " is".
        wrong_answer: the one that agrees in the corrupted one: " are".
        noun: the singular of the changed noun: "teacher". None where a file's words do not tell.
        distractor: the singular of the other noun: "car". None where there is none.
        number: that of the changed noun in the clean one.
        congruent: whether the other noun has that number, too: here False. None where there is no other noun.
    """

    case: str
    clean: str
    corrupted: str
    answer: str
    wrong_answer: str
    noun: str | None
    distractor: str | None
    number: Number | None
    congruent: bool | None


def agreement_pairs(
    case: Case, *, nouns: Split = "all", n: int | None = None, seed: int = 0
) -> tuple[AgreementPair, ...]:
    """Different minimal pairs of one case, from the project's own words.

    The clean noun is as often singular as plural in any even n, and crossed with the number of the other noun in any
    multiple of four; each verb comes equally often in each of these kinds, give or take one, and so does each noun.
    All pairs of a case have as many words. More pairs of the same seed begin with the same ones.

    Args:
        case: "simple" (The teacher | is), "nounpp" (The teacher near the cars | is), "within_rc" (The guest that the
            teacher | likes) or "rc" (The teacher that the guests like | is); the teacher is what changes.
        nouns: "train" or "held-out" for pairs all of whose nouns are of that split, "all" for pairs of any nouns.
        n: how many; None for all. Of nounpp and rc there are about a million, of their train split half of that, and
            of their held-out one an eighth: tens to hundreds of MB.
        seed: decides which, and their order.

    Raises:
        UsageError: there is no such case or split, or there are not so many pairs.

    Example:
        >>> from bathyscope.facts import agreement_pairs
        >>> pair = agreement_pairs("rc", nouns="held-out", n=4)[0]
        >>> pair.clean, pair.answer
        ('The surgeon that the buyer visits', ' comes')
        >>> pair.corrupted, pair.wrong_answer
        ('The surgeons that the buyer visits', ' come')
        >>> pair.noun, pair.distractor, pair.number, pair.congruent
        ('surgeon', 'buyer', 'singular', True)
    """
    grammar = _grammar(case, nouns)
    _check_number(n, grammar.size, f"pairs of {case} (nouns: {nouns})")
    return tuple(grammar.pair(draw) for draw in islice(grammar.draws(seed), n))


def agreement_sentences(*, nouns: Split = "train", n: int, seed: int = 0) -> tuple[str, ...]:
    """Different whole sentences of the same grammar, to train sparse coders on.

    Sentences without a second noun, with one behind a preposition, and with one in a relative clause take turns, as
    long as there are any; numbers and verbs are spread as in `agreement_pairs`.

    Args:
        nouns: the split that all their nouns are of.
        n: how many.
        seed: decides which, and their order.

    Raises:
        UsageError: there is no such split, or there are not so many sentences.

    Example:
        >>> from bathyscope.facts import agreement_sentences
        >>> for sentence in agreement_sentences(n=3):
        ...     print(sentence)
        The actor seems to sleep.
        The client under the fence does not agree.
        The student that the rival follows does nothing about it.
    """
    grammars = [_grammar(case, nouns, whole=True) for case in SENTENCES]
    _check_number(n, sum(grammar.size for grammar in grammars), f"sentences (nouns: {nouns})")
    in_turn = zip_longest(*(map(grammar.sentence, grammar.draws(seed)) for grammar in grammars))
    return tuple(islice((sentence for turn in in_turn for sentence in turn if sentence is not None), n))


@dataclass(frozen=True, slots=True)
class _Draw:
    """The choices that make one pair, as indices into a grammar's words."""

    cell: int
    noun: int
    verb: int
    rest: int


@dataclass(frozen=True)
class _Grammar:
    """The words of one case, and the pairs that they make.

    Args:
        case: which.
        nouns: those that are changed.
        distractors: those beside them; one without letters where there is none.
        links: what joins the two: prepositions, or verbs that agree with the distractor.
        verbs: the answers.
        endings: how many continuations each verb has; 1 where no sentence is made.
    """

    case: Case
    nouns: tuple[Forms, ...]
    distractors: tuple[Forms, ...]
    links: tuple[Forms, ...]
    verbs: tuple[Forms, ...]
    endings: int = 1

    @property
    def cells(self) -> tuple[tuple[Number, bool | None], ...]:
        """Number and congruence: each even number of these in a row has both numbers equally often."""
        kinds = (None,) if self.case == "simple" else (True, False)
        return tuple((number, congruent) for congruent in kinds for number in get_args(Number))

    @property
    def rests(self) -> int:
        """In how many ways the other words can be chosen."""
        return len(self.distractors) * len(self.links) * self.endings

    @property
    def size(self) -> int:
        """How many draws there are."""
        return len(self.cells) * len(self.nouns) * len(self.verbs) * self.rests

    def draws(self, seed: int) -> Iterator[_Draw]:
        """Every draw once: cells in turn, and in each of them nouns and verbs as evenly as their numbers allow."""
        rng = random.Random(f"{self.case} {seed}")  # so that cases do not take the same nouns in the same order
        n_nouns, n_verbs = len(self.nouns), len(self.verbs)
        nouns = [rng.sample(range(n_nouns), n_nouns) for _ in self.cells]
        verbs = rng.sample(range(n_verbs), n_verbs)
        rests: dict[tuple[int, int, int], tuple[int, int]] = {}
        steps = [step for step in range(1, self.rests + 1) if math.gcd(step, self.rests) == 1]
        for turn in range(n_nouns * n_verbs * self.rests):
            lap, place = divmod(turn, n_nouns * n_verbs)
            # Both indices come back together after their least common multiple; a shift joins them anew.
            shifted = (place + place // math.lcm(n_nouns, n_verbs)) % n_nouns
            verb = verbs[place % n_verbs]
            for cell, order in enumerate(nouns):
                key = cell, order[shifted], verb
                if key not in rests:
                    rests[key] = rng.randrange(self.rests), rng.choice(steps)
                start, step = rests[key]
                yield _Draw(*key, (start + lap * step) % self.rests)

    def pair(self, draw: _Draw) -> AgreementPair:
        """The pair that a draw makes."""
        number, congruent = self.cells[draw.cell]
        other: Number = "plural" if number == "singular" else "singular"
        noun, verb = self.nouns[draw.noun], self.verbs[draw.verb]
        link, place = divmod(draw.rest // self.endings, len(self.distractors))
        distractor, beside = self.distractors[place], other if congruent is False else number
        beginnings = (
            TEMPLATES[self.case].format(
                noun=noun.of(form), link=self.links[link].of(beside), distractor=distractor.of(beside)
            )
            for form in (number, other)
        )
        return AgreementPair(
            self.case,
            *beginnings,
            answer=f" {verb.of(number)}",
            wrong_answer=f" {verb.of(other)}",
            noun=noun.singular,
            distractor=None if congruent is None else distractor.singular,
            number=number,
            congruent=congruent,
        )

    def sentence(self, draw: _Draw) -> str:
        """The clean beginning of a draw's pair, its answer and a continuation."""
        pair = self.pair(draw)
        return f"{pair.clean}{pair.answer} {words().continuations[draw.verb][draw.rest % self.endings]}"


def _grammar(case: Case, split: Split, *, whole: bool = False) -> _Grammar:
    if case not in AGREEMENT_CASES:
        likely = nearest(str(case), AGREEMENT_CASES)
        raise UsageError(f"no case of agreement is called {case!r}", f"there are {', '.join(AGREEMENT_CASES)}", likely)
    known_split(split)
    found, nothing = words(), (Forms("", ""),)
    distractors, links, verbs = {
        "simple": (nothing, nothing, found.verbs),
        "nounpp": (found.things[split], tuple(Forms(one, one) for one in found.prepositions), found.verbs),
        "within_rc": (found.people[split], nothing, found.relative_verbs),
        "rc": (found.people[split], found.relative_verbs, found.verbs),
    }[case]
    return _Grammar(case, found.nouns[split], distractors, links, verbs, len(found.continuations[0]) if whole else 1)


def _check_number(n: int | None, size: int, what: str) -> None:
    if n is not None and not 1 <= n <= size:
        likely = f"n={min(max(n, 1), size)}"
        raise UsageError(
            f"{n} {what} were asked for", f"there are {size:,} different ones, and one at least is needed", likely
        )

"""Agreement pairs: balanced, minimal, grammatical by a table of our own, and held-out nouns that are held out."""

import json
import re
import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path

import pytest

import bathyscope
from bathyscope import embedded
from bathyscope.causal.pairs import load_pairs
from bathyscope.errors import StorageError, UsageError
from bathyscope.facts import (
    AGREEMENT_CASES,
    AgreementPair,
    Forms,
    agreement_distractors,
    agreement_nouns,
    agreement_pairs,
    agreement_sentences,
    load_agreement,
    write_agreement,
)
from bathyscope.facts.agreement_words import forms_of, lemma_and_number, words
from bathyscope.model import Model

SPLITS = "train", "held-out"
VERBS = {"is": "are", "was": "were", "has": "have", "does": "do", "goes": "go", "comes": "come", "looks": "look"}
VERBS |= {"seems": "seem", "avoids": "avoid", "fears": "fear", "follows": "follow", "helps": "help", "knows": "know"}
VERBS |= {"likes": "like", "meets": "meet", "remembers": "remember", "respects": "respect", "supports": "support"}
VERBS |= {"trusts": "trust", "visits": "visit"}
"""Written by hand, apart from the data file: the singular of each verb, and its plural."""
NOUNS = {"men": "man", "women": "woman", "children": "child", "people": "person", "wives": "wife", "thieves": "thief"}
NOUNS |= {"ladies": "lady", "babies": "baby", "spies": "spy", "heroes": "hero", "witches": "witch", "bosses": "boss"}
NOUNS |= {"boxes": "box", "buses": "bus", "benches": "bench", "churches": "church", "shelves": "shelf"}
NOUNS |= {"libraries": "library", "factories": "factory"}
PHRASE = re.compile(
    r"The (?P<first>\w+)"
    r"(?: (?P<preposition>above|behind|below|beside|beyond|by|near|opposite|under|with) the (?P<behind>\w+)"
    r"| that the (?P<inner>\w+)(?: (?P<relative>\w+))?)?"
)


def by_hand(noun: str) -> tuple[str, str]:
    """Lemma and number of a noun, by the tables of this file."""
    if noun in NOUNS:
        return NOUNS[noun], "plural"
    return (noun[:-1], "plural") if noun.endswith("s") and noun not in ("bus", "boss") else (noun, "singular")


def number_of_verb(verb: str) -> str:
    assert (verb in VERBS) != (verb in VERBS.values()), verb
    return "singular" if verb in VERBS else "plural"


def split_words_of(split: str) -> set[str]:
    return {
        form for noun in agreement_nouns(split) + agreement_distractors(split) for form in (noun.singular, noun.plural)
    }


def in_words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


# The lists


def test_there_are_enough_words():
    assert len(agreement_nouns()) >= 72
    assert min(len(words().people["all"]), len(words().things["all"])) >= 24
    assert len(words().prepositions) >= 8
    assert len(words().relative_verbs) >= 12
    assert {("is", "are"), ("was", "were"), ("has", "have"), ("does", "do"), ("goes", "go")} <= {
        (verb.singular, verb.plural) for verb in words().verbs
    }
    assert sum(noun.plural != noun.singular + "s" for noun in agreement_nouns()) >= 10
    assert all(any(noun.plural != noun.singular + "s" for noun in agreement_nouns(split)) for split in SPLITS)


def test_no_word_has_two_parts_in_a_sentence():
    """Distractors are not changed, verbs are no nouns, and no form belongs to two lemmas."""
    nouns = [form for noun in agreement_nouns() + agreement_distractors() for form in (noun.singular, noun.plural)]
    verbs = [form for verb in words().verbs + words().relative_verbs for form in (verb.singular, verb.plural)]
    others = {word for of_verb in words().continuations for text in of_verb for word in in_words(text)}
    everything = [*nouns, *verbs, *words().prepositions]
    assert len(set(everything)) == len(everything)
    assert others & set(everything) == set()
    assert all(re.fullmatch("[a-z]+", word) for word in everything)


def test_both_forms_are_right_by_a_table_of_our_own():
    for noun in agreement_nouns() + agreement_distractors():
        assert (by_hand(noun.singular), by_hand(noun.plural)) == (
            (noun.singular, "singular"),
            (noun.singular, "plural"),
        )
    for verb in words().verbs + words().relative_verbs:
        assert VERBS[verb.singular] == verb.plural


def test_a_third_of_the_nouns_is_held_out_and_the_splits_share_none():
    for listed in (agreement_nouns, agreement_distractors):
        train, held_out = listed("train"), listed("held-out")
        assert len(held_out) / len(listed("all")) == pytest.approx(1 / 3, abs=0.05)
        assert set(train) | set(held_out) == set(listed("all"))
        assert list(train) + list(held_out) != list(listed("all"))
    assert split_words_of("train").isdisjoint(split_words_of("held-out"))


def test_every_verb_has_as_many_continuations():
    assert len(words().continuations) == len(words().verbs)
    assert len({len(one) for one in words().continuations}) == 1
    assert all(text.endswith(".") for of_verb in words().continuations for text in of_verb)


# Pairs


@pytest.mark.parametrize("case", AGREEMENT_CASES)
def test_a_pair_is_grammatical_as_read_by_hand(case: str):
    """Which noun changes, which is beside it, and which verb agrees: read off the text alone."""
    for pair in agreement_pairs(case, n=2000 if case != "simple" else None, seed=3):
        found = PHRASE.fullmatch(pair.clean)
        assert found, pair.clean
        inner, relative, behind = found["inner"], found["relative"], found["behind"]
        shape = {
            (True, False, False): "nounpp",
            (False, True, False): "within_rc",
            (False, True, True): "rc",
            (False, False, False): "simple",
        }[bool(behind), bool(inner), bool(relative)]
        assert shape == pair.case == case
        changed, beside = (inner, found["first"]) if case == "within_rc" else (found["first"], inner or behind)
        assert by_hand(changed) == (pair.noun, pair.number)
        if beside is None:
            assert (pair.distractor, pair.congruent) == (None, None)
        else:
            assert by_hand(beside) == (pair.distractor, pair.number if pair.congruent else other(pair.number))
        if relative:
            assert number_of_verb(relative) == by_hand(inner)[1]
        assert pair.answer[0] == pair.wrong_answer[0] == " "
        assert number_of_verb(pair.answer[1:]) == pair.number
        assert number_of_verb(pair.wrong_answer[1:]) == other(pair.number)
        verb = pair.answer[1:] if pair.number == "singular" else pair.wrong_answer[1:]
        assert {pair.answer[1:], pair.wrong_answer[1:]} == {verb, VERBS[verb]}


def other(number: str | None) -> str:
    return "plural" if number == "singular" else "singular"


@pytest.mark.parametrize("case", AGREEMENT_CASES)
def test_clean_and_corrupted_differ_in_one_noun(case: str):
    for pair in agreement_pairs(case, n=1000):
        clean, corrupted = pair.clean.split(), pair.corrupted.split()
        changed = [(one, its) for one, its in zip(clean, corrupted, strict=True) if one != its]
        assert len(changed) == 1
        assert {by_hand(word) for word in changed[0]} == {(pair.noun, "singular"), (pair.noun, "plural")}


@pytest.mark.parametrize("split", ["all", *SPLITS])
@pytest.mark.parametrize("case", AGREEMENT_CASES)
@pytest.mark.parametrize("n", [2, 6, 40, 96, 360])
def test_kinds_are_balanced_exactly_and_verbs_and_nouns_to_one(case: str, split: str, n: int):
    pairs = agreement_pairs(case, nouns=split, n=n, seed=n)
    assert len(set(pairs)) == n
    assert Counter(pair.number for pair in pairs) == {"singular": n // 2, "plural": n // 2}
    kinds = 2 if case == "simple" else 4
    cells = Counter((pair.number, pair.congruent) for pair in pairs)
    assert max(cells.values()) - min(cells.values()) <= (n % kinds > 0)
    assert len(cells) == min(kinds, n)
    for cell in cells:
        inside = [pair for pair in pairs if (pair.number, pair.congruent) == cell]
        for counts, possible in (
            (Counter(pair.answer for pair in inside), len(VERBS) - 8 if case == "within_rc" else 8),
            (Counter(pair.noun for pair in inside), len(agreement_nouns(split))),
        ):
            assert max(counts.values()) - (min(counts.values()) if len(counts) == possible else 0) <= 1
    if n % (kinds * 24) == 0:  # all verbs equally often: 24 is a multiple of 8 and of 12
        assert len(set(Counter(pair.answer for pair in pairs).values())) == 1


def test_all_pairs_are_every_choice_once():
    """Against a plain product of the words, where it is small enough."""
    found = agreement_pairs("within_rc", nouns="held-out")
    nouns, people, verbs = agreement_nouns("held-out"), words().people["held-out"], words().relative_verbs
    expected = {
        (f"The {beside.of(its)} that the {noun.of(number)}", f" {verb.of(number)}")
        for noun, beside, verb, number, its in product(
            nouns, people, verbs, ("singular", "plural"), ("singular", "plural")
        )
    }
    assert len(found) == len(expected)
    assert {(pair.clean, pair.answer) for pair in found} == expected
    assert len(agreement_pairs("simple")) == 2 * len(agreement_nouns()) * len(words().verbs)


@pytest.mark.parametrize("case", AGREEMENT_CASES)
def test_a_seed_decides_and_fewer_pairs_are_the_first_of_more(case: str):
    pairs = agreement_pairs(case, n=60, seed=1)
    assert agreement_pairs(case, n=60, seed=1) == pairs
    assert agreement_pairs(case, n=20, seed=1) == pairs[:20]
    assert len(set(pairs) & set(agreement_pairs(case, n=60, seed=2))) < 30


def test_the_order_is_that_of_every_process():
    """No hash of text, which changes from process to process, is in it."""
    code = "from bathyscope.facts import agreement_sentences as s, agreement_pairs as p; print(s(n=20), p('rc', n=20))"
    done = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(bathyscope.__file__).parents[1])},
        ).stdout
        for seed in ("1", "2")
    ]
    assert done[0] == done[1]
    assert done[0].split("\n")[0] == f"{agreement_sentences(n=20)} {agreement_pairs('rc', n=20)}"


# Splits


@pytest.mark.parametrize(("split", "absent"), [SPLITS, SPLITS[::-1]])
@pytest.mark.parametrize("case", AGREEMENT_CASES)
def test_no_word_of_the_other_split_is_in_a_pair(case: str, split: str, absent: str):
    forbidden = split_words_of(absent)
    pairs = agreement_pairs(case, nouns=split, n=None if case in ("simple", "within_rc") else 20_000)
    used = {word for pair in pairs for word in in_words(f"{pair.clean} {pair.corrupted}")}
    assert used.isdisjoint(forbidden)
    assert {pair.noun for pair in pairs} == {noun.singular for noun in agreement_nouns(split)}
    assert len(used & split_words_of(split)) >= 2 * len(agreement_nouns(split))


def test_all_nouns_are_of_both_splits():
    used = {pair.noun for pair in agreement_pairs("simple")}
    assert used == {noun.singular for split in SPLITS for noun in agreement_nouns(split)}


# Sentences


@pytest.mark.parametrize(("split", "absent"), [SPLITS, SPLITS[::-1]])
def test_no_word_of_the_other_split_is_in_a_sentence(split: str, absent: str):
    forbidden = split_words_of(absent)
    sentences = agreement_sentences(nouns=split, n=30_000)
    assert len(set(sentences)) == 30_000
    used = set().union(*map(in_words, sentences))
    assert used.isdisjoint(forbidden)
    assert split_words_of(split) <= used


def test_a_sentence_is_a_subject_its_verb_and_an_end():
    kinds = Counter()
    for sentence in agreement_sentences(n=3000, seed=5):
        found = PHRASE.match(sentence)
        relative = found["relative"] if found["inner"] else None
        verb, *rest = sentence[found.end() :].split()
        assert by_hand(found["first"])[1] == number_of_verb(verb), sentence
        if relative:
            assert by_hand(found["inner"])[1] == number_of_verb(relative), sentence
        assert sentence.endswith(".")
        assert rest
        kinds[bool(found["preposition"]), bool(relative)] += 1
        kinds[number_of_verb(verb)] += 1
    assert [kinds[kind] for kind in ((False, False), (True, False), (False, True))] == [1000, 1000, 1000]
    assert kinds["singular"] == kinds["plural"] == 1500


def test_sentences_go_on_when_those_without_a_second_noun_are_used_up():
    short = 2 * len(agreement_nouns("held-out")) * len(words().verbs) * len(words().continuations[0])
    sentences = agreement_sentences(nouns="held-out", n=4 * short)
    assert len(set(sentences)) == 4 * short
    assert sum(not re.search(r"\w the ", one) for one in sentences) == short
    assert agreement_sentences(nouns="held-out", n=50) == sentences[:50]


# Refusals


def test_what_there_is_not_is_refused_with_what_there_is():
    with pytest.raises(UsageError, match="within_rc, rc.*Try: within_rc"):
        agreement_pairs("within_rcs", n=2)
    for call in (agreement_nouns, agreement_distractors):
        with pytest.raises(UsageError, match="all, train, held-out.*Try: held-out"):
            call("held_out")
    with pytest.raises(UsageError, match="no nouns are called 'test'"):
        agreement_pairs("simple", nouns="test", n=2)
    with pytest.raises(UsageError, match="no nouns are called 'test'"):
        agreement_sentences(nouns="test", n=2)
    size = len(agreement_pairs("simple", nouns="held-out"))
    with pytest.raises(UsageError, match=rf"{size + 1} pairs of simple .*there are {size}.*Try: n={size}"):
        agreement_pairs("simple", nouns="held-out", n=size + 1)
    with pytest.raises(UsageError, match="0 pairs of rc"):
        agreement_pairs("rc", n=0)
    with pytest.raises(UsageError, match="9999999 sentences .*there are [1-9],"):
        agreement_sentences(n=9_999_999)


# Files


@pytest.mark.parametrize("case", AGREEMENT_CASES)
def test_what_is_written_is_read_again(tmp_path: Path, case: str):
    pairs = agreement_pairs(case, n=200)
    path = tmp_path / "pairs.jsonl"
    write_agreement(pairs, path)
    assert load_agreement(path) == pairs
    assert all("corrupted" in json.loads(line) for line in path.read_text("utf-8").splitlines())


@pytest.mark.parametrize("case", AGREEMENT_CASES)
def test_the_words_alone_tell_what_a_pair_is(tmp_path: Path, case: str):
    """Our pairs in the public format, which says neither noun nor number."""
    pairs = agreement_pairs(case, n=400, seed=7)
    path = public(
        tmp_path, *({**line(pair.clean, pair.corrupted, pair.answer, pair.wrong_answer), "case": "x"} for pair in pairs)
    )
    assert load_agreement(path) == pairs


def line(clean: str, corrupted: str, answer: str = " is", wrong: str = " are", case: str = "singular") -> dict:
    return {
        "clean_prefix": clean,
        "patch_prefix": corrupted,
        "clean_answer": answer,
        "patch_answer": wrong,
        "case": case,
    }


def public(folder: Path, *lines: object) -> Path:
    path = folder / "public.jsonl"
    path.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in lines), "utf-8")
    return path


@pytest.mark.parametrize(
    ("clean", "corrupted", "told"),
    [
        ("The sculptor", "The sculptors", ("simple", "sculptor", None, "singular", None)),
        ("The skiers behind the dogs", "The skier behind the dogs", ("nounpp", "skier", "dog", "plural", True)),
        ("The man in front of the dogs", "The men in front of the dogs", ("nounpp", "man", "dog", "singular", False)),
        ("The men that the ally", "The men that the allies", ("within_rc", "ally", "man", "singular", False)),
        ("The skater that the chefs", "The skater that the chef", ("within_rc", "chef", "skater", "plural", False)),
        ("The foxes that the women like", "The fox that the women like", ("rc", "fox", "woman", "plural", True)),
        ("The fireman", "The firemen", ("simple", "fireman", None, "singular", None)),
        ("The goose", "The geese", ("mine", None, None, None, None)),
        ("The dog", "The cats", ("mine", None, None, None, None)),
        ("The dog there", "The dogs here", ("mine", None, None, None, None)),
        ("The dog", "The dogs too", ("mine", None, None, None, None)),
        ("Yesterday the dog", "Yesterday the dogs", ("mine", "dog", None, "singular", None)),
        ("The dog that bit the cats", "The dogs that bit the cats", ("mine", "dog", None, "singular", None)),
        ("The old dog near them", "The old dogs near them", ("mine", "dog", None, "singular", None)),
    ],
)
def test_a_public_line_is_told_by_its_words(tmp_path: Path, clean: str, corrupted: str, told: tuple):
    (pair,) = load_agreement(public(tmp_path, line(clean, corrupted, case="mine"), "  "))
    assert (pair.case, pair.noun, pair.distractor, pair.number, pair.congruent) == told
    assert (pair.clean, pair.corrupted, pair.answer, pair.wrong_answer) == (clean, corrupted, " is", " are")


def test_forms_of_other_words_are_found_by_rule():
    assert forms_of("cities", "city") == forms_of("city", "cities") == Forms("city", "cities")
    assert forms_of("wives", "wife") == Forms("wife", "wives")
    assert forms_of("man", "woman") is forms_of("people", "persons") is None
    wanted = {"glasses": "glass", "wishes": "wish", "coaches": "coach", "houses": "house", "postmen": "postman"}
    assert {word: lemma_and_number(word) for word in wanted} == {
        word: (lemma, "plural") for word, lemma in wanted.items()
    }
    assert [lemma_and_number(word)[1] for word in ("glass", "octopus", "basis", "sheep", "bus")] == ["singular"] * 5


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ("no json", StorageError, "line 2 of .*public.jsonl is no JSON: 'no json'"),
        ('{"clean": ' + "x" * 200, StorageError, r"line 2 .* '\{\"clean\": x{70}\.\.\.'"),
        ("[1, 2]", UsageError, "line 2 of .* is no JSON object: .*1, 2"),
        (
            {"clean_prefix": "x", "case": "y"},
            UsageError,
            "has clean_prefix, case; it needs clean, corrupted,",
        ),
        ({}, UsageError, "line 2 of .* has no fields"),
        (line("The dog", "The dogs", answer=" "), UsageError, "clean_answer in line 2 of .* is ' '"),
        (line("The dog", "The dogs", case=3), UsageError, "case in line 2 of .* is 3"),
    ],
)
def test_a_wrong_line_is_named_with_what_is_there(tmp_path: Path, wrong, error: type[Exception], said: str):
    with pytest.raises(error, match=said):
        load_agreement(public(tmp_path, line("The dog", "The dogs"), wrong))


@pytest.mark.parametrize(
    ("field", "value"), [("number", "dual"), ("congruent", "yes"), ("noun", 3), ("distractor", ["a"])]
)
def test_what_a_line_says_of_its_pair_is_checked(tmp_path: Path, field: str, value: object):
    ours = {"case": "simple", "clean": "The dog", "corrupted": "The dogs", "answer": " is", "wrong_answer": " are"}
    assert load_agreement(public(tmp_path, ours))[0].noun == "dog"
    assert load_agreement(public(tmp_path, ours | {"noun": "hound"}))[0].noun == "hound"
    with pytest.raises(UsageError, match=f"{field} in line 1 of .*public.jsonl is"):
        load_agreement(public(tmp_path, ours | {field: value}))


def test_a_file_that_cannot_be_read_or_has_nothing_is_named(tmp_path: Path):
    with pytest.raises(StorageError, match=r"none\.jsonl could not be read"):
        load_agreement(tmp_path / "none.jsonl")
    with pytest.raises(UsageError, match="public.jsonl has no pairs"):
        load_agreement(public(tmp_path))
    (tmp_path / "latin.jsonl").write_bytes(b'{"clean": "\xe9"}')
    with pytest.raises(StorageError, match=r"latin\.jsonl could not be read"):
        load_agreement(tmp_path / "latin.jsonl")
    with pytest.raises(UsageError, match="no pairs to write"):
        write_agreement([], tmp_path / "none.jsonl")
    with pytest.raises(StorageError, match="could not be written"):
        write_agreement(agreement_pairs("simple", n=2), tmp_path / "nowhere" / "pairs.jsonl")


def test_causal_methods_read_what_is_written(llama: Model, tmp_path: Path):
    path = tmp_path / "pairs.jsonl"
    write_agreement([AgreementPair("x", "The cat", "The is", " is", " cat", None, None, None, None)], path)
    (pair,) = load_pairs(llama, path).pairs
    assert (pair.clean.ids, pair.corrupted.ids) == (llama.tokenize("The cat").ids, llama.tokenize("The is").ids)
    assert pair.metric.spec()["answer"] == " is"


@pytest.mark.embedded
@pytest.mark.skipif(not embedded.embedded_status().cached, reason="the embedded model is not in the cache")
def test_the_embedded_model_has_one_token_for_every_word_and_can_be_asked_every_pair(tmp_path: Path):
    model = bathyscope.load()

    def single(word: str) -> bool:
        return len(model.tokenize(f" {word}")) == 1

    assert sum(single(noun.singular) and single(noun.plural) for noun in agreement_nouns()) == 105
    for forms in agreement_distractors() + words().verbs + words().relative_verbs:
        assert single(forms.singular)
        assert single(forms.plural)
    assert all(map(single, words().prepositions))
    for case in AGREEMENT_CASES:
        write_agreement(agreement_pairs(case, n=48, seed=11), tmp_path / "pairs.jsonl")
        found = load_pairs(model, tmp_path / "pairs.jsonl")
        assert (len(found.pairs), found.left_out) == (48, 0)
        assert len({len(pair.clean) for pair in found.pairs}) == 1

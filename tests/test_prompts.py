"""Positions and placeholders: found by character offset, whatever the tokenizer does to the text."""

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from bathyscope import Source, Target, generate, patchscope, prompts, wrap
from bathyscope.errors import BathyscopeWarning, PositionError, UsageError
from bathyscope.interventions import Replace, Write
from bathyscope.model import Model, Tokens
from bathyscope.prompts import InspectionPrompt, Span, custom, named, prepare, resolve, span_tokens
from bathyscope.readouts import Generate
from conftest import tiny_model
from families import ALL
from tokenizers_for_tests import BOS_ID, sentencepiece_like_tokenizer, tiny_tokenizer

TOKENIZERS = {
    "byte-level": lambda: tiny_tokenizer(),
    "byte-level, bos": lambda: tiny_tokenizer(bos=True),
    "metaspace": lambda: sentencepiece_like_tokenizer(bos=False),
    "metaspace, bos": lambda: sentencepiece_like_tokenizer(bos=True),
}
HF = ALL["llama"].build()
MODELS = {name: wrap(HF, make(), name=name) for name, make in TOKENIZERS.items()}
"""One model under every tokenizer: only the tokens differ."""


@pytest.fixture(params=MODELS)
def reader(request: pytest.FixtureRequest) -> Model:
    return MODELS[request.param]


@pytest.fixture
def bos() -> Model:
    return MODELS["byte-level, bos"]


def letters(tokens: Tokens, positions: tuple[int, ...]) -> str:
    """The text that some tokens hold, from the first's first character to the last's last."""
    offsets = [tokens.offsets[position] for position in positions]
    return tokens.text[min(first for first, _ in offsets) : max(last for _, last in offsets)]


# Positions


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Diana, Princess of Wales", "Princess"),
        ("Diana, Princess of Wales", "Princess of Wales"),
        ("Diana, Princess of Wales", "Diana"),
        ("Diana, Princess of Wales", ","),
        ("Diana, Princess of Wales", "ales"),
        ("Diana, Princess of Wales", " of "),
        ("New York City", "New York City"),
        ("Naïve 東京 is here", "東京"),
        ("Naïve 東京 is here", "ï"),
        ("see the 🐳 and the 🐙 there", "🐳"),
        ("see the 👩‍🔬 there", "👩‍🔬"),
        ("two\nlines", "\n"),
        ("two  spaces", "  "),
        ("Zürich", "Zürich"),
    ],
)
def test_text_means_the_token_that_holds_its_last_character(reader: Model, text: str, name: str):
    tokens = reader.tokenize(text)
    (position,) = resolve(tokens, name)
    last = text.index(name) + len(name) - 1
    first, past = tokens.offsets[position]
    assert first <= last < past
    later = [start for start, stop in tokens.offsets[position + 1 :] if start <= last < stop]
    assert later == [], "a character of several tokens means the last of them"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_part_that_stands_there_once_is_found(reader: Model, data: st.DataObject):
    text = data.draw(st.text(st.sampled_from("abc éß東🐳\n,.Paris of"), min_size=1, max_size=16))
    first = data.draw(st.integers(0, len(text) - 1))
    part = text[first : data.draw(st.integers(first + 1, len(text)))]
    assume(part not in ("all", "last"))
    places = [index for index in range(len(text)) if text.startswith(part, index)]
    tokens = reader.tokenize(text)
    found = resolve(tokens, Span(part, occurrence=places.index(first)))[0]
    start, stop = tokens.offsets[found]
    assert start <= first + len(part) - 1 < stop
    if len(places) == 1:
        assert resolve(tokens, part) == (found,)
    else:
        with pytest.raises(PositionError, match=f"{len(places)} times"):
            resolve(tokens, part)


def test_a_name_of_several_tokens_means_its_last(reader: Model):
    tokens = reader.tokenize("They met Zorblax the Younger there")
    (position,) = resolve(tokens, "Zorblax")
    spelled = [index for index, (start, stop) in enumerate(tokens.offsets) if start < 16 and stop > 9]
    assert len(spelled) > 2
    assert position == spelled[-1]


def test_an_ambiguous_text_is_refused_with_the_tokens_and_a_remedy(llama: Model):
    tokens = llama.tokenize("This is Diana, this is Alexander")
    with pytest.raises(PositionError) as caught:
        resolve(tokens, "is")
    assert "it is there 4 times" in caught.value.given
    assert tokens.numbered() in caught.value.expected
    assert caught.value.remedy == "more of the text around it, or its index"
    assert resolve(tokens, "Diana, this is") == resolve(tokens, Span("is", occurrence=3))
    ends = [tokens.offsets[resolve(tokens, Span("is", occurrence=which))[0]][1] for which in range(4)]
    assert ends == [4, 7, 19, 22]


def test_parts_that_overlap_are_counted_apart(llama: Model):
    with pytest.raises(PositionError, match="it is there 2 times"):
        resolve(llama.tokenize("aaa"), "aa")


def test_an_absent_text_is_refused_with_the_tokens(llama: Model):
    tokens = llama.tokenize("Diana, Princess of Wales")
    for text in ("wales", "Waless", "Princess  of", ""):
        with pytest.raises(PositionError) as caught:
            resolve(tokens, text)
        assert "it is not there" in str(caught.value)
        assert "' Princess'" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert caught.value.remedy.endswith("last, or an index")


def test_an_absent_text_is_answered_with_what_is_most_like_it_and_there_once(llama: Model):
    tokens = llama.tokenize("Diana, Princess of Wales, of Wales")
    for text, likely in {"diana": "Diana, last", "Prinzess": "Princess, last"}.items():
        with pytest.raises(PositionError, match=f"Try: {likely}, or an index"):
            resolve(tokens, text)
    with pytest.raises(PositionError, match="^subject 'diana' .* Try: Diana$"):
        span_tokens(tokens, "diana", called="subject")


def test_a_part_of_a_word_as_subject_is_taken_whole_with_a_warning(llama: Model):
    tokens = llama.tokenize("Diana, Princess of Wales")
    with pytest.warns(BathyscopeWarning, match="'rincess' is a part of a word; whole tokens are taken: ' Princess'"):
        assert span_tokens(tokens, "rincess", called="subject") == span_tokens(tokens, "Princess", called="subject")


@pytest.mark.parametrize("occurrence", [1, 5, pytest.param(-9, marks=pytest.mark.xfail(reason="IndexError"))])
def test_an_occurrence_that_does_not_exist_is_refused(llama: Model, occurrence: int):
    with pytest.raises(PositionError, match="it is there 1 times"):
        resolve(llama.tokenize("hello x"), Span("x", occurrence=occurrence))


def test_words_that_are_rules_are_found_as_spans(llama: Model):
    tokens = llama.tokenize("at last they all came")
    assert resolve(tokens, "last") == (len(tokens) - 1,)
    assert resolve(tokens, "all") == tuple(range(len(tokens)))
    assert letters(tokens, resolve(tokens, Span("last"))).endswith("t")
    assert resolve(tokens, Span("last")) != resolve(tokens, "last")
    assert resolve(tokens, Span("all")) != resolve(tokens, "all")


def test_indices_from_both_ends_and_several(llama: Model):
    tokens = llama.tokenize("Diana, Princess of Wales")
    last = len(tokens) - 1
    assert resolve(tokens, 0) == resolve(tokens, -last - 1) == (0,)
    assert resolve(tokens, -1) == resolve(tokens, "last") == (last,)
    assert resolve(tokens, (3, -1, 0)) == (3, last, 0)
    for wrong in (last + 1, -last - 2, (0, 99)):
        with pytest.raises(PositionError, match=rf"the prompt has {last + 1} tokens, positions 0 to {last}"):
            resolve(tokens, wrong)
    with pytest.raises(PositionError, match="no position was given"):
        resolve(tokens, ())


def test_text_cannot_be_found_in_a_prompt_of_token_ids(llama: Model):
    tokens = llama.tokenize(list(llama.tokenize("Diana, Princess of Wales").ids))
    assert resolve(tokens, "last") == (len(tokens) - 1,)
    with pytest.raises(PositionError, match=r"given as token ids\. Try: an index"):
        resolve(tokens, "Wales")


def test_a_special_token_that_was_added_is_found_by_index_only(bos: Model):
    added, typed = bos.tokenize("hello x"), bos.tokenize("<bos>hello x")
    assert added.ids == typed.ids
    assert added.ids[0] == BOS_ID
    with pytest.raises(PositionError, match="it is not there"):
        resolve(added, "<bos>")
    assert resolve(typed, "<bos>") == (0,)
    assert resolve(added, "x") == resolve(typed, "x") == (2,)


# Inspection prompts

NAMED = ["entity-description", "token-identity", "bare", "attribute"]


@pytest.mark.parametrize("name", NAMED)
def test_a_named_prompt_is_written_at_its_last_token(reader: Model, name: str):
    prompt = named(name)
    inspection = prepare(reader, prompt)
    assert prompt.text == inspection.tokens.text
    assert inspection.positions[-1] == len(inspection.tokens) - 1
    # Metaspace puts a token before the first word that stands for no character but counts as the first one's.
    assert len(inspection.positions) == 1 or inspection.tokens.texts[inspection.positions[0]] == ""
    assert letters(inspection.tokens, inspection.positions).strip() == prompt.placeholder


@pytest.mark.parametrize("chat", [False, True])
def test_selfie_is_written_at_its_five_placeholders_and_at_nothing_else(bos: Model, chat: bool):
    inspection = prepare(bos, prompts.selfie(chat=chat))
    assert len(inspection.positions) == 5
    assert {letters(inspection.tokens, (position,)) for position in inspection.positions} == {"_"}
    assert inspection.tokens.text.endswith("Sure, I will summarize the message:")
    if chat:
        assert inspection.tokens.text == "<bos>user: _ _ _ _ _\nassistant:Sure, I will summarize the message:"


@pytest.mark.parametrize("name", [*NAMED, "selfie"])
def test_a_chat_prompt_begins_once_and_is_written_in_the_users_message(bos: Model, name: str):
    inspection = prepare(bos, named(name, chat=True))
    text = inspection.tokens.text
    assert list(inspection.tokens.ids).count(BOS_ID) == 1
    assert text.startswith("<bos>user: ")
    place = inspection.tokens.offsets[inspection.positions[-1]][1]
    assert text[place:].startswith("\nassistant:")


@pytest.mark.parametrize("word", ["user", "s"])
def test_words_of_the_template_are_not_taken_for_the_message(bos: Model, word: str):
    inspection = prepare(bos, custom(word, word, chat=True))
    start = inspection.tokens.text.index(": ") + 2
    assert inspection.tokens.offsets[inspection.positions[0]][0] in (start, start - 1)


@pytest.mark.parametrize(("placeholder", "reply"), [("x", "x is"), ("os", "s is")])
def test_a_placeholder_in_the_reply_only_is_refused_when_it_is_made(placeholder: str, reply: str):
    with pytest.raises(UsageError, match="is not in the target prompt"):
        InspectionPrompt("hello", placeholder, chat=True, reply=reply)


def test_a_placeholder_in_the_reply_is_not_written(bos: Model):
    prompt = InspectionPrompt("say x", "x", every=True, chat=True, reply="x is")
    inspection = prepare(bos, prompt)
    assert len(inspection.positions) == 1
    assert inspection.tokens.text[inspection.tokens.offsets[inspection.positions[0]][1] :].startswith(
        "\nassistant:x is"
    )


def test_a_chat_prompt_needs_a_template(llama: Model):
    with pytest.raises(UsageError, match=r"llama has no chat template; .* Try: --no-chat"):
        prepare(llama, prompts.bare(chat=True))


def test_a_placeholder_of_several_tokens_is_written_at_each(reader: Model):
    inspection = prepare(reader, custom("Who is Zorblax, and where?", "Zorblax"))
    assert len(inspection.positions) > 2
    assert inspection.positions == tuple(range(inspection.positions[0], inspection.positions[-1] + 1))
    assert letters(inspection.tokens, inspection.positions).strip() == "Zorblax"


@pytest.mark.parametrize("placeholder", ["🐳", "東京", "é", "🐳🐙"])
def test_a_placeholder_of_many_bytes_is_written_at_each_of_its_tokens(reader: Model, placeholder: str):
    inspection = prepare(reader, custom(f"look at {placeholder} now", placeholder))
    assert letters(inspection.tokens, inspection.positions).strip() == placeholder
    first = inspection.tokens.text.index(placeholder)
    inside = [
        index
        for index, (start, stop) in enumerate(inspection.tokens.offsets)
        if start < first + len(placeholder) and stop > first and stop > start
    ]
    assert list(inspection.positions) == inside


@pytest.mark.parametrize(
    ("text", "placeholder"), [("The largest city here", "cit"), ("x:Country", "Count"), ("the seas", "ea")]
)
def test_a_placeholder_that_shares_a_token_is_refused_with_the_tokens(llama: Model, text: str, placeholder: str):
    with pytest.raises(PositionError) as caught:
        prepare(llama, custom(text, placeholder))
    assert f"the placeholder {placeholder!r} is a part of the token" in caught.value.given
    assert llama.tokenize(text).numbered() in caught.value.expected
    assert "\n" not in str(caught.value)


def test_the_space_before_a_placeholder_may_share_its_token(llama: Model):
    inspection = prepare(llama, custom("The largest city in x"))
    assert inspection.tokens.texts[inspection.positions[0]] == " x"


def test_the_last_placeholder_is_written_or_every_one(reader: Model):
    last, every = (prepare(reader, custom("x and x and x", every=every)) for every in (False, True))
    assert len(every.positions) == 3
    assert last.positions == every.positions[-1:]
    assert list(every.positions) == sorted(every.positions)


@pytest.mark.parametrize("placeholder", ["", "y", "X"])
def test_a_placeholder_that_is_not_there_is_refused_when_the_prompt_is_made(placeholder: str):
    with pytest.raises(
        UsageError, match=rf"the placeholder '{placeholder}' is not in the target prompt 'tell me of x'"
    ):
        custom("tell me of x", placeholder)


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(UsageError) as caught:
        named("entity_description")
    assert all(name in str(caught.value) for name in prompts.PROMPTS)


def test_a_name_may_or_may_not_be_put_in_chat():
    for name, make in prompts.PROMPTS.items():
        assert named(name) == make()
        assert named(name, chat=True).chat
        assert not named(name, chat=False).chat


def test_an_attribute_is_asked_for_in_words():
    assert prompts.attribute("The capital city of").text == "The capital city of x"
    assert custom("The capital city of x") == prompts.attribute("The capital city of")


def test_every_token_of_a_placeholder_is_written(bos: Model):
    """The same text follows from a patchscope and from one write at the positions that were found."""
    source, prompt = "Diana, Princess of Wales", custom("Who is Zorblax?", "Zorblax")
    found = patchscope(Source(bos, source, layer=1), Target(prompt=prompt), readout=Generate(6))
    inspection = prepare(bos, prompt)
    write = Write("resid_post.1", Replace(found.representations[0]), inspection.positions)
    assert found.cells[0].target_positions == inspection.positions
    assert found.cells[0].ids == generate(bos, inspection.tokens, writes=[write], max_new_tokens=6)[0].ids
    first = Write("resid_post.1", Replace(found.representations[0]), inspection.positions[0])
    assert found.cells[0].ids != generate(bos, inspection.tokens, writes=[first], max_new_tokens=6)[0].ids


# Prompts


@pytest.mark.parametrize("prompt", ["", (), []])
def test_an_empty_prompt_is_refused(llama: Model, prompt):
    with pytest.raises(UsageError, match="an empty prompt was given; a prompt needs at least one token"):
        llama.tokenize(prompt)


@pytest.mark.parametrize(
    "ids", [[512], [3, 10**9], pytest.param([-1], marks=pytest.mark.xfail(reason="OverflowError"))]
)
def test_ids_that_the_model_does_not_have_are_refused(llama: Model, ids: list[int]):
    with pytest.raises(UsageError, match="this model has ids 0 to 511"):
        llama.tokenize(ids)


def test_a_prompt_longer_than_the_context_is_refused_before_it_runs():
    gpt2 = tiny_model("gpt2")
    longest = [5] * 128
    assert len(gpt2.tokenize(longest)) == 128
    with pytest.raises(UsageError, match="129 tokens are needed .* reads at most 128"):
        gpt2.tokenize([*longest, 5])
    with pytest.raises(UsageError, match="130 tokens"):
        generate(gpt2, [longest], max_new_tokens=3)
    assert generate(gpt2, [longest], max_new_tokens=1)


@pytest.mark.xfail(reason="the tokenizer's own TypeError is what a person sees", raises=TypeError)
def test_text_that_no_tokenizer_can_read_is_refused(llama: Model):
    with pytest.raises(UsageError):
        llama.tokenize("half of a pair: \ud83d")

"""Two small tokenizers trained in memory: byte-level like GPT-2's, and Metaspace like Llama's.

Both have exactly VOCAB_SIZE tokens and the same special tokens, so that every tiny model fits both.
"""

import json
from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

VOCAB_SIZE = 512
PAD, EOS, BOS = "<pad>", "<eos>", "<bos>"
PAD_ID, EOS_ID, BOS_ID = 0, 1, 2

# Prompts that the published experiments use, often enough that their words become single tokens.
PROMPTS = """Diana, Princess of Wales
New York City
Alexander the Great
Syria: Country in the Middle East, Leonardo DiCaprio: American actor, Samsung: South Korean multinational major \
appliance and consumer electronics corporation, x
cat -> cat
1135 -> 1135
hello -> hello
?
The largest city in x
The largest city in Syria is
This is Diana, this is Alexander, and this is Syria
The capital of France is Paris
"""
PLAIN_ENGLISH = """The river runs past the old city and down to the sea. In the morning the boats go out, and in the
evening they come back with fish. People who live by the water know the names of all the boats, and the names of the
men and women who sail them. When the wind is from the south the sea is warm and the children swim in it. When the
wind is from the north nobody swims, and the boats stay in the harbour until it turns. There is a tower on the hill
above the harbour with a lamp in it. A keeper used to light the lamp every night, but now the lamp lights itself.
The cat of the keeper still lives in the tower. It is a large grey cat, and it says hello to every visitor who
climbs the hill. Visitors come from many countries: from France, from Italy, from Spain, and some from as far away as
New York. They ask for the largest fish in the city, and they eat it with bread and lemon. Then they climb the hill,
look at the sea, and ask the cat the same question: what is it that you see from here? The cat looks at the water and
does not answer. The capital of the country is a long way from this place, and nothing that happens in the capital
matters to a cat. What matters is the wind, the fish, the warm stone by the wall, and the sound of the boats when
they come home in the evening.
"""
# The weights below were chosen so that the words of PROMPTS win the few merges that 512 tokens leave.
CORPUS = [*PROMPTS.splitlines(keepends=True) * 12, *PLAIN_ENGLISH.splitlines()]

# Like Llama's templates, this writes the BOS itself: tokenizing the result with special tokens would double it.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def _special_tokens() -> list[AddedToken]:
    return [AddedToken(text, special=True, normalized=False) for text in (PAD, EOS, BOS)]


@cache
def _byte_level_json() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        show_progress=False,
        special_tokens=_special_tokens(),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer.to_str()


@cache
def _metaspace_json() -> str:
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    learner = Tokenizer(models.BPE())
    # Marks are kept apart while merges are learned, or "▁Diana," would be one token, which Llama's never is.
    marks = pre_tokenizers.Split(Regex(r"[,:.?\n]"), "isolated")
    learner.pre_tokenizer = pre_tokenizers.Sequence([metaspace, marks])
    trainer = trainers.BpeTrainer(vocab_size=VOCAB_SIZE - len(bytes_) - 3, show_progress=False)
    learner.train_from_iterator(CORPUS, trainer)
    learned = json.loads(learner.to_str())["model"]
    pieces = sorted(learned["vocab"], key=learned["vocab"].get)

    vocab = {token: number for number, token in enumerate([PAD, EOS, BOS, *bytes_, *pieces])}
    merges = [tuple(pair) for pair in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, byte_fallback=True))
    tokenizer.add_special_tokens(_special_tokens())
    tokenizer.pre_tokenizer = metaspace
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer.to_str()


def _wrap(serialized: str, bos: bool) -> PreTrainedTokenizerFast:
    backend = Tokenizer.from_str(serialized)
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, BOS_ID)]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=PAD, eos_token=EOS, bos_token=BOS)
    if bos:
        tokenizer.chat_template = CHAT_TEMPLATE
    assert len(tokenizer) == VOCAB_SIZE, f"the corpus is too short for the merges: {len(tokenizer)} tokens"
    return tokenizer


def tiny_tokenizer(bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE; `bos=True` starts every text with <bos>, as Llama's does, and has a chat template."""
    return _wrap(_byte_level_json(), bos)


def sentencepiece_like_tokenizer(bos: bool = True) -> PreTrainedTokenizerFast:
    """A BPE over `▁` words with byte fallback: the first word gets a `▁` that stands for no character of the text."""
    return _wrap(_metaspace_json(), bos)

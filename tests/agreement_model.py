"""A small GPT-2 that learns the project's agreement grammar, all nouns of it, in some seconds, and its coders."""

import re
from functools import cache

import torch
from tokenizers import Regex, Tokenizer, decoders
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from bathyscope import capture, wrap
from bathyscope.facts import AGREEMENT_CASES, agreement_pairs, agreement_sentences
from bathyscope.model import Model
from bathyscope.sae import CoderConfig, GivenActivations, Settings, SparseCoder, TopK, train_coders
from bathyscope.sites import Site

SITES = ("resid_post.0", "resid_post.2")
PIECE = r" ?\w+|[^\w\s]"
N_SENTENCES, STEPS, BATCH = 12_000, 500, 128


def word_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A token a word, its space before it, as byte-level tokenizers make of frequent words."""
    words = sorted({piece for text in texts for piece in re.findall(PIECE, text)})
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<end>", "<unk>", *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split(Regex(PIECE), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="<end>",
        clean_up_tokenization_spaces=False,
    )


@cache
def agreement_model() -> Model:
    """The model, trained on sentences of all nouns."""
    sentences = list(agreement_sentences(nouns="all", n=N_SENTENCES))
    starts = [f"{one.clean}{one.answer}" for case in AGREEMENT_CASES for one in agreement_pairs(case, n=1600, seed=1)]
    tokenizer = word_tokenizer([*sentences, *starts])
    rows = [tokenizer(text)["input_ids"] for text in (*sentences, *starts)]
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=32,
        n_embd=64,
        n_layer=4,
        n_head=4,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
    )
    model = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=STEPS)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        chosen = [rows[n] for n in torch.randint(len(rows), (BATCH,), generator=generator).tolist()]
        ids, labels = padded(chosen)
        loss = model(input_ids=ids, attention_mask=(labels != -100).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return wrap(model.eval(), tokenizer, name="gpt2-agreement")


def padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    return ids, torch.tensor([row + [-100] * (longest - len(row)) for row in rows])


@cache
def coders() -> tuple[SparseCoder, ...]:
    """Coders of sentences with train nouns only."""
    model = agreement_model()
    read = capture(model, list(agreement_sentences(nouns="train", n=3000)), SITES, batch_size=256)
    tables = {site: torch.cat([row[1:] for row in read[site]]) for site in SITES}
    asked = [CoderConfig(Site.parse(site), TopK(8), 256) for site in SITES]
    trained = train_coders(GivenActivations(tables), asked, Settings(12, 512))
    return tuple(one.coder for one in trained)

"""The tiny models are what they claim to be, and large enough in their weights to tell right from wrong."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from families import ALL, FAMILIES, SLIDING_WINDOW, VARIANTS, TinyFamily, save_tiny
from tokenizers_for_tests import (
    BOS_ID,
    EOS_ID,
    PAD_ID,
    PROMPTS,
    VOCAB_SIZE,
    sentencepiece_like_tokenizer,
    tiny_tokenizer,
)

TEXTS = ("Diana, Princess of Wales", "The largest city in Syria is")


def ids_of(text: str) -> torch.Tensor:
    return tiny_tokenizer()(text, return_tensors="pt").input_ids


@pytest.fixture(params=ALL.values(), ids=str)
def family(request: pytest.FixtureRequest) -> TinyFamily:
    return request.param


def test_all_families_are_there():
    assert len(FAMILIES) == 23
    assert not FAMILIES.keys() & VARIANTS.keys()
    assert all(name == family.name for name, family in ALL.items())


def test_declared_facts(family: TinyFamily):
    model = family.build()
    config = model.config
    assert config.model_type == family.family
    assert config.num_hidden_layers == family.n_layers
    assert config.hidden_size == family.d_model
    assert config.num_attention_heads == family.n_heads
    assert model.get_output_embeddings().weight.shape[0] == family.vocab_size == VOCAB_SIZE
    assert (config.pad_token_id, config.eos_token_id, config.bos_token_id) == (PAD_ID, EOS_ID, BOS_ID)
    assert not model.training

    with torch.inference_mode():
        keys = model(ids_of(TEXTS[0]), use_cache=True).past_key_values.layers[0].keys
    # Falcon's newer form repeats its keys and values for every query head before it caches them.
    repeated = getattr(config, "new_decoder_architecture", False)
    assert keys.shape[1] == (family.n_heads if repeated else family.n_kv_heads)
    assert keys.shape[-1] == family.d_head


def test_same_seed_same_model_and_torchs_own_seed_is_left_alone(family: TinyFamily):
    state = torch.random.get_rng_state()
    first, again, other = family.build(), family.build(), family.build(seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    pairs = zip(first.parameters(), again.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(a, b) and not torch.equal(a, c) for a, b, c in pairs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@torch.inference_mode()
def test_every_dtype_has_the_same_weights(family: TinyFamily, dtype: torch.dtype):
    single, other = family.build(), family.build(dtype=dtype)
    for a, b in zip(single.parameters(), other.parameters(), strict=True):
        assert b.dtype == dtype
        assert torch.equal(a.to(dtype), b)
    assert other(ids_of(TEXTS[0])).logits.isfinite().all()


@torch.inference_mode()
def test_continuations_are_finite_and_depend_on_the_prompt(family: TinyFamily):
    model = family.build()
    continuations = []
    for text in TEXTS:
        prompt = ids_of(text)
        assert model(prompt).logits.isfinite().all()
        whole = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6, do_sample=False)
        continuations.append(whole[0, prompt.shape[1] :].tolist())
    assert continuations[0] != continuations[1]
    assert all(len(tokens) == 6 for tokens in continuations)


@torch.inference_mode()
def test_every_layer_and_position_shows_in_the_logits(family: TinyFamily):
    model, prompt = family.build(), ids_of(TEXTS[1])
    before = model(prompt).logits[0, -1]

    swapped = prompt[:, [0, 2, 1, 3, 4, 5]]
    assert (model(swapped).logits[0, -1] - before).std() > 0.05

    for name, weight in model.named_parameters():
        if "down_proj.weight" in name or "c_proj.weight" in name or "dense_4h_to_h.weight" in name:
            kept = weight.clone()
            weight.zero_()
            assert (model(prompt).logits[0, -1] - before).std() > 0.05, name
            weight.copy_(kept)


@torch.inference_mode()
def test_sdpa(family: TinyFamily):
    if not family.sdpa:
        with pytest.raises(ValueError, match="scaled_dot_product_attention"):
            family.build("sdpa")
        return
    prompt = ids_of(TEXTS[0])
    eager, sdpa = (family.build(attention)(prompt).logits for attention in ("eager", "sdpa"))
    assert torch.allclose(eager, sdpa, atol=2e-5, rtol=0) == family.sdpa_equals_eager


@torch.inference_mode()
def test_sliding_layers_forget(family: TinyFamily):
    prompt = ids_of(PROMPTS.splitlines()[3])
    attentions = family.build()(prompt, output_attentions=True).attentions
    for layer, pattern in enumerate(attentions):
        reach = SLIDING_WINDOW if layer in family.sliding_layers else prompt.shape[1]
        n_seen = (pattern[0, 0, -1] > 0).sum()
        assert n_seen == reach, layer


def test_saved_and_loaded(tmp_path):
    folder = save_tiny("qwen3_moe_one_dense", tmp_path, bos=True)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    expected = ALL["qwen3_moe_one_dense"].build("sdpa")
    ids = tokenizer(TEXTS[0], return_tensors="pt").input_ids
    assert torch.equal(ids, tiny_tokenizer(bos=True)(TEXTS[0], return_tensors="pt").input_ids)
    with torch.inference_mode():
        torch.testing.assert_close(model(ids).logits, expected(ids).logits)


@pytest.mark.parametrize("make", [tiny_tokenizer, sentencepiece_like_tokenizer])
@pytest.mark.parametrize("bos", [False, True])
def test_tokenizers(make, bos: bool):
    tokenizer = make(bos=bos)
    for text in (*PROMPTS.splitlines(), "Naïve 東京", "two\nlines", "two  spaces"):
        encoded = tokenizer(text, return_offsets_mapping=True)
        assert (encoded.input_ids[0] == BOS_ID) == bos
        assert tokenizer.decode(encoded.input_ids, skip_special_tokens=True) == text
        assert {place for start, end in encoded.offset_mapping for place in range(start, end)} == set(range(len(text)))

    if bos:
        chat = tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)
        assert tokenizer(chat).input_ids[:2] == [BOS_ID, BOS_ID]


def test_words_of_the_experiments_are_single_tokens():
    words = "Diana Princess Wales York City Alexander Great Syria Country Samsung cat 1135 hello largest city x France"
    for word in words.split():
        assert len(tiny_tokenizer()(" " + word).input_ids) == 1, word

"""Opening checkpoints: any family from a folder, float32 unless asked, and nothing that is not a sound checkpoint."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from bathyscope import capture, load, run, wrap
from bathyscope.embedded import EMBEDDED_NAME
from bathyscope.errors import ModelError, SiteError, UsageError
from bathyscope.families import FAMILIES as ROWS
from bathyscope.model import Model
from families import ALL, save_tiny
from tokenizers_for_tests import tiny_tokenizer

TEXT = "The capital of France is Paris"
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("saved") / "llama")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A checkpoint of one's own to damage."""
    return Path(shutil.copytree(saved, tmp_path / "my-model"))


def refusal(*arguments, **options) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load(*arguments, **options)
    error = caught.value
    assert "\n" not in str(error)
    assert error.given
    assert error.exit_code == 2
    return error


# What loads


@pytest.mark.parametrize(
    "name", ["llama", "gpt2", "gemma2", "opt", "bloom", "falcon_40b", "qwen3_moe", "phi3", "cohere"]
)
def test_a_saved_model_is_the_same_model(name: str, tmp_path: Path):
    loaded = load(save_tiny(name, tmp_path / name), attention="eager")
    built = wrap(ALL[name].build(), tiny_tokenizer())
    assert torch.equal(run(loaded, TEXT).logits[0], run(built, TEXT).logits[0])
    assert loaded.tokenize(TEXT) == built.tokenize(TEXT)
    assert loaded.architecture == built.architecture


def test_a_folder_may_be_a_path_or_its_text(saved: Path):
    assert load(saved).fingerprint == load(str(saved)).fingerprint
    assert load(saved).name == str(saved)


def test_the_embedded_model_is_loaded_by_its_name_too(saved: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bathyscope.loading.embedded_path", lambda: saved)
    named, plain = load(EMBEDDED_NAME), load()
    assert named.name == plain.name == EMBEDDED_NAME and named.fingerprint == plain.fingerprint


def test_weights_are_float32_whatever_the_checkpoint_holds(tmp_path: Path):
    model = ALL["llama"].build(dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert {weight.dtype for weight in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}
    for options, wanted in (
        ({}, "float32"),
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"dtype": torch.float64}, "float64"),
    ):
        loaded = load(tmp_path, **options)
        assert loaded.provenance()["dtype"] == wanted
        assert {str(weight.dtype) for weight in loaded.hf.parameters()} == {f"torch.{wanted}"}
        assert run(loaded, TEXT).logits[0].dtype == getattr(torch, wanted)


def test_weights_on_a_named_cpu_are_float32_too(saved: Path):
    for options in ({"device": "cpu"}, {"device": torch.device("cpu")}, {"device_map": "cpu"}, {"device_map": "auto"}):
        loaded = load(saved, **options)
        assert loaded.dtype == torch.float32
        assert loaded.provenance()["device"] == "cpu"


def test_attention_is_transformers_own_choice_or_eager(saved: Path):
    assert load(saved).provenance()["attention"] == "sdpa"
    with pytest.raises(SiteError, match='attention="eager"'):
        capture(load(saved), TEXT, ["pattern.1"])
    eager = load(saved, attention="eager")
    assert eager.provenance()["attention"] == "eager"
    assert torch.allclose(capture(eager, TEXT, ["pattern.1"])["pattern.1"][0].sum(-1), torch.ones(()), atol=1e-5)


def test_a_loaded_model_is_ready_to_read(saved: Path):
    loaded = load(saved)
    assert not loaded.hf.training
    assert not any(weight.requires_grad for weight in loaded.hf.parameters())
    trained = ALL["llama"].build().train()
    assert not wrap(trained, tiny_tokenizer()).hf.training
    assert not any(weight.requires_grad for weight in trained.parameters())


def test_a_wrapped_model_is_called_by_its_own_name_unless_said():
    model = ALL["llama"].build()
    assert wrap(model, tiny_tokenizer()).name == "llama"
    model.config.name_or_path = "somebody/their-llama"
    assert wrap(model, tiny_tokenizer()).name == "somebody/their-llama"
    named = wrap(model, tiny_tokenizer(), name="mine", revision="v2")
    assert (named.provenance()["model"], named.provenance()["revision"]) == ("mine", "v2")


def test_the_same_weights_have_the_same_fingerprint_and_others_another(saved: Path):
    loaded = load(saved)
    assert loaded.fingerprint == load(saved).fingerprint
    assert loaded.fingerprint != load(saved, dtype="bfloat16").fingerprint
    changed = load(saved)
    with torch.no_grad():
        changed.hf.model.layers[3].mlp.down_proj.weight[0, 0] += 1e-6
    assert changed.fingerprint != loaded.fingerprint


# What is asked of transformers


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict]:
    """The arguments that each loader of transformers was given; none of them loads anything."""
    seen: dict[str, dict] = {}

    hf = ALL["llama"].build()
    told = {"missing_keys": set()}
    answers = {"AutoConfig": hf.config, "AutoModelForCausalLM": (hf, told), "AutoTokenizer": tiny_tokenizer()}
    for kind, answer in answers.items():

        def from_pretrained(name, kind=kind, answer=answer, **options):
            seen[kind] = {"name": name, **options}
            return answer

        monkeypatch.setattr(getattr(transformers, kind), "from_pretrained", from_pretrained)
    return seen


def test_the_revision_and_no_code_are_asked_of_every_part(asked: dict[str, dict]):
    loaded = load("somebody/their-llama", revision="abc123")
    assert set(asked) == {"AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"}
    for options in asked.values():
        assert options["name"] == "somebody/their-llama"
        assert options["revision"] == "abc123"
        assert options["trust_remote_code"] is False
    assert asked["AutoModelForCausalLM"]["use_safetensors"] is True
    assert asked["AutoModelForCausalLM"]["dtype"] == torch.float32
    assert (loaded.provenance()["model"], loaded.provenance()["revision"]) == ("somebody/their-llama", "abc123")


def test_device_map_and_attention_reach_transformers(asked: dict[str, dict]):
    load("somebody/their-llama", device_map="auto", attention="sdpa")
    assert asked["AutoModelForCausalLM"]["device_map"] == "auto"
    assert asked["AutoModelForCausalLM"]["attn_implementation"] == "sdpa"
    load("somebody/their-llama", device="cpu")
    assert asked["AutoModelForCausalLM"]["device_map"] == {"": "cpu"}


def test_a_network_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch):
    def from_pretrained(_name, **_options):
        raise OSError("We couldn't connect to the hub\n    to load the files,\nand found them nowhere else.")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", from_pretrained)
    error = refusal("somebody/their-llama")
    assert "couldn't connect to the hub to load the files" in error.given
    assert error.remedy == "bathyscope models"


# What is refused


def test_a_folder_that_is_not_there_is_named(tmp_path: Path):
    error = refusal(tmp_path / "no-such-model")
    assert error.given == f"there is no folder '{tmp_path / 'no-such-model'}'"
    assert error.expected
    assert error.remedy == "bathyscope models"


def test_a_folder_without_a_model_is_refused(tmp_path: Path):
    assert "a local folder with config.json, a tokenizer and safetensors weights" in refusal(tmp_path).expected


def test_a_family_that_is_not_supported_is_named_with_those_that_are(tmp_path: Path):
    config = transformers.BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    transformers.BertLMHeadModel(config).save_pretrained(tmp_path)
    error = refusal(tmp_path)
    assert error.given == "models of family 'bert' are not supported"
    assert "llama" in error.expected
    assert "gpt_neox" in error.expected
    with pytest.raises(ModelError, match="'bert'"):
        wrap(transformers.BertLMHeadModel(config), tiny_tokenizer())


def test_pickled_weights_are_refused_and_not_opened(folder: Path, tmp_path: Path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "opened",)

    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Trap()}, folder / "pytorch_model.bin")
    assert "safetensors" in str(refusal(folder))
    assert not (tmp_path / "opened").exists()


def test_a_checkpoints_own_code_is_not_run(folder: Path, tmp_path: Path):
    (folder / "modeling_mine.py").write_text(f"open({str(tmp_path / 'opened')!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "mine",
        "auto_map": {"AutoConfig": "modeling_mine.C", "AutoModelForCausalLM": "modeling_mine.M"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    assert "my-model" in refusal(folder).given
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [None, "{", ""])
def test_a_file_that_is_missing_or_no_json_is_refused(folder: Path, name: str, content: str | None):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    assert "could not be loaded" in refusal(folder).given


@pytest.mark.parametrize("damage", ["truncated", "empty", "another width"])
def test_damaged_weights_are_refused(folder: Path, damage: str):
    weights = folder / "model.safetensors"
    if damage == "another width":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    else:
        weights.write_bytes(weights.read_bytes()[: 0 if damage == "empty" else weights.stat().st_size // 2])
    assert "my-model" in refusal(folder).given


@pytest.mark.parametrize("missing", ["model.layers.2.", "model.layers.0.mlp.up_proj.weight", "model.norm.weight"])
def test_a_checkpoint_without_some_of_its_weights_is_refused(folder: Path, missing: str):
    weights = folder / "model.safetensors"
    kept = {name: weight for name, weight in load_file(weights).items() if not name.startswith(missing)}
    save_file(kept, weights, metadata={"format": "pt"})
    assert missing.rstrip(".") in refusal(folder).given


def test_tied_weights_are_not_missing(saved: Path):
    assert "lm_head.weight" not in load_file(saved / "model.safetensors")
    loaded = load(saved)
    assert loaded.hf.lm_head.weight is loaded.hf.model.embed_tokens.weight


@pytest.mark.parametrize("dtype", ["float8", "int8", "fp16", ""])
def test_an_unknown_dtype_is_refused_before_anything_is_loaded(dtype: str, asked: dict[str, dict]):
    with pytest.raises(
        UsageError, match=f"dtype '{dtype}' was given; choose one of float32, float64, bfloat16, float16"
    ):
        load("somebody/their-llama", dtype=dtype)
    assert asked == {}


def test_device_and_device_map_together_are_refused(asked: dict[str, dict]):
    with pytest.raises(UsageError, match="both device and device_map were given"):
        load("somebody/their-llama", device="cpu", device_map="auto")
    assert asked == {}


def test_a_slow_tokenizer_is_refused_with_the_reason():
    class Slow:
        is_fast, bos_token = False, None

    model = Model(ALL["llama"].build(), Slow(), wrap(ALL["llama"].build(), tiny_tokenizer()).architecture, "slow")
    with pytest.raises(UsageError, match="slow tokenizer; positions in text are found by the offsets of a fast one"):
        model.tokenize("hello")


# The check at load

WRONG = {
    "llama": {"attn_out": "mlp", "mlp_out": "self_attn"},
    "gpt2": {"resid_mid": "ln_1"},
    "gemma2": {"attn_out": "self_attn"},
    "olmo2": {"mlp_out": "mlp"},
    "bloom": {"attn_out": "self_attention"},
}
"""Modules that a careless row names: parts swapped, a middle that is the start, contributions before a norm."""


@pytest.mark.parametrize("name", WRONG)
def test_a_model_that_does_not_fit_its_familys_row_is_not_loaded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    right = ROWS[ALL[name].family]

    def wrong(config):
        row = right(config)
        return replace(row, taps={**row.taps, **{c: replace(row.taps[c], module=m) for c, m in WRONG[name].items()}})

    folder = save_tiny(name, tmp_path / name)
    load(folder)
    monkeypatch.setitem(ROWS, ALL[name].family, wrong)
    error = refusal(folder)
    assert f"does not fit the row {ALL[name].family!r} of its family" in error.given
    assert re.search(r"\(.*\d", error.given), "the difference that was measured"
    assert "numbers from it would be wrong" in error.expected
    assert load(folder, verify=False)

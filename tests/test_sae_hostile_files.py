"""Files of sparse coders that are damaged, or made to harm: each is refused in words, and costs no memory."""

import json
import os
import resource
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bathyscope.errors import StorageError
from bathyscope.sae import KeepAbove, KeepTop, SparseCoder, load_coder, save_coder
from bathyscope.sae.formats import tensors
from bathyscope.sites import Site

D, N = 6, 20


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """No test here may take 100 MB, whatever a file announces."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def coder() -> SparseCoder:
    site = Site("resid_post", 3)
    return SparseCoder(
        draw(N, D), draw(N), draw(N, D), draw(D), KeepAbove(draw(N).abs()), centre=draw(D), site=site, target=site
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_coder(coder(), tmp_path / "coder")


def assert_refused(path: Path, *fragments: str) -> None:
    with pytest.raises(StorageError) as caught:
        load_coder(path)
    for fragment in (*fragments, path.name):
        assert fragment in str(caught.value), str(caught.value)


# cfg.json

SETTINGS: dict[str, tuple[Callable[[str], str], str]] = {
    "empty": (lambda text: "", "JSONDecodeError"),
    "no object": (lambda text: "[1, 2]", "it holds a list"),
    "cut": (lambda text: text[: len(text) // 2], "JSONDecodeError"),
    "NaN": (lambda text: text.replace('"normed": false', '"normed": NaN'), "NaN is no JSON"),
    "infinity": (lambda text: text.replace('"version": 1', '"version": -Infinity'), "-Infinity is no JSON"),
    "a long number": (lambda text: text.replace('"version": 1', f'"version": {"9" * 5000}'), "ValueError"),
    "deep": (lambda text: '{"model": ' + "[" * 500 + "]" * 500 + "}", "nested too deeply"),
    "very deep": (lambda text: '{"model": ' + "[" * 200_000 + "]" * 200_000 + "}", "Recursion"),
    "large": (lambda text: text + " " * 2**22, "bytes"),
    "newer": (lambda text: text.replace('"version": 1', '"version": 2'), "written by a newer bathyscope"),
    "no version": (lambda text: text.replace('"version"', '"versions"'), "has no version"),
    "no fingerprint": (lambda text: text.replace("bathyscope_fingerprint", "mark"), "has no bathyscope_fingerprint"),
    "another fingerprint": (lambda text: text.replace('fingerprint": "', 'fingerprint": "0'), "does not hold what"),
    "wrong type": (lambda text: text.replace('"normed": false', '"normed": "no"'), "normed='no'"),
    "a number for a truth": (lambda text: text.replace('"normed": false', '"normed": 0'), "normed=0"),
    "no site": (lambda text: text.replace('"resid_post.3"', '"somewhere"'), "'somewhere' is not a site"),
    "a list for an object": (lambda text: text.replace('"training": {}', '"training": []'), "training=[]"),
    "another selection": (lambda text: text.replace('"above"', '"below"'), "the selection 'below'"),
    "no k": (lambda text: text.replace('"above"', '"top"'), "has no k"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(folder, name):
    change, said = SETTINGS[name]
    text = (folder / "cfg.json").read_text()
    changed = change(text)
    assert changed != text
    (folder / "cfg.json").write_text(changed)
    with pytest.raises(StorageError, match=said.replace("[", r"\[")):
        load_coder(folder)


def test_settings_that_are_no_text(folder):
    (folder / "cfg.json").write_bytes(b'{"version": "\xff"}')
    with pytest.raises(StorageError, match="UnicodeDecodeError"):
        load_coder(folder)


# Tensors of the right form with the wrong content

TENSORS: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor | None]], str]] = {
    "missing": (lambda old: {"decoder": None}, "has no decoder; it has centre"),
    "unknown": (lambda old: {"more": torch.zeros(2)}, "has more; no coder has that"),
    "transposed": (lambda old: {"decoder": old["decoder"].T.contiguous()}, r"decoder of shape \(6, 20\)"),
    "no matrix": (lambda old: {"encoder": torch.zeros(N)}, r"encoder of shape \(20,\); a matrix is needed"),
    "empty": (lambda old: {"encoder": torch.zeros(0, D)}, r"encoder of shape \(0, 6\)"),
    "another width": (lambda old: {"centre": torch.zeros(D + 1)}, r"centre of shape \(7,\)"),
    "NaN": (
        lambda old: {"encoder": old["encoder"].index_fill(0, torch.tensor([3]), torch.nan)},
        "encoder is not finite",
    ),
    "infinite": (lambda old: {"decoder_bias": torch.full((D,), torch.inf)}, "decoder_bias is not finite"),
    "whole numbers": (lambda old: {"encoder_bias": torch.zeros(N, dtype=torch.int64)}, "encoder_bias in torch.int64"),
    "eight bits": (lambda old: {"encoder_bias": torch.zeros(N, dtype=torch.float8_e4m3fn)}, "torch.float8"),
    "a threshold below 0": (lambda old: {"threshold": -torch.ones(N)}, "least value -1.0"),
    "a threshold of NaN": (lambda old: {"threshold": torch.full((N,), torch.nan)}, "least value nan"),
    "others": (lambda old: {"encoder": old["encoder"] + 1}, "does not hold what cfg.json"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors(folder, name):
    change, said = TENSORS[name]
    path = folder / "coder.safetensors"
    old = load_file(path)
    save_file({key: one for key, one in {**old, **change(old)}.items() if one is not None}, path)
    with pytest.raises(StorageError, match=said):
        load_coder(folder)


@pytest.mark.parametrize("name", ["W_enc", "W_dec"])
def test_a_transposed_matrix_of_saelens_is_called_so(tmp_path, name):
    folder = save_coder(coder(), tmp_path, format="saelens")
    path = folder / "sae_weights.safetensors"
    old = load_file(path)
    save_file({**old, name: old[name].T.contiguous()}, path)
    assert_refused(folder, f"has {name} of shape", "it is transposed")


# safetensors whose header lies


def with_header(path: Path, header: dict | bytes, content: bytes, length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + content)


def lying(shape: list[int], ends: int, dtype: str = "F32") -> dict:
    return {"encoder": {"dtype": dtype, "shape": shape, "data_offsets": [0, ends]}}


HEADERS: dict[str, Callable[[Path], None]] = {
    "a shape of more than is there": lambda path: with_header(path, lying([10**6, 10**6], 16), bytes(16)),
    "content of more than is there": lambda path: with_header(path, lying([10**6, 10**6], 4 * 10**12), bytes(16)),
    "a product that overflows": lambda path: with_header(path, lying([2**40, 2**40], 16), bytes(16)),
    "negative lengths": lambda path: with_header(path, lying([-4, -1], 16), bytes(16)),
    "a header longer than the file": lambda path: with_header(path, lying([4], 16), bytes(16), 2**60),
    "a header of no JSON": lambda path: with_header(path, b"{" * 40, bytes(16)),
    "overlapping tensors": lambda path: with_header(
        path, {**lying([4], 16), "decoder": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, bytes(16)
    ),
    "cut short": lambda path: os.truncate(path, path.stat().st_size - 40),
    "only a header": lambda path: os.truncate(path, 8),
    "empty": lambda path: os.truncate(path, 0),
}


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("format", ["bathyscope", "saelens", "sparsify"])
def test_safetensors_that_lie(tmp_path, name, format):
    one = coder()
    top = SparseCoder(one.encoder, one.encoder_bias, one.decoder, one.decoder_bias, KeepTop(3))
    folder = save_coder(top, tmp_path, format=format)
    (path,) = folder.glob("*.safetensors")
    HEADERS[name](path)
    with pytest.raises(StorageError, match=path.name):
        load_coder(folder)


def test_more_numbers_than_any_coder_has(folder, monkeypatch):
    """Such a file can be there in full without a disk that could hold it: its content may be a hole."""
    monkeypatch.setattr(tensors, "MOST_NUMBERS", N * D - 1)
    with pytest.raises(StorageError, match=r"announces (en|de)coder of shape \(20, 6\); at most 119 numbers"):
        load_coder(folder)
    monkeypatch.setattr(tensors, "MOST_NUMBERS", N * D)
    assert load_coder(folder).n_latents == N


# npz


def arrays() -> dict[str, np.ndarray]:
    named = {"W_enc": (D, N), "b_enc": (N,), "W_dec": (N, D), "b_dec": (D,), "threshold": (N,)}
    return {name: draw(*shape).abs().numpy() for name, shape in named.items()}


def repacked(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """Change the entries of an archive."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, change(name, content))


def test_arrays_of_python_objects(tmp_path):
    path = tmp_path / "params.npz"
    np.savez(path, **arrays() | {"b_dec": np.array([{"a": 1}] * D, dtype=object)})
    assert_refused(path, "holds Python objects")


def test_an_array_that_announces_more_than_it_has(tmp_path):
    path = tmp_path / "params.npz"
    for said in ("(900000, 900)", "(900000, 90000000000)"):

        def announcing(name: str, content: bytes, said: str = said) -> bytes:
            room = b" " * (len(said) - len("(6, 20)"))  # numpy fills a header up with it
            header = content.replace(b"(6, 20), }" + room, f"{said}, }}".encode())
            return header if name == "W_enc.npy" else content

        np.savez(path, **arrays())
        repacked(path, announcing)
        assert_refused(path, "W_enc.npy", said)


def test_an_archive_that_unpacks_to_more_than_any_weights_do(tmp_path):
    path = tmp_path / "params.npz"
    np.savez_compressed(path, **arrays() | {"W_enc": np.zeros((2048, 2048), np.float32)})
    assert path.stat().st_size < 100_000
    assert_refused(path, "it announces 16,")


def test_an_archive_with_one_entry_many_times(tmp_path):
    """Entries may share their bytes, so that a small archive has a large directory."""
    path = tmp_path / "params.npz"
    np.savez(path, a=np.zeros(1000))
    with zipfile.ZipFile(path, "a") as archive:
        first = archive.infolist()[0]
        for number in range(2000):
            other = zipfile.ZipInfo(f"b{number}.npy")
            other.file_size = other.compress_size = first.file_size
            other.CRC, other.header_offset = first.CRC, first.header_offset
            archive.filelist.append(other)
        archive._didModify = True
    assert_refused(path, "it announces")


@pytest.mark.parametrize("name", ["params.npz", "ae.pt"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02cos\nsystem\n.", b"\x93NUMPY\x01\x00"])
def test_no_archive_at_all(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert_refused(tmp_path / name, "could not be read")


# What torch saves


def state() -> dict[str, Tensor]:
    return {"bias": draw(D), "encoder.weight": draw(N, D), "encoder.bias": draw(N), "decoder.weight": draw(D, N)}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (print, "__builtin__.print"),
        (Path("x"), "pathlib"),
        (bytearray(8), "bytearray"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (torch.zeros(3, 3).to_sparse(), "_rebuild_sparse"),
        (torch.zeros(3, device="meta"), "_rebuild_meta"),
        ({1, 2}, "__builtin__.set"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_python_objects_are_refused_by_name(tmp_path, value, said):
    torch.save({**state(), "more": value}, tmp_path / "ae.pt")
    assert_refused(tmp_path / "ae.pt", "it asks for", said)


def test_a_file_that_would_run_a_program_does_not(tmp_path):
    path, mark = tmp_path / "ae.pt", tmp_path / "it_ran"
    torch.save(state(), path)
    program = b"\x80\x02cos\nsystem\nX%s\x85R." % (struct.pack("<I", len(f"touch {mark}")) + f"touch {mark}".encode())
    repacked(path, lambda name, content: program if name.endswith("data.pkl") else content)
    assert_refused(path, "os.system")
    newer = b"\x80\x04\x8c\x02os\x8c\x06system\x93" + program[14:]
    repacked(path, lambda name, content: newer if name.endswith("data.pkl") else content)
    assert_refused(path, "STACK_GLOBAL")
    assert not mark.exists()


def test_a_storage_that_announces_more_than_the_archive_has(tmp_path):
    """torch itself believes such a number, and would read what lies behind the file's content in memory."""
    path = tmp_path / "ae.pt"
    torch.save(state(), path)
    whole = load_coder(path).fingerprint
    length, shape = b"K%c" % (N * D), b"K%cK%c" % (N, D)
    many = b"J" + struct.pack("<i", 10**8)

    def longer(name: str, content: bytes) -> bytes:
        return content.replace(length, many) if name.endswith("data.pkl") else content

    def higher(name: str, content: bytes) -> bytes:
        return content.replace(shape, many + b"K%c" % D) if name.endswith("data.pkl") else content

    repacked(path, longer)
    assert load_coder(path).fingerprint == whole, "a tensor that is all there is read, whatever is said of its storage"
    repacked(path, higher)
    assert_refused(path, "could not be read")


@pytest.mark.parametrize(("shape", "said"), [((300, 300), "repeats fewer numbers"), ((10**6, 10**6), "announces")])
def test_a_tensor_that_repeats_one_number(tmp_path, shape, said):
    torch.save({**state(), "encoder.weight": torch.zeros(1, 1).expand(shape)}, tmp_path / "ae.pt")
    assert_refused(tmp_path / "ae.pt", "encoder.weight", said)


def test_torch_archives_that_torch_does_not_write(tmp_path):
    path = tmp_path / "ae.pt"
    torch.save(state(), path)
    repacked(path, lambda name, content: content, zipfile.ZIP_DEFLATED)
    assert_refused(path, "it is compressed")
    torch.save(state(), path)
    repacked(path, lambda name, content: content + bytes(2**20) if name.endswith("data.pkl") else content)
    assert_refused(path, "too large")
    torch.save(state(), path, _use_new_zipfile_serialization=False)
    assert_refused(path, "BadZipFile")
    torch.save(list(state().values()), path)
    assert_refused(path, "it holds a list")
    torch.save(state(), path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert_refused(path, "BadZipFile")


def test_weights_that_are_not_finite_are_refused_in_every_format(tmp_path):
    torch.save({**state(), "bias": torch.full((D,), torch.nan)}, tmp_path / "ae.pt")
    assert_refused(tmp_path / "ae.pt", "not finite")
    np.savez(tmp_path / "params.npz", **arrays() | {"b_dec": np.full(D, np.inf, np.float32)})
    assert_refused(tmp_path / "params.npz", "not finite")

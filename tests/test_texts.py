"""Texts: the same documents every time, the same windows, and positions that two tokenizers share."""

import hashlib
import json
import random
import subprocess
import sys
import tracemalloc
import types
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pyarrow
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from bathyscope import capture, run, wrap
from bathyscope.errors import StorageError, UsageError
from bathyscope.model import Model
from bathyscope.texts import (
    AlignedWindow,
    Texts,
    aligned_windows,
    base,
    given_texts,
    read_texts,
    sampled_texts,
    split_texts,
    windows,
)
from families import ALL
from tokenizers_for_tests import (
    BOS_ID,
    EOS,
    EOS_ID,
    PLAIN_ENGLISH,
    VOCAB_SIZE,
    sentencepiece_like_tokenizer,
    tiny_tokenizer,
)

ENGLISH = PLAIN_ENGLISH.replace("\n", " ")
HF = ALL["llama"].build()


@cache
def other_vocabulary(stripped: bool = False) -> PreTrainedTokenizerFast:
    """A third tokenizer: fewer merges, learned from other text; with `stripped`, of text that it changes first."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if stripped:
        backend.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.NFKC()])
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        special_tokens=["<pad>", EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(["été 日本語 naïveté", ENGLISH[::-1], ENGLISH[:300]], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token=EOS)


READERS = {
    "byte-level": wrap(HF, tiny_tokenizer(), name="byte-level"),
    "byte-level, bos": wrap(HF, tiny_tokenizer(bos=True), name="byte-level, bos"),
    "metaspace, bos": wrap(HF, sentencepiece_like_tokenizer(bos=True), name="metaspace, bos"),
    "other": wrap(HF, other_vocabulary(), name="other"),
    "stripped": wrap(HF, other_vocabulary(stripped=True), name="stripped"),
}
"""One model under every tokenizer."""

PLAIN, BOS = READERS["byte-level"], READERS["byte-level, bos"]


def body(model: Model, text: str) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def documents(path: Path, **options) -> list[str]:
    return list(read_texts(path, **options).documents())


# Plain text


def test_headings_begin_documents_and_smaller_headings_do_not(tmp_path: Path):
    first = " = Homarus gammarus = \n \n A lobster = an animal . \n = = Description = = \n x = y = z \n"
    second = " = = 7 = = \n = M @-@ 82 ( highway ) = \n A road .\f \n = = = Deep = = = \n"
    path = write(tmp_path / "a.txt", f"before\n{first}{second}")
    found = documents(path)
    assert "".join(found) == f"before\n{first}{second}"
    assert [one.splitlines()[0].strip() for one in found] == [
        "before",
        "= Homarus gammarus =",
        "= M @-@ 82 ( highway ) =",
    ]
    assert read_texts(path).describe()["parted_by"] == "headings"


def test_form_feeds_part_documents_where_there_are_no_headings(tmp_path: Path):
    path = write(tmp_path / "a.md", "# One\n\nfirst\n\fsecond\f\f\n \fthird\n\n\n")
    assert documents(path) == ["# One\n\nfirst\n", "second", "third\n\n\n"]
    assert read_texts(path).describe()["parted_by"] == "form feeds"


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=12), st.sampled_from(["\n\n", "\n \t\n", "\n\n\n\n"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
def test_paragraphs_are_gathered_and_nothing_is_lost(tmp_path: Path, sizes: list[int], between: str):
    paragraphs = [f"{number} ".ljust(size, "x") for number, size in enumerate(sizes)]
    text = between.join(paragraphs)
    found = documents(write(tmp_path / "a", text))
    assert "".join(found) == text
    assert all(one[0].isdigit() for one in found), "a document begins with a paragraph"
    assert all(len(one) >= 2000 for one in found[:-1])
    for one in found[:-1]:
        held = one.rstrip().split(between)
        assert len(one) - len(held[-1]) - 2 * len(between) < 2000, "a paragraph more than needed"


def test_two_thousand_characters_of_paragraphs_are_enough(tmp_path: Path):
    assert [len(one) for one in documents(write(tmp_path / "a.txt", "x" * 1998 + "\n\ny"))] == [2000, 1]
    assert [len(one) for one in documents(write(tmp_path / "a.txt", "x" * 1997 + "\n\ny"))] == [2000]


def test_ends_of_lines_and_a_mark_of_byte_order_are_nobodys_text(tmp_path: Path):
    assert documents(write(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\ntwo\n")) == ["one\ntwo\n"]
    assert documents(write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"text": "one"}\r\n')) == ["one"]


@pytest.mark.parametrize(
    ("content", "offset", "encoding"),
    [
        (b"one\ntwo caf\xe9 three\n", 11, "LATIN1"),
        ("日本語\nü".encode() + b"\xff\n", 12, "LATIN1"),
        ("Zoë\n".encode("utf-16"), 3, "UTF-16"),
        ("日本語".encode("utf-16"), 0, "UTF-16"),
        (b"one\n\nb\0c", 6, "UTF-16"),
        (b"cut short \xe6\x97", 10, "LATIN1"),
    ],
)
def test_another_encoding_is_refused_with_the_byte_and_what_to_type(
    tmp_path: Path, content: bytes, offset: int, encoding: str
):
    path = write(tmp_path / "a b.txt", content)
    with pytest.raises(StorageError) as refused:
        read_texts(path)
    assert f"at byte {offset};" in str(refused.value)
    assert refused.value.remedy == f"iconv -f {encoding} -t UTF-8 '{path}' > NEW"


def test_json_lines_in_another_encoding_are_refused_too(tmp_path: Path):
    lines = '{"text": "one"}\n{"text": "caf\xe9"}\n'
    for encoding, offset in (("latin-1", 29), ("utf-16", 3)):
        with pytest.raises(StorageError, match=f"a.jsonl is not UTF-8 text: .* at byte {offset};"):
            read_texts(write(tmp_path / "a.jsonl", lines.encode(encoding)))


def test_what_iconv_makes_is_read(tmp_path: Path):
    path = write(tmp_path / "old.txt", "café\n".encode("latin-1"))
    with pytest.raises(StorageError) as refused:
        read_texts(path)
    new = tmp_path / "NEW"
    subprocess.run(refused.value.remedy, shell=True, check=True, cwd=tmp_path)
    assert documents(new) == ["café\n"]


@pytest.mark.parametrize("content", ["", "\n \n\f\n"])
def test_a_file_without_text_is_refused(tmp_path: Path, content: str):
    with pytest.raises(StorageError, match="has no text in it"):
        read_texts(write(tmp_path / "a.txt", content))


def test_what_is_no_file_is_refused(tmp_path: Path):
    with pytest.raises(StorageError, match="does not exist"):
        read_texts(tmp_path / "nowhere.txt")
    with pytest.raises(StorageError, match="is a folder"):
        read_texts(tmp_path)
    with pytest.raises(StorageError, match="is no file"):
        read_texts("/dev/null")
    with pytest.raises(UsageError, match="no columns"):
        read_texts(write(tmp_path / "a.txt", "one"), column="body")


def test_a_file_that_changes_is_refused(tmp_path: Path):
    path = write(tmp_path / "a.txt", "one\n")
    texts = read_texts(path)
    write(path, "one and two\n")
    with pytest.raises(StorageError, match="was changed"):
        next(texts.documents())
    with pytest.raises(StorageError, match="was changed"):
        texts.describe()


# Rows


def json_lines(path: Path, rows: list) -> Path:
    return write(path, "".join(f"{json.dumps(row)}\n" for row in rows))


def test_json_lines_and_parquet_give_their_column(tmp_path: Path):
    rows = [{"text": "one\ntwo", "n": 1}, {"text": " \n", "n": 2}, {"text": "ünï", "n": 3, "body": "b"}]
    frame = pyarrow.table({"n": [1, 2, 3], "text": [row["text"] for row in rows], "body": ["x", "y", "z"]})
    parquet.write_table(frame, tmp_path / "a.parquet", row_group_size=2)
    lines = json_lines(tmp_path / "a.NDJSON", rows)
    write(lines, lines.read_bytes() + b"\n \n")
    for name in ("a.NDJSON", "a.parquet"):
        assert documents(tmp_path / name) == ["one\ntwo", "ünï"]
    assert documents(tmp_path / "a.parquet", column="body") == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("line", "kind", "said"),
    [
        ('{"body": "b", "id": 4}', UsageError, "line 3 of a.jsonl has no column 'text'; it has 'body', 'id'"),
        ("{}", UsageError, "line 3 of a.jsonl has no column 'text'; it has none"),
        ('["text"]', StorageError, "line 3 of a.jsonl is a list"),
        ("null", StorageError, "line 3 of a.jsonl is null"),
        ('{"text": 5}', StorageError, "the 'text' of line 3 of a.jsonl is a number"),
        ('{"text": null}', StorageError, "the 'text' of line 3 of a.jsonl is null"),
        ('{"text": "a\\ud800b"}', StorageError, "half a character (a lone surrogate) at character 1"),
        ('{"text": "cut', StorageError, "line 3 of a.jsonl is not JSON"),
        ("[" * 200_000, StorageError, "line 3 of a.jsonl is not JSON"),
    ],
    ids=range(9),
)
def test_a_line_that_is_no_row_is_refused_when_the_file_is_opened(tmp_path: Path, line: str, kind: type, said: str):
    path = write(tmp_path / "a.jsonl", f'{{"text": "fine"}}\n\n{line}\n')
    with pytest.raises(kind) as refused:
        read_texts(path)
    assert said in str(refused.value)


def test_a_parquet_file_without_the_column_or_of_something_else_is_refused(tmp_path: Path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"n": [1], "text": pyarrow.array([None], pyarrow.string())}), path)
    with pytest.raises(UsageError, match="a.parquet has no column 'body'; it has 'n', 'text'. Try: column='n'"):
        read_texts(path, column="body")
    with pytest.raises(StorageError, match="the 'n' of row 0 of a.parquet is a number"):
        read_texts(path, column="n")
    with pytest.raises(StorageError, match="the 'text' of row 0 of a.parquet is null"):
        read_texts(path)
    for content in (b"", b"PAR1 and no more", path.read_bytes()[:-9]):
        with pytest.raises(StorageError, match="could not be read as Parquet"):
            read_texts(write(tmp_path / "b.parquet", content))


def test_without_its_extra_a_format_is_refused_by_the_extras_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r'pip install "bathyscope\[frames\]"'):
        read_texts(write(tmp_path / "a.parquet", "x"))
    with pytest.raises(UsageError, match=r'pip install "bathyscope\[data\]"'):
        read_texts("hf:owner/name")


class FakeRows:
    """As much of a data set as is used."""

    def __init__(self, rows: list[dict]):
        self.rows, self.column_names = rows, list(rows[0])

    def select_columns(self, columns: list[str]) -> "FakeRows":
        return FakeRows([{name: row[name] for name in columns} for row in self.rows])

    def __iter__(self) -> Iterator[dict]:
        return iter(self.rows)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """A hub with one data set, and what was asked of it."""
    asked = []

    def load_dataset(name: str, config: str | None = None, *, split: str, trust_remote_code: bool):
        asked.append((name, config, split, trust_remote_code))
        if name != "owner/name":
            raise FileNotFoundError(f"no data set {name}\nand more")
        return FakeRows([{"id": 1, "text": "one"}, {"id": 2, "text": ""}, {"id": 3, "text": "three"}])

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    return asked


def test_a_data_set_of_the_hub_is_asked_for_by_config_and_split(hub: list[tuple]):
    for path in ("hf:owner/name", "hf:owner/name:small", "hf:owner/name::test", "hf:owner/name:small:test"):
        assert documents(path) == ["one", "three"]
    configs = [(None, "train"), ("small", "train"), (None, "test"), ("small", "test")]
    assert hub == [("owner/name", config, split, False) for config, split in configs]
    described = read_texts("hf:owner/name:small:test").describe()
    assert (described["name"], described["config"], described["split"]) == ("owner/name", "small", "test")
    assert described["sha256"] == given_texts(["one", "three"]).describe()["sha256"]


def test_what_the_hub_does_not_have_is_refused(hub: list[tuple]):
    with pytest.raises(UsageError, match="owner/name has no column 'body'; it has 'id', 'text'"):
        read_texts("hf:owner/name", column="body")
    with pytest.raises(StorageError, match="the 'id' of row 0 of owner/name is a number"):
        read_texts("hf:owner/name", column="id")
    with pytest.raises(StorageError) as refused:
        read_texts("hf:owner/other")
    assert "(FileNotFoundError: no data set owner/other);" in str(refused.value)
    for path in ("hf:", "hf::small", "hf:owner/name:a:b:c"):
        with pytest.raises(UsageError, match="hf:owner/name:config:split"):
            read_texts(path)


# Order


@pytest.fixture
def many(tmp_path: Path) -> Path:
    return json_lines(tmp_path / "many.jsonl", [{"text": f"document {number} ü"} for number in range(50)])


def test_every_call_gives_the_same_documents(many: Path):
    for texts in (read_texts(many), read_texts(many, seed=3), split_texts(read_texts(many, seed=3))[1]):
        begun = texts.documents()
        next(begun)
        assert list(texts.documents()) == list(texts.documents())
        assert len(list(begun)) == len(list(texts.documents())) - 1


def test_a_seed_decides_the_order(many: Path, monkeypatch: pytest.MonkeyPatch):
    plain, one, two = (documents(many, seed=seed) for seed in (None, 1, 2))
    assert plain == [f"document {number} ü" for number in range(50)]
    assert sorted(one) == sorted(two) == sorted(plain)
    assert one not in (plain, two) and two != plain
    state = random.getstate()
    monkeypatch.setattr(base, "SPOOLED", 16)  # on the disk
    assert documents(many, seed=1) == one
    assert random.getstate() == state
    assert read_texts(many, seed=1).describe() == {**read_texts(many).describe(), "seed": 1}


def test_a_file_is_described_by_name_and_content(tmp_path: Path, many: Path):
    content = many.read_bytes()
    (tmp_path / "elsewhere").mkdir()
    copy = write(tmp_path / "elsewhere" / many.name, content)
    described = read_texts(many).describe()
    assert described == read_texts(copy).describe()
    assert described["sha256"] == hashlib.sha256(content).hexdigest()
    assert str(tmp_path) not in json.dumps(described)
    assert read_texts(write(copy, content + b'{"text": "more"}\n')).describe() != described


@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize("name", ["large.txt", "large.jsonl", "large.parquet"])
def test_a_large_file_is_never_in_memory(tmp_path: Path, name: str, seed: int | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(base, "SPOOLED", 10_000)
    path, rows = tmp_path / name, [f"{number} " + "word " * 400 for number in range(1500)]
    if name == "large.parquet":
        parquet.write_table(pyarrow.table({"text": rows}), path, compression="none", use_dictionary=False)
    elif name == "large.jsonl":
        json_lines(path, [{"text": row} for row in rows])
    else:
        write(path, "\n\n".join(rows))
    assert path.stat().st_size > 3e6
    tracemalloc.start()
    try:
        fit, held_out = split_texts(read_texts(path, seed=seed))
        assert sum(1 for part in (fit, held_out) for _ in part.documents()) == 1500
        fit.describe()
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("count", "share", "last"), [(50, 0.1, 5), (50, 0.5, 25), (3, 0.1, 1), (2, 0.1, 1), (7, 0.4, 3)]
)
def test_a_split_is_disjoint_and_complete(count: int, share: float, last: int):
    texts = given_texts([f"document {number}" for number in range(count)])
    fit, held_out = split_texts(texts, held_out=share)
    parts = list(fit.documents()), list(held_out.documents())
    assert parts[0] + parts[1] == list(texts.documents())
    assert len(parts[1]) == last
    described = [part.describe() for part in (fit, held_out)]
    assert [one["split"]["part"] for one in described] == ["to fit on", "held out"]
    assert described[0]["split"]["stop"] == described[1]["split"]["first"] == count - last
    assert all(one["sha256"] == texts.describe()["sha256"] for one in described)
    json.dumps(described, allow_nan=False)


def test_a_split_with_an_empty_side_is_refused():
    with pytest.raises(UsageError, match="1 document was to be split, 10% held out; each side needs a document"):
        split_texts(given_texts(["one", "  "]))
    with pytest.raises(UsageError, match="2 documents were to be split, 90% held out"):
        split_texts(given_texts(["one", "two"]), held_out=0.9)
    for share in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(UsageError, match="a share of more than 0"):
            split_texts(given_texts(["one", "two"]), held_out=share)


def test_given_documents_must_be_texts():
    assert given_texts(["one"]).describe() != given_texts(["one", "two"]).describe()
    assert given_texts(["ab", "c"]).describe()["sha256"] != given_texts(["a", "bc"]).describe()["sha256"]
    with pytest.raises(UsageError, match="a sequence of documents"):
        given_texts("one")
    with pytest.raises(UsageError, match="none with a word in it"):
        given_texts([" ", ""])
    with pytest.raises(StorageError, match="document 1 is a number"):
        given_texts(["one", 2])
    with pytest.raises(StorageError, match="document 0 has half a character"):
        given_texts(["\udc80"])


# Text that the model writes


def test_sampled_text_depends_on_the_seed_alone(llama: Model):
    state = torch.random.get_rng_state()
    one = sampled_texts(llama, n_documents=5, n_tokens=12, seed=1)
    first = list(one.documents())
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(99)
    assert list(sampled_texts(llama, n_documents=5, n_tokens=12, seed=1).documents()) == first
    torch.random.set_rng_state(state)
    other = sampled_texts(llama, n_documents=5, n_tokens=12, seed=2)
    assert not set(other.documents()) & set(first)
    assert one.describe()["sha256"] == given_texts(first).describe()["sha256"] != other.describe()["sha256"]
    assert (one.describe()["model"], one.describe()["fingerprint"]) == (llama.name, llama.fingerprint)


def test_sampled_text_does_not_depend_on_the_batches(llama: Model, monkeypatch: pytest.MonkeyPatch):
    together = list(sampled_texts(llama, n_documents=5, n_tokens=12).documents())
    monkeypatch.setattr("bathyscope.texts.sampling.TOGETHER", 2)
    assert list(sampled_texts(llama, n_documents=5, n_tokens=12).documents()) == together


def test_sampled_tokens_have_the_models_own_chances(model: Model):
    """Where tokens lie on a line of length 1, each as long as it is likely, every token is the one that was drawn."""
    chances = torch.rand(6, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    written = sampled_texts(model, n_tokens=8)._write(chances)
    assert len({tuple(row) for row in written}) == 6
    for row, drawn in zip(written, chances, strict=True):
        logits = run(model, [BOS_ID, *row][:8]).logits[0]
        ends = torch.softmax(logits.double(), -1).cumsum(-1)
        for token, chance, end in zip([*row, EOS_ID][:8], drawn, ends, strict=False):
            assert end[token - 1] - 1e-5 <= chance <= end[token] + 1e-5


def test_sampled_text_begins_with_eos_where_there_is_no_bos_and_ends_with_it():
    assert sampled_texts(READERS["other"]).begin == EOS_ID
    assert sampled_texts(PLAIN).begin == BOS_ID
    bare = PreTrainedTokenizerFast(tokenizer_object=other_vocabulary().backend_tokenizer)
    with pytest.raises(UsageError, match="neither a BOS nor an EOS token"):
        sampled_texts(wrap(HF, bare, name="bare"))
    for options in ({"n_documents": 0}, {"n_tokens": 0}):
        with pytest.raises(UsageError, match="at least 1 of each"):
            sampled_texts(PLAIN, **options)
    with pytest.raises(UsageError, match="reads at most 128"):
        sampled_texts(PLAIN, n_tokens=129)


def test_sampled_text_ends_at_eos():
    hf = ALL["llama"].build()
    chances = torch.rand(20, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    endless = sampled_texts(wrap(hf, tiny_tokenizer()), n_tokens=30)._write(chances)
    hf.generation_config.eos_token_id = list(range(VOCAB_SIZE // 8))
    model = wrap(hf, tiny_tokenizer())
    assert len(model.stop_ids) == VOCAB_SIZE // 8
    ended = sampled_texts(model, n_tokens=30)._write(chances)
    for whole, part in zip(endless, ended, strict=True):
        stops = [index for index, token in enumerate(whole) if token in model.stop_ids]
        assert part == whole[: stops[0] if stops else None]
    assert len({len(row) for row in ended}) > 3


# Windows


@pytest.mark.parametrize("reader", READERS)
def test_windows_are_the_document_in_order(reader: str):
    model = READERS[reader]
    special = tuple(model.tokenizer("")["input_ids"])
    assert special == ((BOS_ID,) if "bos" in reader else ())
    texts = given_texts([ENGLISH, "the sea", ENGLISH[:700] + " été 日本語 🧪"])
    for length in (7, 16, 128):
        expected = []
        for document in texts.documents():
            ids, room = body(model, document), length - len(special)
            cut = [ids[first : first + room] for first in range(0, len(ids), room)]
            expected += [one for one in cut if len(one) + len(special) >= length // 2]
        found = list(windows(model, texts, length=length))
        assert [window.ids for window in found] == [(*special, *one) for one in expected]
        assert list(windows(model, texts, length=length, limit=3)) == found[:3]
    if reader != "stripped":
        whole = list(windows(model, texts, length=4))
        assert "".join(window.text for window in whole).startswith(ENGLISH)


@pytest.mark.parametrize("reader", [name for name in READERS if name != "stripped"])
def test_offsets_of_a_window_are_those_of_its_own_text(reader: str):
    model = READERS[reader]
    for window in windows(model, given_texts([ENGLISH]), length=16):
        for token, (first, last) in zip(window.ids, window.offsets, strict=True):
            if token == BOS_ID:
                assert first == last == 0
            else:
                assert window.text[first:last].strip() == model.decode([token]).strip()


def test_the_last_window_needs_half_its_length():
    # Every letter is a token of its own: the counts are known.
    assert len(body(PLAIN, "q" * 29)) == 29

    def sizes(model: Model, n_letters: int, length: int = 10) -> list[int]:
        return [len(window) for window in windows(model, given_texts(["q" * n_letters]), length=length)]

    assert sizes(PLAIN, 24) == [10, 10]
    assert sizes(PLAIN, 25) == [10, 10, 5]
    assert sizes(PLAIN, 5) == [5]
    assert sizes(BOS, 21) == [10, 10]
    assert sizes(BOS, 22) == [10, 10, 5]
    assert sizes(PLAIN, 3, length=1) == [1, 1, 1]
    assert sizes(BOS, 3, length=2) == [2, 2, 2]


def test_special_tokens_that_a_text_begins_with_are_not_doubled():
    window = next(windows(BOS, given_texts(["<bos>the sea and the wind"]), length=8))
    assert window.ids.count(BOS_ID) == 1
    assert window.ids[:8] == BOS.tokenize("the sea and the wind").ids[:8]
    aligned = next(aligned_windows(BOS, READERS["other"], given_texts(["<bos>the sea and the wind"]), length=24))
    assert set(aligned.pairs) == brute_force(aligned, BOS, READERS["other"])


def test_windows_run():
    found = list(windows(BOS, given_texts([ENGLISH]), length=32, limit=3))
    read = capture(BOS, found, ["resid_post.1"])["resid_post.1"]
    assert [len(row) for row in read] == [32] * 3


def test_a_text_without_a_window_is_refused_with_the_numbers():
    texts = given_texts(["q" * 19, "q"])
    with pytest.raises(UsageError, match="of 2 documents the longest has 19 tokens; a window of length=50 needs 25"):
        list(windows(PLAIN, texts, length=50))
    with pytest.raises(
        UsageError, match="the longest has 20 tokens; .* needs 25, up to a character at which tokens of both end"
    ):
        next(aligned_windows(BOS, PLAIN, texts, length=50))
    assert list(windows(PLAIN, texts, length=38))


def test_impossible_windows_are_refused_before_the_text_is_read():
    class Unread(Texts):
        def documents(self):
            raise AssertionError("it was read")

        def describe(self):
            return {}

    for cut in (windows, lambda model, *rest, **options: aligned_windows(model, PLAIN, *rest, **options)):
        with pytest.raises(UsageError, match="bos reads at most 128. Try: length=128"):
            cut(BOS, Unread(), length=129)
        with pytest.raises(UsageError, match="windows of 1 tokens were asked for; at least 2"):
            cut(BOS, Unread(), length=1)
        with pytest.raises(UsageError, match="limit=0"):
            cut(BOS, Unread(), limit=0)


def test_documents_are_read_no_further_than_needed():
    class Counted(Texts):
        n_read = 0

        def documents(self):
            while True:
                self.n_read += 1
                yield "q" * 20

        def describe(self):
            return {}

    texts = Counted()
    assert len(list(windows(PLAIN, texts, length=10, limit=5))) == 5
    assert texts.n_read == 3


# Alignment


def brute_force(window: AlignedWindow, source: Model, target: Model) -> set[tuple[int, int]]:
    """Pairs by the definition: every token with every token, by the characters that they end at."""
    found = set()
    sides = (window.source, source), (window.target, target)
    ends = [[end for _, end in tokens.offsets] for tokens, _ in sides]
    pieces = [list(model.tokenizer.convert_ids_to_tokens(list(tokens.ids))) for tokens, model in sides]
    for i, end in enumerate(ends[0]):
        for j, other in enumerate(ends[1]):
            if end != other or end == 0:
                continue
            ours, theirs = ([k for k, one in enumerate(side) if one == end] for side in ends)
            last = (i, j) == (ours[-1], theirs[-1])
            same = [pieces[0][k] for k in ours] == [pieces[1][k] for k in theirs]
            if last or (same and ours.index(i) == theirs.index(j)):
                found.add((i, j))
    return found


WORDS = st.sampled_from(
    ["the ", "sea", " harbour", "boats ", "q", "  ", "\n", "été", "日本", "🧪", "ﬁ", "<bos>", "e\u0301"]
)
STRINGS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.lists(WORDS, min_size=1).map("".join)
)


@pytest.mark.parametrize("target", READERS)
@pytest.mark.parametrize("source", ["metaspace, bos", "stripped"])
@given(document=STRINGS, length=st.integers(2, 40))
@example(document="日本語 the sea 🧪🧪", length=6)
@settings(deadline=None, max_examples=25)
def test_pairs_are_the_tokens_that_end_at_one_character(source: str, target: str, document: str, length: int):
    if not document.strip():
        return
    models = READERS[source], READERS[target]
    try:
        found = list(aligned_windows(*models, given_texts([document]), length=length))
    except UsageError as error:
        assert "makes no window" in str(error)
        return
    place = 0
    for window in found:
        assert window.source.text == window.target.text
        assert len(window.source) <= length and len(window.target) <= length
        assert max(len(window.source), len(window.target)) >= length // 2
        assert list(window.pairs) == sorted(window.pairs)
        assert set(window.pairs) == brute_force(window, *models)
        place = document.index(window.source.text, place) + len(window.source.text)


@pytest.mark.parametrize("reader", READERS)
def test_with_one_tokenizer_every_token_of_the_text_pairs_with_itself(reader: str):
    model = READERS[reader]
    texts = given_texts([ENGLISH, ENGLISH[:600] + "été 日本語 🧪 q"])
    n_special = len(model.tokenizer("")["input_ids"])
    for window in aligned_windows(model, model, texts, length=32):
        assert window.source == window.target
        assert window.pairs == tuple((index, index) for index in range(n_special, len(window.source)))
    plain = given_texts([ENGLISH])
    assert [w.source for w in aligned_windows(model, model, plain)] == list(windows(model, plain))


def test_aligned_windows_leave_no_text_out_and_are_as_long_as_they_can_be():
    source, target, length = READERS["metaspace, bos"], READERS["other"], 24
    texts = given_texts([ENGLISH])
    found = list(aligned_windows(source, target, texts, length=length))
    whole = "".join(window.source.text for window in found)
    assert ENGLISH.startswith(whole)
    assert len(ENGLISH) - len(whole) < 60
    assert list(aligned_windows(source, target, texts, length=length, limit=2)) == found[:2]
    for window, after in pairwise(found):
        # Its tokens up to the first common end of the next one would be too many.
        ours, theirs = after.pairs[0]
        assert len(window.source) + ours > length or len(window.target) + theirs + 1 > length


def test_pairs_are_the_most_of_ordinary_text():
    source, target = READERS["metaspace, bos"], READERS["other"]
    found = list(aligned_windows(source, target, given_texts([ENGLISH]), length=64))
    n_pairs = sum(len(window.pairs) for window in found)
    sides = [sum(map(len, side)) for side in ([w.source for w in found], [w.target for w in found])]
    assert 0.9 * len(ENGLISH.split()) < n_pairs < min(sides)


def test_a_stretch_in_which_no_tokens_end_together_is_left_out():
    """One tokenizer has a token for a long word, the other cuts it to letters."""
    word = "x" * 30
    backend = Tokenizer(models.WordLevel({"<unk>": 0, EOS: 1, "q": 2, word: 3}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    whole = wrap(HF, PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=EOS), name="words")
    assert len(body(whole, word)) == 1 and len(body(PLAIN, word)) == 30
    found = list(aligned_windows(whole, PLAIN, given_texts([f"q q q {word} q q q"]), length=8))
    assert [window.source.text for window in found] == ["q q q", " q q q"]
    assert [window.pairs for window in found] == [((0, 0), (1, 2), (2, 4)), ((0, 1), (1, 3), (2, 5))]
    with pytest.raises(UsageError, match="up to a character at which tokens of both end"):
        next(aligned_windows(whole, PLAIN, given_texts([word]), length=8))

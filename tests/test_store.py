"""The run store: keys, runs, batches, leases, exports, kills, full disks, damage, two processes at once."""

import doctest
import importlib
import json
import math
import os
import pkgutil
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bathyscope.store
import torture
from bathyscope.errors import StorageError, UsageError
from bathyscope.store import FinishedCell, Store, canonical, data_dir, database, opening, spec_key
from bathyscope.store.canonical import checksum
from bathyscope.store.locks import FileLock
from torture import Sweep, finish, safetensors

SWEEP = Sweep(seed=7, n_batches=3, size=2)
RECORDS = [record for batch in range(SWEEP.n_batches) for record in SWEEP.records(batch)]
KEYS = [record.key for record in RECORDS]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    with Store(folder) as store:
        yield store


def changed(record: FinishedCell, **changes: Any) -> FinishedCell:
    return replace(record, result={**record.result, **changes})


def execute(folder: Path, statement: str, *values: Any) -> None:
    """Change the database behind the store's back."""
    connection = sqlite3.connect(folder / "runs.sqlite")
    connection.execute(statement, values)
    connection.commit()
    connection.close()


# Keys.

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
).filter(lambda value: "\ud800" not in str(value))


def reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: reordered(value[name]) for name in reversed(value)}
    return [reordered(one) for one in value] if isinstance(value, list) else value


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_a_key_does_not_depend_on_the_order_of_names_and_survives_json(spec: dict[str, Any]) -> None:
    assert spec_key(spec) == spec_key(reordered(spec)) == spec_key(json.loads(canonical(spec)))
    assert canonical(json.loads(canonical(spec))) == canonical(spec)


@given(json_values, json_values)
def test_only_equal_values_are_written_alike(one: Any, other: Any) -> None:
    if canonical(one) == canonical(other):
        assert one == other


@given(json_values, st.sampled_from([math.nan, math.inf, -math.inf, {1: "a"}, {None: 1}, b"x", {1, 2}, "\ud800"]))
def test_what_json_cannot_hold_is_refused_at_any_depth(value: Any, bad: Any) -> None:
    for spec in ({"a": bad}, {"a": [value, bad]}, {"a": {"b": (bad,)}, "c": value}):
        with pytest.raises(UsageError, match="cannot be stored"):
            canonical(spec)


def test_numbers_of_different_kinds_have_different_keys() -> None:
    assert len({spec_key({"scale": scale}) for scale in (1, 1.0, True, "1", None, [1])}) == 6
    assert spec_key({"scale": 0.0}) != spec_key({"scale": -0.0})
    assert spec_key({"layers": (1, 2)}) == spec_key({"layers": [1, 2]})


def test_a_circle_is_refused() -> None:
    circle: dict[str, Any] = {}
    circle["self"] = circle
    with pytest.raises(UsageError):
        spec_key(circle)


def test_keys_stay_what_they_are() -> None:
    """A change here makes everybody's stored cells unreachable: raise the methods' versions instead."""
    spec = {"method": "demo/1", "ids": [1, 2], "scale": 0.1, "big": 1e22, "text": "Zürich\n", "none": None, "on": True}
    assert canonical(spec) == (
        '{"big":1e+22,"ids":[1,2],"method":"demo/1","none":null,"on":true,"scale":0.1,"text":"Zürich\\n"}'
    )
    assert spec_key(spec) == "1f9765142b99f2c0c81c031ae39838cc16cb276b758873ed09d1f1c7c6181d82"


# Runs and batches.


def test_what_is_committed_is_read_back(store: Store, folder: Path) -> None:
    run = SWEEP.create(store)
    assert SWEEP.pending(store) == [0, 1, 2]
    assert store.show(run).status == "incomplete"
    store.commit(run, SWEEP.records(1))
    assert SWEEP.pending(store) == [0, 2]
    with Store(folder) as another:
        found = another.get([*KEYS, "f" * 64])
        assert list(found.values()) == SWEEP.records(1)
        assert another.stored([*KEYS, "f" * 64]) == set(KEYS[2:4])
        finish(another, SWEEP)
    info = store.show(run)
    assert (info.status, info.n_cells, info.n_done) == ("complete", 6, 6)
    assert list(store.get(reversed(KEYS))) == KEYS[::-1]
    assert (info.kind, info.spec, info.plan) == ("stub", {"seed": 7, "n": 3}, {"passes": 1})


def test_asking_again_is_the_same_run(store: Store) -> None:
    run = SWEEP.create(store)
    assert SWEEP.create(store) == run
    assert [info.id for info in store.runs()] == [run]
    others = {
        store.create_run("other", {"seed": 7, "n": 3}, {}, KEYS),
        store.create_run("stub", {"seed": 8}, {}, KEYS),
        store.create_run("stub", {"seed": 7, "n": 3}, {}, KEYS[:-1]),
    }
    assert store.create_run("stub", {"seed": 7, "n": 3}, {"passes": 9}, KEYS[::-1]) == run
    assert len({run, *others}) == 4


def test_a_cell_that_another_run_stored_is_done(store: Store) -> None:
    finish(store, SWEEP)
    wider = store.create_run("stub", {"wider": True}, {}, [*KEYS, "0" * 64])
    assert store.show(wider).n_done == 6
    assert store.stored([*KEYS, "0" * 64]) == set(KEYS)


def test_what_is_committed_together_is_the_runs_own_or_none_of_it_is_stored(store: Store) -> None:
    first, second = SWEEP.records(0)
    run = store.create_run("stub", {}, {}, KEYS[:2])
    for wrong in ([first, second, RECORDS[2]], [first, first, second]):
        with pytest.raises(UsageError):
            store.commit(run, wrong)
    with pytest.raises(UsageError, match="not that of its spec"):
        store.commit(run, [first, replace(second, spec={**second.spec, "cell": 9})])
    with pytest.raises(UsageError, match="cannot be stored"):
        store.commit(run, [first, changed(second, best=math.nan)])
    assert store.get(KEYS) == {}


def test_what_is_stored_first_stands(store: Store, folder: Path) -> None:
    """Two runs of other batches compute a cell they share with other roundings, and neither fails."""
    run, (first, second) = SWEEP.create(store), SWEEP.records(0)
    assert store.commit(run, [first]) == 1
    for other in (changed(first, best=0.5), replace(first, tensors=None), replace(first, tensors=safetensors(b"y"))):
        assert store.commit(run, [other]) == 0
    assert store.commit(run, [replace(first, tensors=safetensors(b"y")), second]) == 1
    assert list(store.get(KEYS).values()) == [first, second]
    assert len(list((folder / "blobs").glob("??/*"))) == 1
    assert store.check().n_orphans == 0


def test_a_run_that_an_earlier_version_made_by_batches_is_read(store: Store, folder: Path) -> None:
    run = finish(store, SWEEP)
    columns = ("0" * 16, "stub", "{}", "{}", canonical(SWEEP.batches()), "2025-01-01T00:00:00+00:00")
    execute(folder, "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?)", *columns, checksum(columns))
    with Store(folder) as fresh:
        assert [(info.id, info.n_cells, info.status) for info in fresh.runs()] == [
            ("0" * 16, 6, "complete"),
            (run, 6, "complete"),
        ]
        assert fresh.delete(run) == 0
        assert fresh.delete("0" * 16) == 6


def test_a_commit_that_fails_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(folder) as store:
        run = SWEEP.create(store)
        for step in torture.STEPS[:3]:
            monkeypatch.setattr(store, "_reached", lambda now, step=step: 1 / (now != step))
            with pytest.raises(ZeroDivisionError):
                store.commit(run, SWEEP.records(0))
            assert store.get(KEYS) == {}
            assert list((folder / "blobs" / "staging").iterdir()) == []
        monkeypatch.undo()
        store.commit(run, SWEEP.records(0))


def test_bad_runs_are_refused(store: Store) -> None:
    with pytest.raises(UsageError, match="two places"):
        store.create_run("stub", {}, {}, KEYS[:1] * 2)
    with pytest.raises(UsageError, match="64 hex digits"):
        store.create_run("stub", {}, {}, ["layer 3"])
    with pytest.raises(UsageError, match="there is no run"):
        store.show("0123456789abcdef")


def test_a_run_is_found_by_how_it_begins(store: Store) -> None:
    run = SWEEP.create(store)
    assert store.find(run[:6]) == run
    with pytest.raises(UsageError, match="no run"):
        store.find("x")
    SWEEP.create(store)
    Sweep(8).create(store)
    with pytest.raises(UsageError, match="2 runs"):
        store.find("")


def test_delete_keeps_what_others_share(store: Store, folder: Path) -> None:
    run = finish(store, SWEEP)
    other = store.create_run("stub", {"other": True}, {}, KEYS[:2])
    with store.lease(run), pytest.raises(StorageError, match=str(os.getpid())):
        store.delete(run)
    assert store.delete(run) == 4
    assert [info.id for info in store.runs()] == [other]
    assert list(store.get(KEYS).values()) == RECORDS[:2]
    assert len(list((folder / "blobs").glob("??/*"))) == 1
    assert store.delete(other) == 2
    assert store.get(KEYS) == {}
    assert list((folder / "blobs").glob("??/*")) == []
    with pytest.raises(UsageError):
        store.delete(run)


def test_a_run_that_was_deleted_meanwhile_takes_no_cells(store: Store, folder: Path) -> None:
    run = SWEEP.create(store)
    with Store(folder) as other:
        other.delete(run)
    with pytest.raises(UsageError, match="there is no run"):
        store.commit(run, SWEEP.records(0))


def test_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATHYSCOPE_HOME", str(tmp_path))
    assert data_dir() == tmp_path / "data"
    with Store() as store:
        assert store.folder == tmp_path / "data"
    monkeypatch.delenv("BATHYSCOPE_HOME")
    assert data_dir().name == "bathyscope"


def test_durable_and_quick_commits(folder: Path) -> None:
    for durable, level in ((False, 1), (True, 2)):
        with Store(folder, durable=durable) as store, store._database.reading() as connection:
            assert connection.execute("PRAGMA synchronous").fetchone() == (level,)
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_threads_share_a_store(store: Store) -> None:
    run, failures = SWEEP.create(store), []

    def work(batch: int) -> None:
        try:
            for _ in range(5):
                store.commit(run, SWEEP.records(batch))
                assert len(store.get(KEYS)) >= 2
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(batch,)) for batch in (0, 1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert SWEEP.pending(store) == []


def test_a_closed_store_says_so(folder: Path) -> None:
    store = Store(folder)
    store.close()
    store.close()
    with pytest.raises(StorageError, match="was closed"):
        store.runs()


# Exports.


def small_run(store: Store) -> str:
    specs = [{"layer": layer, "at": {"position": 1}} for layer in (0, 1)]
    records = [
        FinishedCell.of(specs[0], {"text": 'say "hi",\nthen', "p": 0.25, "ids": [1, 2], "none": None}),
        FinishedCell.of(specs[1], {"text": "", "p": 1, "a.b": True}, safetensors(b"x")),
    ]
    run = store.create_run("demo", {"layers": [0, 1]}, {}, [record.key for record in records])
    store.commit(run, records)
    return run


def test_json_export_holds_everything(store: Store, tmp_path: Path) -> None:
    run = small_run(store)
    exported = json.loads(store.export(run, tmp_path / "out.json").read_text("utf-8"))
    assert (exported["run"], exported["kind"], exported["spec"]) == (run, "demo", {"layers": [0, 1]})
    assert (exported["status"], exported["n_cells"], exported["schema_version"]) == ("complete", 2, 1)
    assert [cell["key"] for cell in exported["cells"]] == sorted(cell["key"] for cell in exported["cells"])
    stored = store.get(cell["key"] for cell in exported["cells"])
    for cell in exported["cells"]:
        assert (cell["spec"], cell["result"]) == (stored[cell["key"]].spec, stored[cell["key"]].result)
        assert (cell["tensors"] is None) == (cell["spec"]["layer"] == 0)


def test_csv_export_flattens(store: Store, tmp_path: Path) -> None:
    text = store.export(small_run(store), tmp_path / "out", "csv").read_bytes().decode()
    head, rest = text.split("\n", 1)
    assert head == (
        '"key","spec.at.position","spec.layer","result.""a.b""","result.ids","result.none","result.p","result.text","tensors"'
    )
    assert ',1,0,,"[1,2]",,0.25,"say ""hi"",\nthen",\n' in rest
    assert ',1,1,true,,,1,"","' in rest


def test_parquet_export(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    run = small_run(store)
    rows = parquet.read_table(store.export(run, tmp_path / "out.parquet")).to_pylist()
    assert sorted(row["spec.layer"] for row in rows) == [0, 1]
    assert {row["spec.layer"]: row["result.p"] for row in rows} == {0: 0.25, 1: 1.0}
    assert {row["spec.layer"]: row["result.text"] for row in rows} == {0: 'say "hi",\nthen', 1: ""}
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"bathyscope\[frames\]"):
        store.export(run, tmp_path / "out.parquet")


def test_columns_of_several_types_are_text_in_parquet(store: Store, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    results: list[dict[str, Any]] = [{"v": 1, "w": 2**70}, {"v": "one", "w": 1}, {"v": None, "w": 0}]
    records = [FinishedCell.of({"n": number}, result) for number, result in enumerate(results)]
    run = store.create_run("demo", {}, {}, [record.key for record in records])
    store.commit(run, records)
    rows = parquet.read_table(store.export(run, tmp_path / "out.parquet")).to_pylist()
    found = {row["spec.n"]: (row["result.v"], row["result.w"]) for row in rows}
    assert found == {0: ("1", str(2**70)), 1: ("one", "1"), 2: (None, "0")}


def test_an_export_does_not_depend_on_order_folder_or_batches_done(tmp_path: Path) -> None:
    expected = torture.uninterrupted(tmp_path / "one", SWEEP)
    with Store(tmp_path / "two") as store:
        run = SWEEP.create(store)
        for batch in (2, 0):
            store.commit(run, SWEEP.records(batch)[::-1])
        partial = json.loads(store.export(run, tmp_path / "partial.json").read_text("utf-8"))
        assert (partial["status"], len(partial["cells"])) == ("incomplete", 4)
    with Store(tmp_path / "two") as store:
        assert torture.exports(store, finish(store, SWEEP), tmp_path) == expected


def test_an_export_beside_a_process_that_computes_is_of_one_moment(store: Store, folder: Path, tmp_path: Path) -> None:
    run = SWEEP.create(store)
    store.commit(run, SWEEP.records(0))
    get = store.get

    def meanwhile(keys: Any) -> dict[str, FinishedCell]:
        with Store(folder) as other:
            finish(other, SWEEP)
        return get(keys)

    store.get = meanwhile  # type: ignore[method-assign]
    exported = json.loads(store.export(run, tmp_path / "out.json").read_text("utf-8"))
    assert (exported["status"], len(exported["cells"])) == ("incomplete", 2)
    assert store.show(run).status == "complete"


def test_bad_exports_are_refused(store: Store, folder: Path, tmp_path: Path) -> None:
    run = finish(store, SWEEP)
    with pytest.raises(UsageError, match="json, csv, parquet"):
        store.export(run, tmp_path / "out.xlsx")
    with pytest.raises(StorageError, match="could not be written"):
        store.export(run, tmp_path / "nowhere" / "out.json")
    execute(folder, "UPDATE cells SET result = replace(result, 'Z', 'S') WHERE key = ?", KEYS[0])
    with pytest.raises(StorageError, match=r"1 cells .* damaged"):
        store.export(run, tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


# Damage that is found while reading.


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE cells SET result = replace(result, '0', '1') WHERE key = ?",
        "UPDATE cells SET result = CAST(x'ff00fe' AS TEXT) WHERE key = ?",
        "UPDATE cells SET result = 17 WHERE key = ?",
        "UPDATE cells SET spec = '{}' WHERE key = ?",
        "UPDATE cells SET blob = NULL WHERE key = ?",
        "UPDATE cells SET blob = '../../lock' WHERE key = ?",
        "UPDATE cells SET checksum = '' WHERE key = ?",
    ],
)
def test_a_damaged_row_is_set_aside_and_computed_again(store: Store, folder: Path, statement: str) -> None:
    run = finish(store, SWEEP)
    execute(folder, statement, KEYS[0])
    assert list(store.get(KEYS)) == KEYS[1:]
    (incident,) = store.incidents
    assert (incident.kind, incident.count) == ("quarantined", 1)
    assert SWEEP.pending(store) == [0]
    store.commit(run, SWEEP.records(0))
    assert list(store.get(KEYS).values()) == RECORDS
    assert store.check().n_in_quarantine == 1


@pytest.mark.parametrize("damage", [b"", b"other", None])
def test_a_damaged_blob_is_set_aside_with_all_that_need_it(store: Store, folder: Path, damage: bytes | None) -> None:
    records = [FinishedCell.of({"n": number}, {"n": number}, safetensors(b"same")) for number in (1, 2)]
    records.append(FinishedCell.of({"n": 3}, {"n": 3}, safetensors(b"own")))
    run = store.create_run("demo", {}, {}, [record.key for record in records])
    for record in records:
        store.commit(run, [record])
    (path,) = [path for path in (folder / "blobs").glob("??/*") if b"same" in path.read_bytes()]
    path.unlink() if damage is None else path.write_bytes(damage)
    assert store.get([records[0].key]) == {}
    assert store.incidents[0].count == 2
    assert store.stored(record.key for record in records) == {records[2].key}
    assert len(list(folder.glob("quarantine/*"))) == (damage is not None)
    for record in records[:2]:
        store.commit(run, [record])
    assert list(store.get(record.key for record in records).values()) == records


def test_a_damaged_cell_does_not_block_its_own_repair(store: Store, folder: Path) -> None:
    run = finish(store, SWEEP)
    execute(folder, "UPDATE cells SET result = '{}' WHERE key = ?", KEYS[0])
    store.commit(run, SWEEP.records(0))
    assert list(store.get(KEYS).values()) == RECORDS


def test_a_damaged_run_is_made_anew_and_finds_its_cells(store: Store, folder: Path) -> None:
    run = finish(store, SWEEP)
    with Store(folder) as fresh:
        execute(folder, "UPDATE runs SET batches = '[]'")
        assert fresh.runs() == []
        assert [incident.kind for incident in fresh.incidents] == ["quarantined"]
        assert SWEEP.create(fresh) == run
        assert fresh.show(run).status == "complete"


def test_check_finds_and_clears(store: Store, folder: Path) -> None:
    finish(store, SWEEP)
    report = store.check()
    assert (report.n_runs, report.n_cells, report.n_blobs) == (1, 6, 3)
    assert (report.n_quarantined, report.n_in_quarantine, report.n_orphans) == (0, 0, 0)
    store._blobs.publish(store._blobs.stage([b"nobody's"]))
    execute(folder, "UPDATE cells SET result = '{}' WHERE key = ?", KEYS[1])
    report = store.check()
    assert (report.n_cells, report.n_blobs, report.n_quarantined, report.n_orphans) == (5, 3, 1, 1)
    assert store.check().n_quarantined == 0


# Opening.


def corrupt_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.corrupt-*"))


@pytest.mark.parametrize("content", [b"", b"not a database" * 1000, b"SQLite format 3\0" + b"\0" * 5000])
def test_what_is_no_database_is_moved_aside(folder: Path, content: bytes) -> None:
    folder.mkdir()
    for number in (1, 2):
        (folder / "runs.sqlite").write_bytes(content)
        with Store(folder) as store:
            assert [(incident.kind, incident.count) for incident in store.incidents] == [("rescued", 0)]
            finish(store, SWEEP)
        assert (folder / f"runs.sqlite.corrupt-{number}").read_bytes() == content


def test_all_cells_outlive_a_broken_header_schema_and_root(folder: Path) -> None:
    with Store(folder) as store:
        run = finish(store, SWEEP)
    path = folder / "runs.sqlite"
    content = bytearray(path.read_bytes())
    content[:4096] = random.Random(0).randbytes(4096)
    path.write_bytes(content)
    with Store(folder) as store:
        assert store.incidents[0].count == 6
        assert "6 cells and 1 runs" in store.incidents[0].message
        assert list(store.get(KEYS).values()) == RECORDS
        assert store.show(run).status == "complete"


def test_lost_commits_are_told_once(folder: Path) -> None:
    with Store(folder) as store:
        run = finish(store, SWEEP)
    for path in folder.glob("runs.sqlite*"):
        path.unlink()
    with Store(folder) as store:
        assert [(incident.kind, incident.count) for incident in store.incidents] == [("lost", 3)]
        assert finish(store, SWEEP) == run
        assert list(store.get(KEYS).values()) == RECORDS
    with Store(folder) as store:
        assert store.incidents == []


def test_a_newer_store_is_refused_and_left_alone(folder: Path) -> None:
    with Store(folder):
        pass
    execute(folder, "CREATE TABLE later (x)")
    execute(folder, "PRAGMA user_version = 2")
    before = (folder / "runs.sqlite").read_bytes()
    with pytest.raises(StorageError, match=r"schema version 2.*up to 1.*pip install --upgrade bathyscope"):
        Store(folder)
    assert (folder / "runs.sqlite").read_bytes() == before


def test_a_damaged_version_is_not_a_newer_one(folder: Path) -> None:
    with Store(folder) as store:
        finish(store, SWEEP)
    execute(folder, "PRAGMA user_version = 16777217")
    with Store(folder) as store:
        assert list(store.get(KEYS).values()) == RECORDS


def test_another_programs_database_is_refused_and_left_alone(folder: Path) -> None:
    folder.mkdir()
    execute(folder, "CREATE TABLE bookmarks (x)")
    before = (folder / "runs.sqlite").read_bytes()
    with pytest.raises(StorageError, match="belongs to another program"):
        Store(folder)
    assert (folder / "runs.sqlite").read_bytes() == before


def test_a_folder_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not be read or written"):
        Store(tmp_path / "file" / "data")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_without_permission(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o500)
    with pytest.raises(StorageError, match="BATHYSCOPE_HOME"):
        Store(folder)


def test_damage_while_another_is_at_work_is_told_and_not_touched(folder: Path) -> None:
    with Store(folder) as store:
        finish(store, SWEEP)
        path = folder / "runs.sqlite"
        whole = path.read_bytes()
        path.write_bytes(b"broken" + whole[6:])
        with pytest.raises(StorageError, match="another process is using it"):
            Store(folder)
        path.write_bytes(whole)
        assert list(store.get(KEYS).values()) == RECORDS
    assert corrupt_files(folder) == []


def test_damage_of_the_structure_is_told_by_check_and_rescued_at_the_next_opening(folder: Path) -> None:
    sweep = Sweep(3, n_batches=20)
    with Store(folder) as store:
        finish(store, sweep)
    with Store(folder) as store:
        with (folder / "runs.sqlite").open("r+b") as file:
            file.seek(20 * 4096)
            file.write(b"\x0a\xff\xff\xff\xff\xff\xff\xff")
        with pytest.raises(StorageError, match="is damaged"):
            store.check()
    with Store(folder) as store:
        assert [incident.kind for incident in store.incidents] == ["rescued"]
        assert store.show(finish(store, sweep)).status == "complete"


@pytest.mark.parametrize("log", [False, True])
def test_a_rescue_that_was_killed_is_finished(folder: Path, log: bool) -> None:
    with Store(folder) as store:
        run = finish(store, SWEEP)
    path = folder / "runs.sqlite"
    # Killed before the damaged file was moved: the copy is thrown away and made again.
    (folder / "runs.sqlite.rescued").write_bytes(b"out of date")
    (folder / "runs.sqlite.building").write_bytes(b"half")
    with Store(folder) as store:
        assert store.show(run).status == "complete"
    assert not list(folder.glob("*.rescued")) + list(folder.glob("*.building"))
    # Killed after it: the copy is put in its place, and never an old log beside it.
    path.rename(folder / "runs.sqlite.rescued")
    (folder / "runs.sqlite.corrupt-1").write_bytes(b"damaged")
    if log:
        (folder / "runs.sqlite-wal").write_bytes(b"old log")
    with Store(folder) as store:
        assert store.show(run).status == "complete"
    assert corrupt_files(folder) == ["runs.sqlite.corrupt-1"] + ["runs.sqlite.corrupt-1-wal"] * log


def test_a_locked_database_is_told(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SWEEP.create(store)
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    blocker = sqlite3.connect(folder / "runs.sqlite", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with Store(folder) as other, pytest.raises(StorageError, match="locked for"):
        Sweep(9).create(other)
    blocker.close()


def test_a_store_that_is_being_repaired_is_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    lock = FileLock(folder / "store.lock")
    assert lock.acquire(exclusive=True)
    monkeypatch.setattr(opening, "OPENING_SECONDS", 0.1)
    with pytest.raises(StorageError, match=f"repaired by process {os.getpid()}"):
        Store(folder)
    monkeypatch.setattr(opening, "OPENING_SECONDS", 10)
    threading.Timer(0.2, lock.release).start()
    Store(folder).close()


def test_leftovers_of_killed_processes_are_removed(folder: Path) -> None:
    with Store(folder) as store:
        store._blobs.stage([b"half"])
        with Store(folder) as other:
            assert other.incidents == []  # somebody is at work, and it may be theirs
    with Store(folder) as store:
        assert [(incident.kind, incident.count) for incident in store.incidents] == [("leftovers", 1)]
        assert list((folder / "blobs" / "staging").iterdir()) == []


# Several processes.


def test_a_lease_keeps_others_out_and_names_its_owner(store: Store, folder: Path) -> None:
    run, other = SWEEP.create(store), Sweep(8).create(store)
    with Store(folder) as second, store.lease(run), second.lease(other):
        for one in (store, second):
            with pytest.raises(StorageError, match=f"computed by process {os.getpid()}"), one.lease(run):
                pass
    with store.lease(run):
        pass


def test_a_child_that_was_forked_has_neither_the_lease_nor_the_store(store: Store) -> None:
    run = SWEEP.create(store)
    reading, writing = os.pipe()
    with store.lease(run):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later advise against it
            child = os.fork()
        if child == 0:
            try:
                store.show(run)
            except StorageError as error:
                os.write(writing, str(error).encode())
            store.close()
            signal.pause()
        assert f"opened by process {os.getpid()}" in os.read(reading, 1000).decode()
    try:
        with store.lease(run):  # although the child lives
            finish(store, SWEEP)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)
    assert list(store.get(KEYS).values()) == RECORDS


def test_a_child_that_outlives_its_parent_keeps_nothing_locked(store: Store, folder: Path) -> None:
    run = SWEEP.create(store)
    code = (
        "import os, signal, sys, time\n"
        "from bathyscope.store import Store\n"
        "store = Store(sys.argv[1])\n"
        "with store.lease(sys.argv[2]):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        os.close(1)\n"
        "        time.sleep(60)\n"
        "    os.write(1, str(child).encode())\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    parent = subprocess.run([sys.executable, "-c", code, str(folder), run], stdout=subprocess.PIPE)
    try:
        with store.lease(run):
            pass
    finally:
        os.kill(int(parent.stdout), signal.SIGKILL)


def test_two_processes_on_one_run_and_the_second_is_refused(tmp_path: Path) -> None:
    sweep = Sweep(4, n_batches=200)
    first = torture.start(tmp_path / "data", tmp_path / "log1", sweep, "--lease")
    assert first.stdout
    lines = [first.stdout.readline(), first.stdout.readline()]
    assert lines == [b"started\n", b"working\n"]
    second = torture.start(tmp_path / "data", tmp_path / "log2", sweep, "--lease")
    said, _ = second.communicate()
    assert second.returncode == 3
    assert f"computed by process {first.pid}" in said.decode()
    first.kill()
    first.communicate()
    third = torture.start(tmp_path / "data", tmp_path / "log3", Sweep(4, n_batches=200), "--lease", "--die=committed:1")
    third.communicate()
    assert third.returncode == -signal.SIGKILL  # it had the lease: the kernel took it from the dead


@pytest.mark.parametrize("same", [True, False])
def test_two_processes_at_once(tmp_path: Path, same: bool) -> None:
    sweeps = [Sweep(4, n_batches=25), Sweep(4 if same else 5, n_batches=25)]
    children = [torture.start(tmp_path / "data", tmp_path / f"log{at}", sweep) for at, sweep in enumerate(sweeps)]
    for child in children:
        _, problem = child.communicate()
        assert child.returncode == 0, problem
    for at, sweep in enumerate(sweeps):
        with Store(tmp_path / "data") as store:
            run = sweep.create(store)
            assert sweep.pending(store) == []
            assert store.incidents == []
            assert store.check().n_quarantined == 0
            exported = torture.exports(store, run, tmp_path)
        assert exported == torture.uninterrupted(tmp_path / f"alone{at}", sweep)


# Torture.


def test_60_kills_lose_nothing_and_compute_nothing_twice(tmp_path: Path) -> None:
    tally = torture.kill_often(tmp_path, kills=60, seed=1)
    assert tally.kills == 60
    assert tally.at_steps >= 10
    assert tally.acknowledged > 300
    assert tally.bad == 0, tally


def test_the_harness_finds_a_store_that_loses_cells(tmp_path: Path) -> None:
    tally = torture.kill_often(tmp_path, kills=10, seed=1, control=True)
    assert tally.lost > 0
    assert tally.doubled > 0


def test_20_full_disks(tmp_path: Path) -> None:
    _, full = torture.fill_in_child(tmp_path / "disk", events=20, seed=1)
    assert (full.events, full.clear, full.lost) == (20, 20, 0), full
    assert full.completed


def test_full_disks_by_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torture, "_may_mount", lambda: False)
    kind, full = torture.fill_in_child(tmp_path / "disk", events=5, seed=1)
    assert kind == "limit"
    assert (full.events, full.clear, full.lost, full.completed) == (5, 5, 0, True), full


def test_200_damaged_stores_never_give_a_wrong_value(tmp_path: Path) -> None:
    damage = torture.damage_often(tmp_path, cases=200, seed=1)
    assert (damage.cases, damage.wrong, damage.unfinished, damage.refused) == (200, 0, 0, 0), damage
    assert damage.recomputed_in_silence == 0, damage.notes
    for what, missing in damage.by_file.items():
        if not what.endswith(("truncate", "empty", "remove")):
            assert max(missing) <= 6, (what, missing)


def test_rescues_that_are_killed_lose_nothing(tmp_path: Path) -> None:
    count = torture.kill_rescues(tmp_path, kills=10, seed=1)
    assert (count.missing, count.wrong, count.unfinished, count.refused) == (0, 0, 0, 0), count
    assert count.told > 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_500_kills(tmp_path: Path) -> None:
    tally = torture.kill_often(tmp_path, kills=500, seed=2)
    assert tally.bad == 0, tally


# The package.


def test_importing_the_store_loads_nothing_heavy() -> None:
    code = (
        "import sys, bathyscope.store\n"
        "print(*{'torch', 'transformers', 'pandas', 'pyarrow', 'numpy', 'pydantic'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == ""


@pytest.mark.parametrize("name", [one.name for one in pkgutil.iter_modules(bathyscope.store.__path__)])
def test_examples(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"bathyscope.store.{name}"))
    assert found.failed == 0

"""Plans carried out against a store: equal results, nothing computed twice, nothing lost."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from bathyscope import Source, Store, Target, patchscope, wrap
from bathyscope.causal import activation_patching
from bathyscope.cli import main
from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import StorageError, UsageError
from bathyscope.model import Model
from bathyscope.patchscopes import patchscope_again
from bathyscope.prompts import custom
from bathyscope.readouts import Generate, LogitDiff, NextToken
from conftest import tiny_model
from families import ALL, save_tiny
from tokenizers_for_tests import tiny_tokenizer

TEXT = "The capital of France is Paris"
TARGET = Target(prompt=custom("The cat of the keeper lives in x"))


SMALL = 480_000
"""A budget that tiny models need several batches for."""


def passes(model: Model):
    """Counted by a hook on all modules: with one of its own a model's results are not stored."""
    calls, base = [], model.hf.base_model
    handle = register_module_forward_pre_hook(lambda module, _: calls.append(1) if module is base else None)
    return calls, handle


def asked(model: Model, readout=None, **options):
    return patchscope(Source(model, TEXT, "all", "all"), TARGET, readout=readout or Generate(4), **options)


@pytest.mark.parametrize("readout", [Generate(4), NextToken(3)])
def test_a_stored_run_is_the_run_and_asking_again_costs_no_model_work(llama: Model, tmp_path: Path, readout):
    plain = asked(llama, readout)
    with Store(tmp_path) as store:
        first = asked(llama, readout, store=store)
        calls, handle = passes(llama)
        again = asked(llama, readout, store=store)
        handle.remove()
        info = store.show(first.run)
    assert plain.cells == first.cells == again.cells
    assert plain.unpatched == first.unpatched == again.unpatched
    assert torch.equal(plain.representations, again.representations)
    assert calls == []
    assert (first.timing["computed"], again.timing["computed"]) == (len(plain.cells) + 1, 0)
    assert first.run == again.run
    assert (info.status, info.n_cells, info.kind) == ("complete", len(plain.cells) + 1, "patchscope")


def hurry(stop: Stop):
    def told(*_):
        stop.soon = True

    return told


def test_a_stopped_run_goes_on_where_it_stopped(llama: Model, tmp_path: Path):
    wanted = asked(llama)
    with Store(tmp_path / "whole") as store:
        whole = store.export(asked(llama, store=store, budget=SMALL).run, tmp_path / "whole.json").read_bytes()
    with Store(tmp_path / "stopped") as store:
        computed = 0
        for _ in range(30):
            stop = Stop()
            try:
                done = asked(llama, store=store, stop=stop, budget=SMALL, progress=hurry(stop))
                computed += done.timing["computed"]
                break
            except CancelledError as error:
                assert error.exit_code == 130
                before, computed = computed, store.runs()[0].n_done
                assert before < computed
        assert done.cells == wanted.cells
        assert 0 < done.timing["computed"] < len(wanted.cells)
        assert store.export(done.run, tmp_path / "stopped.json").read_bytes() == whole


def test_a_cancelled_batch_stores_nothing_of_itself(llama: Model, tmp_path: Path):
    with Store(tmp_path) as store:
        with pytest.raises(CancelledError):
            asked(llama, store=store, stop=Stop(now=True))
        assert store.runs()[0].n_done == 0
        assert asked(llama, store=store).timing["computed"] == store.runs()[0].n_cells


def test_a_damaged_cell_is_computed_again_and_never_read(llama: Model, tmp_path: Path):
    with Store(tmp_path) as store:
        wanted = asked(llama, store=store)
    blob = next((tmp_path / "blobs").rglob("*.safetensors"))
    blob.write_bytes(blob.read_bytes()[:-1] + b"X")
    with Store(tmp_path) as store:
        again = asked(llama, store=store)
        assert store.incidents
    assert 0 < again.timing["computed"] < len(wanted.cells)
    assert again.cells == wanted.cells
    assert torch.equal(again.representations, wanted.representations)


def test_runs_share_their_cells(llama: Model, tmp_path: Path):
    with Store(tmp_path) as store:
        everything = asked(llama, store=store)
        calls, handle = passes(llama)
        some = patchscope(Source(llama, TEXT, (1, 3), (0, 2)), TARGET, readout=Generate(4), store=store)
        handle.remove()
    assert calls == []
    assert some.run != everything.run
    assert set(some.cells) <= set(everything.cells)


def test_a_run_is_what_is_asked_and_not_how_much_memory_there_is(llama: Model, tmp_path: Path):
    """Stopped with small batches and finished with large ones, of which some are there: what was stored stands."""
    wanted, stop = asked(llama), Stop()
    with Store(tmp_path) as store:
        with pytest.raises(CancelledError):
            asked(llama, store=store, stop=stop, budget=SMALL, progress=hurry(stop))
        (before,) = store.runs()
        done = asked(llama, store=store)
        assert [info.id for info in store.runs()] == [before.id] == [done.run]
    assert 0 < before.n_done < before.n_cells
    assert done.timing["computed"] == before.n_cells - before.n_done
    assert done.cells == wanted.cells


def test_an_altered_model_is_not_kept_as_the_model(tmp_path: Path):
    tiny = ALL["llama"].build()
    model, place = wrap(tiny, tiny_tokenizer(), name="tiny"), tiny.model.layers[1].mlp
    with Store(tmp_path) as store:
        handle = place.register_forward_hook(lambda _module, _args, output: output * 2)
        with pytest.raises(UsageError, match="tiny carries another hook or replaced forward.* store=None"):
            asked(model, store=store)
        assert asked(model).cells != asked(tiny_model(), store=store).cells
        handle.remove()
        own = place.forward
        place.forward = lambda *args: own(*args) * 2
        with pytest.raises(UsageError, match="carries another hook"):
            asked(model, store=store)
        place._hf_hook = object()  # as accelerate leaves it, which only places the weights
        asked(model, store=store)
        del place.forward, place._hf_hook
        tiny(torch.tensor([[1, 2]]), output_hidden_states=True, output_attentions=True)
        assert any(module._forward_hooks for module in tiny.modules()), "transformers leaves hooks that only look"
        asked(model, store=store)


def test_a_cell_that_was_kept_without_its_representation_is_not_found_by_who_asks_for_it(llama: Model, tmp_path: Path):
    metric, text = LogitDiff(5, 6), "The cat of the keeper lives in x"
    with Store(tmp_path) as store:
        clean, corrupted = "The capital of the keeper lives in x", text
        activation_patching(llama, clean, corrupted, metric, store=store)
        read = patchscope(Source(llama, clean, "all", "all"), TARGET, readout=metric, control=False, store=store)
    plain = patchscope(Source(llama, clean, "all", "all"), TARGET, readout=metric, control=False)
    assert torch.equal(read.representations, plain.representations)


def test_a_run_that_another_process_computes_is_left_alone(llama: Model, tmp_path: Path):
    with Store(tmp_path) as store, Store(tmp_path) as other:
        run = asked(llama, store=store).run
        with other.lease(run), pytest.raises(StorageError, match="is being computed"):
            asked(llama, store=store)


def test_a_stored_spec_is_enough_to_ask_again(llama: Model, tmp_path: Path):
    target = Target(prompt=custom("The cat of the keeper lives in x"), layer=(1, 2))
    with Store(tmp_path) as store:
        first = patchscope(Source(llama, TEXT, "Paris", "0-2"), target, readout=NextToken(2), store=store)
        spec = json.loads(json.dumps(dict(store.show(first.run).spec)))
        again = patchscope_again(spec, llama, llama, store=store)
    assert again.run == first.run
    assert again.cells == first.cells
    assert again.timing["computed"] == 0


def run_cli(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    found = capsys.readouterr()
    return code, found.out, found.err


def test_the_runs_command(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BATHYSCOPE_HOME", str(tmp_path / "home"))
    folder = str(save_tiny("llama", tmp_path / "tiny"))
    assert "no run yet" in run_cli(capsys, "runs", "list")[1]
    ask = ("patchscope", TEXT, "--model", folder, "--text", "hello x", "--layers", "0-2", "--new-tokens", "3", "--json")
    first = json.loads(run_cli(capsys, *ask)[1])
    assert {"seconds", "cells", "cells_per_second"} <= set(first["timing"])
    assert first["plan"]["token_layers"] < first["plan"]["naive_token_layers"]
    assert json.loads(run_cli(capsys, *ask)[1])["timing"]["computed"] == 0
    run = first["run"]
    assert run[:8] in run_cli(capsys, "runs", "list")[1]
    assert json.loads(run_cli(capsys, "runs", "list", "--json")[1])["runs"][0]["status"] == "complete"
    assert TEXT in run_cli(capsys, "runs", "show", run[:6])[1]
    resumed = json.loads(run_cli(capsys, "runs", "resume", run[:6], "--json")[1])
    assert resumed["cells"] == first["cells"]
    for ending in ("json", "csv", "parquet"):
        assert run_cli(capsys, "runs", "export", run, str(tmp_path / f"run.{ending}"))[0] == 0
        assert (tmp_path / f"run.{ending}").stat().st_size > 100
    assert run_cli(capsys, "runs", "export", run, str(tmp_path / "run.xlsx"))[0] == 2
    code, _, told = run_cli(capsys, "runs", "show", "zzzz")
    assert (code, len(told.splitlines())) == (2, 1)
    assert run_cli(capsys, "runs", "delete", run)[0] == 0
    assert "no run yet" in run_cli(capsys, "runs", "list")[1]
    unkept = json.loads(run_cli(capsys, *ask, "--no-store")[1])
    assert unkept["run"] is None
    assert "no run yet" in run_cli(capsys, "runs", "list")[1]


def test_explain_comes_before_and_beside_the_result(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BATHYSCOPE_HOME", str(tmp_path / "home"))
    folder = str(save_tiny("gpt2", tmp_path / "tiny"))
    code, out, told = run_cli(
        capsys, "patchscope", TEXT, "--model", folder, "--text", "hello x", "--new-tokens", "2", "--explain", "--json"
    )
    assert code == 0
    assert "token-layers" in told
    assert "times fewer" in told
    assert json.loads(out)["plan"]["cells"] == 6


CHILD = """
import sys
import torch
torch.set_num_threads(1)
from bathyscope import Source, Store, Target, load, patchscope
from bathyscope.prompts import custom
from bathyscope.readouts import Generate
folder, home, text = sys.argv[1:]

class Told(Store):
    def commit(self, run, records):
        new = super().commit(run, records)
        print("acknowledged", self.show(run).n_done, flush=True)
        return new

with Store(home) as store:
    model = load(folder)
    print("ready", flush=True)
    done = patchscope(
        Source(model, text, "all", "all"), Target(prompt=custom("The cat of the keeper lives in x")),
        readout=Generate(60), store=Told(home), budget=480_000,
    )
    print("complete", done.timing["computed"], flush=True)
"""


@pytest.mark.slow
def test_a_killed_run_loses_no_acknowledged_cell(tmp_path: Path):
    folder = save_tiny("llama", tmp_path / "tiny")
    (tmp_path / "child.py").write_text(CHILD)
    moments = random.Random(0)

    def start(home: Path) -> subprocess.Popen[str]:
        command = [sys.executable, str(tmp_path / "child.py"), str(folder), str(home), TEXT]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    whole = start(tmp_path / "whole").communicate()[0]
    n_cells = int(whole.splitlines()[-1].split()[1])
    acknowledged, kills = 0, 0
    while True:
        child = start(tmp_path / "killed")
        assert child.stdout
        lines = iter(child.stdout.readline, "")
        assert next(lines).strip() == "ready"
        if kills == 5:
            rest = child.communicate()[0].splitlines()
            break
        # After the first acknowledgement of this process, at a random moment of the next batch.
        acknowledged = max(acknowledged, int(next(lines).split()[1]))
        time.sleep(moments.uniform(0, 0.03))
        child.send_signal(signal.SIGKILL)
        acknowledged = max([acknowledged, *(int(line.split()[1]) for line in lines if line.startswith("ack"))])
        child.wait()
        child.stdout.close()
        kills += 1
        with Store(tmp_path / "killed") as store:
            assert store.runs()[0].n_done >= acknowledged
            if store.runs()[0].status == "complete":
                pytest.skip("this machine is too quick to be interrupted five times")
    assert int(rest[-1].split()[1]) <= n_cells - acknowledged
    files = []
    for home in ("whole", "killed"):
        with Store(tmp_path / home) as store:
            files.append(store.export(store.runs()[0].id, tmp_path / f"{home}.json").read_bytes())
    assert files[0] == files[1]


def test_the_model_in_a_key_is_its_weights_and_not_its_name(tmp_path: Path, llama: Model):
    renamed = Model(llama.hf, llama.tokenizer, llama.architecture, "renamed")
    other = Model(ALL["llama"].build(seed=1), llama.tokenizer, llama.architecture, llama.name)
    with Store(tmp_path) as store:
        asked(llama, store=store)
        assert asked(renamed, store=store).timing["computed"] == 0
        assert asked(other, store=store).timing["computed"] > 0


def test_ctrl_c_keeps_what_is_finished(tmp_path: Path):
    folder = save_tiny("llama", tmp_path / "tiny")
    command = [sys.executable, "-m", "bathyscope", "patchscope", TEXT, "--model", str(folder), "--at", "all"]
    command += [
        "--text",
        "The cat of the keeper lives in x",
        "--new-tokens",
        "90",
        "--target-layer",
        "all",
        "--memory",
        "1",
    ]
    home = {**os.environ, "BATHYSCOPE_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, env=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.2)
        if (tmp_path / "home" / "data" / "runs.sqlite").exists():
            with Store(tmp_path / "home" / "data") as store:
                if any(0 < run.n_done < run.n_cells for run in store.runs()):
                    break
    child.send_signal(signal.SIGINT)
    out, told = child.communicate(timeout=60)
    assert child.returncode == 130, told
    assert out == ""
    assert "finishing the batch under way" in told
    assert "Traceback" not in told
    with Store(tmp_path / "home" / "data") as store:
        (run,) = store.runs()
        assert 0 < run.n_done < run.n_cells
        assert run.status == "incomplete"

"""Every rewrite of the planner against the plain run of each cell, on every family."""

import gc
import importlib
import itertools
import weakref
from collections import Counter
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from bathyscope import capture, generate, run
from bathyscope.attention import can_share
from bathyscope.batches import Batch
from bathyscope.bypass import Sleepers
from bathyscope.engine import (
    CancelledError,
    Cell,
    Finished,
    FirstToken,
    Patch,
    Read,
    Stop,
    TextGrew,
    cell_key,
    collect,
    execute,
    plan,
)
from bathyscope.errors import SiteError, UsageError
from bathyscope.generation import decode, next_logits
from bathyscope.interventions import Add, CutEdges, Noise, Replace, Scale, Write
from bathyscope.kv import prefix_cache
from bathyscope.mappings import Identity, NormMatch
from bathyscope.mappings import Scale as ScaleMapping
from bathyscope.model import Model
from bathyscope.readouts import Generate, NextToken, Readout
from bathyscope.sites import Site, residual_site
from conftest import tiny_model
from families import ALL, TinyFamily

execution = importlib.import_module("bathyscope.engine.execute")
"""The module, whose name in the package is its function's."""

S = "The capital of France is Paris"
T = "The cat of the keeper lives in x"


@dataclass(frozen=True)
class Logits(Readout):
    """The logits themselves, to compare."""

    def read(self, model, logits, continuations, original=None):
        return tuple(logits)


def sites_of(model: Model) -> list[Site]:
    found = [residual_site(layer) for layer in range(-1, model.n_layers)]
    for name in ("resid_pre", "resid_mid", "attn_out", "mlp_out", "q", "v", "z", "mlp_post"):
        for layer in (0, 2):
            try:
                found.append(model.site(Site(name, layer)))
            except SiteError:
                continue
    return found


def cells_of(model: Model, readout: Readout, sites=None, positions=(0, 3, -1)) -> list[Cell]:
    source, target = model.tokenize(S), model.tokenize(T)
    cells = [
        Cell(target, readout, Read(source, site, 2), site, (position % len(target),))
        for site in sites or sites_of(model)
        for position in positions
    ]
    return [*cells, Cell(target, readout)]


def mapped(cell: Cell | Patch, value: torch.Tensor):
    return cell.mapping.intervention(cell.mapping.apply(value[None], cell.source.site, cell.site)[0])


def plain_writes(model: Model, cell: Cell) -> list[Write]:
    writes = [*cell.common, *cell.also]
    for patch in cell.patches:
        value = capture(model, patch.source.prompt, [patch.source.site])[patch.source.site][0][patch.source.position]
        writes.append(Write(patch.site, mapped(patch, value), patch.positions))
    return writes


def assert_equals_plain(model: Model, cells: list[Cell], tolerance: float = 1e-4) -> None:
    found = collect(plan(cells, model, model), model, model).readings
    distinct = set()
    for cell, logits in zip(cells, found, strict=True):
        wanted = run(model, cell.target, writes=plain_writes(model, cell)).logits[0][-1]
        assert (logits - wanted).abs().max() <= tolerance * max(1.0, float(wanted.abs().max())), cell
        distinct.add(tuple(wanted[:4].tolist()))
    assert len(distinct) > 0.4 * len(cells), "cells that all say the same prove nothing"


def test_a_plan_gives_what_each_cell_gives_alone(model: Model):
    assert_equals_plain(model, cells_of(model, Logits()))


def test_generation_is_each_cells_own(model: Model):
    cells = cells_of(model, Generate(6), [residual_site(layer) for layer in (-1, 0, 1, 3)], positions=(2, -1))
    found = collect(plan(cells, model, model), model, model).readings
    for cell, reading in zip(cells, found, strict=True):
        wanted = generate(model, cell.target, writes=plain_writes(model, cell), max_new_tokens=6)[0]
        assert reading.ids == wanted.ids
        assert reading.text == wanted.text


def test_a_prefix_that_is_kept_once_is_the_prefix(family: TinyFamily):
    if not family.sdpa:
        pytest.skip("transformers has no sdpa for it")
    model = tiny_model(family.name, "sdpa")
    assert can_share(model) == (family.family != "falcon")
    cells = cells_of(model, Logits(), positions=(3, -1))
    assert_equals_plain(model, cells)
    cells = cells_of(model, Generate(6), [residual_site(layer) for layer in (-1, 1, 3)], positions=(2, -1))
    for cell, reading in zip(cells, collect(plan(cells, model, model), model, model).readings, strict=True):
        assert reading.ids == generate(model, cell.target, writes=plain_writes(model, cell), max_new_tokens=6)[0].ids
    assert model.attention == "sdpa"


def test_other_interventions_in_the_same_run(llama: Model):
    noise = Write("embed", Noise(1.0, seed=3), (1, 2))
    steer = Write("resid_post.2", Add(torch.ones(llama.d_model)), when="always")
    cells = [replace(cell, also=(noise,)) for cell in cells_of(llama, Logits(), [Site("resid_post", 1)])]
    cells += [replace(cells[0], also=(noise, Write("z.3", Scale(0.0)))), replace(cells[1], mapping=NormMatch())]
    cells.append(replace(cells[2], mapping=ScaleMapping(-2.0)))
    assert_equals_plain(llama, cells)
    steered = [replace(cell, readout=Generate(5), also=(steer,)) for cell in cells[:2]]
    found = collect(plan(steered, llama, llama), llama, llama).readings
    for cell, reading in zip(steered, found, strict=True):
        assert reading.ids == generate(llama, T, writes=plain_writes(llama, cell), max_new_tokens=5)[0].ids


COMMON = {
    "noise": (Write("embed", Noise(1.0, seed=3), (1, 2, 3)),),
    "twice": (
        Write("embed", Scale(0.5)),
        Write("attn_out.1", Noise(0.5), (2, 5)),
        Write("resid_post.2", Scale(1.5), 4),
    ),
    "cut": (Write("pattern.1", CutEdges((0, 1)), (3, 6, 7)), Write("pattern.2.1", CutEdges((9,)), -1)),
    "late": (Write("mlp_out.3", Scale(2.0)), Write("final_norm", Scale(0.5), (-2, -1))),
}


NEAR = ("z.1", "resid_post.1", "mlp_out.2", "resid_post.2", "resid_post.3")
"""Sites before, at and behind what they write."""


@pytest.mark.parametrize("common", COMMON)
def test_a_run_with_interventions_is_where_cells_start(family: TinyFamily, common: str):
    """Each of them, with writes before, at and behind what it writes, equals one plain run with all writes."""
    for attention in ("eager", *(["sdpa"] if family.sdpa else [])):
        model = tiny_model(family.name, attention)
        if lacking := [str(write.site) for write in COMMON[common] if not has_site(model, write.site)]:
            pytest.skip(f"{family.name} has no {lacking[0]}")
        sites = [residual_site(-1), *(site for site in map(Site.parse, NEAR) if has_site(model, site))]
        cells = [replace(cell, common=COMMON[common]) for cell in cells_of(model, Logits(), sites, positions=(4, -1))]
        assert_equals_plain(model, cells)
        assert plan(cells, model, model).target_passes == 1


def has_site(model: Model, site: Site) -> bool:
    return not isinstance(model.architecture.taps[site.component], str)


def test_several_representations_are_written_in_one_run(model: Model):
    source, target = model.tokenize(S), model.tokenize(T)
    contributions = [name for name in ("attn_out", "mlp_out", "resid_pre") if has_site(model, Site(name, 0))]
    cells = []
    for layer in range(model.n_layers):
        window = [Site(name, near) for name in contributions for near in range(max(0, layer - 1), layer + 1)]
        patches = [Patch(Read(source, site, 2), site, (position,)) for site in window for position in (3, 5)]
        scaled = Patch(Read(source, Site("z", layer, 1), 1), Site("z", layer, 1), (6,), ScaleMapping(2.0))
        cells.append(Cell(target, Logits(), more=(*patches, scaled)))
        cells.append(Cell(target, Logits(), patches[0].source, window[0], (4,), more=(*patches[1:], scaled)))
    assert_equals_plain(model, cells)


def test_generated_common_writes_go_on(llama: Model):
    steer = (Write("resid_post.1", Add(torch.ones(llama.d_model), 0.3), when="always"),)
    cells = [replace(cell, common=steer) for cell in cells_of(llama, Generate(5), [Site("resid_post", 0)], (2, -1))]
    for cell, reading in zip(cells, collect(plan(cells, llama, llama), llama, llama).readings, strict=True):
        assert reading.ids == generate(llama, T, writes=plain_writes(llama, cell), max_new_tokens=5)[0].ids


def test_several_targets_sources_and_readouts_keep_their_places(llama: Model, gpt2: Model):
    target, other = gpt2.tokenize(T), gpt2.tokenize("The largest city in x")
    cells = []
    for text in (S, "hello cat"):
        source = llama.tokenize(text)
        for layer in (3, 0, 2):
            for prompt in (other, target):
                read = Read(source, Site("resid_post", layer), 1)
                cells.append(Cell(prompt, Logits(), read, Site("resid_post", layer), (2,)))
    found = collect(plan(cells, llama, gpt2), llama, gpt2)
    for cell, logits, representation in zip(cells, found.readings, found.representations, strict=True):
        value = capture(llama, cell.source.prompt, [cell.source.site])[cell.source.site][0][1]
        assert torch.equal(representation, value)
        wanted = run(gpt2, cell.target, writes=[Write(cell.site, Replace(value), 2)]).logits[0][-1]
        assert torch.allclose(logits, wanted, atol=1e-4)


def test_a_hooked_block_is_not_bypassed_and_the_plan_says_so():
    model = tiny_model("llama")
    cells = cells_of(model, Logits(), [Site("resid_post", layer) for layer in range(4)])
    assert "another hook" not in plan(cells, model, model).explain()
    calls = []
    handle = model.blocks[1].register_forward_hook(lambda *_: calls.append(1))
    try:
        planned = plan(cells, model, model)
        assert set(planned.batches[0].wake) == {0}
        assert "another hook" in planned.explain()
        assert_equals_plain(model, cells)
    finally:
        handle.remove()
    assert calls
    assert not any("forward" in block.__dict__ for block in model.blocks)


def test_a_replaced_forward_is_there_after_a_run():
    model = tiny_model("llama")
    block = model.blocks[2]
    own, calls = block.forward, []

    def replaced(*args, **kwargs):
        calls.append(1)
        return own(*args, **kwargs)

    block.forward = replaced
    try:
        cells = cells_of(model, Logits(), [Site("resid_post", layer) for layer in range(4)])
        assert_equals_plain(model, cells)
        assert block.__dict__["forward"] is replaced
        assert calls
        with Sleepers(model, [0, 3], {2: torch.zeros(1, model.d_model)}, tuples=False):
            assert block.forward is not replaced
        assert block.forward is replaced
    finally:
        del block.forward


def test_what_a_plan_counts_is_what_the_model_computes(llama: Model):
    cells = cells_of(llama, Logits(), [residual_site(layer) for layer in (-1, 1, 2)], positions=(3, -1))
    planned = plan(cells, llama, llama)
    counted = []
    # Counted where tokens pass: inside the block, which a sleeping row never enters.
    handles = [
        block.self_attn.register_forward_pre_hook(
            lambda _m, _a, kwargs: counted.append(kwargs["hidden_states"].shape[:2].numel()), with_kwargs=True
        )
        for block in llama.blocks
    ]
    collect(planned, llama, llama)
    computed = sum(counted)
    counted.clear()
    for cell in cells:
        if cell.source:
            run(llama, cell.source.prompt)
        run(llama, cell.target)
    for handle in handles:
        handle.remove()
    assert planned.token_layers == pytest.approx(computed, rel=0.05)
    assert planned.naive_token_layers == sum(counted)
    assert planned.token_layers < 0.6 * planned.naive_token_layers


def test_the_partition_depends_on_cells_and_budget_only(llama: Model):
    cells = cells_of(llama, Generate(4))
    whole = plan(cells, llama, llama)
    assert plan(cells, llama, llama).batches == whole.batches
    small = plan(cells, llama, llama, budget=whole.memory // 4)
    assert len(small.batches) > len(whole.batches)
    assert small.memory <= whole.memory // 16
    for planned in (whole, small):
        assert sorted(cell for batch in planned.batches for cell in batch.cells) == list(range(len(cells)))
    assert [r.ids for r in collect(small, llama, llama).readings] == [
        r.ids for r in collect(whole, llama, llama).readings
    ]


def test_a_batch_that_does_not_fit_runs_in_halves(llama: Model, monkeypatch: pytest.MonkeyPatch):
    cells = cells_of(llama, Generate(3))
    planned = plan(cells, llama, llama)
    wanted = collect(planned, llama, llama).readings
    choose, sizes = Model.choose, []

    def short_of_memory(self, hidden):
        sizes.append(len(hidden))
        if len(hidden) > 10:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return choose(self, hidden)

    monkeypatch.setattr(Model, "choose", short_of_memory)
    assert collect(planned, llama, llama).readings == wanted
    assert max(sizes) > 10 >= min(sizes)


def test_nothing_of_a_failed_attempt_is_left_when_the_halves_run(llama: Model, monkeypatch: pytest.MonkeyPatch):
    planned = plan(cells_of(llama, Generate(3)), llama, llama)
    wanted = collect(planned, llama, llama).readings
    made, choose, alive = [], Model.choose, []

    class Watched(Batch):
        def __init__(self, *arguments, **options):
            alive.append(sum(one() is not None for one in made))
            super().__init__(*arguments, **options)
            made.append(weakref.ref(self.cache))

    def short_of_memory(self, hidden):
        if len(hidden) > 10:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return choose(self, hidden)

    monkeypatch.setattr(execution, "Batch", Watched)
    monkeypatch.setattr(Model, "choose", short_of_memory)
    gc.disable()
    try:
        assert collect(planned, llama, llama).readings == wanted
    finally:
        gc.enable()
    assert len(alive) > 4
    assert max(alive) == 1, "the run that all rows start from, and no batch that did not fit"


def test_who_waits_between_two_events_may_run_the_model(llama: Model):
    steer = Write("resid_post.1", Add(torch.ones(llama.d_model)), when="always")
    cells = [replace(cell, also=(steer,)) for cell in cells_of(llama, Generate(4), [Site("resid_post", 2)])]
    wanted = run(llama, T).logits[0]
    for event in execute(plan(cells, llama, llama), llama, llama):
        assert torch.equal(run(llama, T).logits[0], wanted), event
        assert torch.is_grad_enabled()
    for event in execute(plan(cells_of(llama, NextToken(2)), llama, llama), llama, llama):
        assert torch.is_grad_enabled(), event
    batch = Batch(llama, [llama.tokenize(T)], cache=prefix_cache())
    given = list(decode(batch, llama.choose(batch.last()), 3))
    assert [[len(ids) for ids in written] for written in given] == [[1], [2], [3]]


def test_a_text_that_has_ended_grows_no_more():
    model = tiny_model("llama")
    cells = cells_of(model, Generate(12))
    token = collect(plan(cells, model, model), model, model).readings[0].ids[3]
    stopping = Model(model.hf, model.tokenizer, model.architecture, "stopping")
    stopping.__dict__["stop_ids"] = frozenset({token})
    told, planned = Counter(), plan(cells, stopping, stopping)
    for event in execute(planned, stopping, stopping):
        if not isinstance(event, Finished):
            told[event.cell] += 1
            continue
        for cell, reading in zip(planned.batches[event.batch].cells, event.readings, strict=True):
            assert told[cell] == len(reading.ids) + reading.stopped


def test_a_mapping_is_applied_once(llama: Model):
    @dataclass(frozen=True)
    class Counted(Identity):
        calls: ClassVar[list[int]] = []

        def apply(self, representations, source, target):
            self.calls.append(len(representations))
            return representations

    cells = [replace(cell, mapping=Counted()) for cell in cells_of(llama, Generate(3), [Site("resid_post", 1)])[:-1]]
    collect(plan(cells, llama, llama), llama, llama)
    assert sum(Counted.calls) == len(cells)


def test_a_mapping_with_an_intervention_of_its_own_has_it_behind_the_last_block(llama: Model):
    @dataclass(frozen=True)
    class Adds(Identity):
        def intervention(self, value):
            return Add(value)

    last = Site("resid_post", llama.n_layers - 1)
    source, target = llama.tokenize(S), llama.tokenize(T)
    end = (len(target) - 1,)
    cells = [Cell(target, Logits(), Read(source, last, at), last, end, mapping=Adds()) for at in range(4)]
    assert_equals_plain(llama, cells)


def test_a_cell_that_would_be_measured_as_another_is_refused(llama: Model):
    target, site = llama.tokenize(T), Site("resid_post", 1)
    read, later = Read(target, site, 1), Write("resid_post.1", Add(torch.ones(llama.d_model)), when="generated")
    with pytest.raises(UsageError, match="without a site"):
        Cell(target, Generate(2), read)
    with pytest.raises(UsageError, match="without a source"):
        Cell(target, Generate(2), site=site, positions=(1,))
    for positions in ((-1,), (len(target),)):
        with pytest.raises(UsageError, match=f"positions 0 to {len(target) - 1}"):
            Cell(target, Generate(2), read, site, positions)
        with pytest.raises(UsageError, match=f"positions 0 to {len(target) - 1}"):
            Cell(target, Generate(2), more=(Patch(read, site, positions),))
    for readout in (Generate(1), NextToken(1)):
        for given in ({"also": (later,)}, {"common": (later,)}):
            with pytest.raises(UsageError, match="generates no token"):
                Cell(target, readout, **given)
    with pytest.raises(UsageError, match="nothing is generated"):
        next_logits(llama, T, writes=[later])


def test_events_come_while_it_happens_and_a_cancel_is_seen(llama: Model):
    planned = plan(cells_of(llama, Generate(5), [Site("resid_post", 1)]), llama, llama)
    events = list(execute(planned, llama, llama))
    kinds = [type(event) for event in events]
    n_cells = len(planned.cells)
    assert kinds == [FirstToken] * n_cells + [TextGrew] * 4 * n_cells + [Finished]
    texts = [event.text for event in events if not isinstance(event, Finished) and event.cell == 0]
    assert all(len(later) >= len(earlier) for earlier, later in itertools.pairwise(texts))
    assert texts[-1] == events[-1].readings[planned.batches[0].cells.index(0)].text
    seen, stop = [], Stop()
    with pytest.raises(CancelledError):
        for event in execute(planned, llama, llama, stop=stop):
            seen.append(event)
            stop.now = len(seen) >= 2 * n_cells
    assert len(seen) == 2 * n_cells
    assert not any(module._forward_hooks or "forward" in module.__dict__ for module in llama.hf.modules())


@pytest.mark.parametrize("how", ["now", "soon"])
def test_a_cancel_is_seen_between_source_prompts(llama: Model, monkeypatch: pytest.MonkeyPatch, how: str):
    prompts, site, target = ("one boat", "two boats", "three boats"), Site("resid_post", 1), llama.tokenize(T)
    cells = [Cell(target, NextToken(1), Read(llama.tokenize(one), site, 0), site, (0,)) for one in prompts]
    read, stop = [], Stop()

    def watched(model, prompt, sites):
        read.append(prompt)
        setattr(stop, how, len(read) == 2)
        return capture(model, prompt, sites)

    monkeypatch.setattr("bathyscope.engine.sources.capture", watched)
    with pytest.raises(CancelledError, match="before its first batch"):
        list(execute(plan(cells, llama, llama), llama, llama, stop=stop))
    assert len(read) == 2


def test_rows_that_have_ended_leave_and_the_rest_go_on():
    model = tiny_model("llama")
    cells = cells_of(model, Generate(12))
    plain = collect(plan(cells, model, model), model, model).readings
    token = plain[0].ids[3]
    stopping = Model(model.hf, model.tokenizer, model.architecture, "stopping")
    stopping.__dict__["stop_ids"] = frozenset({token})
    found = collect(plan(cells, stopping, stopping), stopping, stopping).readings
    for before, after in zip(plain, found, strict=True):
        end = before.ids.index(token) if token in before.ids else len(before.ids)
        assert after.ids == before.ids[:end]
        assert after.stopped == (token in before.ids)
    assert 0 < sum(reading.stopped for reading in found) < len(found)


def test_a_key_tells_what_is_measured_and_nothing_else(llama: Model):
    cell = cells_of(llama, Generate(3))[0]
    twin = Model(ALL["llama"].build(), llama.tokenizer, llama.architecture, "another name")
    key = cell_key(cell, llama, llama)
    assert cell_key(cell, twin, twin) == key
    other = Model(ALL["llama"].build(seed=1), llama.tokenizer, llama.architecture, llama.name)
    changed = [
        cell_key(cell, other, llama),
        cell_key(cell, llama, other),
        cell_key(replace(cell, positions=(1,)), llama, llama),
        cell_key(replace(cell, readout=Generate(4)), llama, llama),
        cell_key(replace(cell, readout=NextToken(3)), llama, llama),
        cell_key(replace(cell, site=Site("resid_post", 1)), llama, llama),
        cell_key(replace(cell, mapping=ScaleMapping(2.0)), llama, llama),
        cell_key(replace(cell, also=(Write("embed", Noise(1.0)),)), llama, llama),
        cell_key(replace(cell, also=(Write("embed", Noise(1.0, seed=1)),)), llama, llama),
    ]
    assert len({key, *changed}) == len(changed) + 1
    assert cell_key(replace(cell, mapping=Identity()), llama, llama) == key


def test_half_precision_decides_in_float32(family: TinyFamily):
    if family.family not in ("llama", "gpt2", "cohere"):
        pytest.skip("one of each kind of head")
    model = Model(
        family.build().to(torch.bfloat16),
        tiny_model(family.name).tokenizer,
        tiny_model(family.name).architecture,
        "half",
    )
    hidden = torch.randn(64, model.d_model, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = model._finish(torch.nn.functional.linear(hidden.float(), model.unembedding.weight.float()))
    decided, rounded = model.decide(hidden), model._finish(model.unembedding(hidden))
    assert decided.dtype == torch.float32
    assert torch.equal(decided.argmax(-1), exact.argmax(-1))
    assert torch.equal(model.choose(hidden), exact.argmax(-1))
    assert (rounded.float() - exact).abs().max() > 10 * (decided.max(-1).values - exact.max(-1).values).abs().max()

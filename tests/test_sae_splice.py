"""Splices: a coder that loses nothing changes nothing, and an edit does what its decoder rows say, with a cache too."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bathyscope import capture, generate, run
from bathyscope.engine import Cell, Finished, cell_key, execute, plan
from bathyscope.errors import InterventionError, SiteError, UsageError
from bathyscope.generation import next_logits
from bathyscope.interventions import Add, Noise, Replace, Write
from bathyscope.model import Model
from bathyscope.readouts import Generate
from bathyscope.sae import Code, Edit, SparseCoder, Splice
from bathyscope.sites import Site
from coders_for_tests import blind_coder, identity_coder, random_coder, width_of
from conftest import tiny_model

PROMPTS = ["The capital of France is Paris", "The cat of the keeper lives in x", "The city"]
PROMPT = PROMPTS[0]
SITE = Site("resid_post", 1)
EDITS = (Edit(3, "clamp", 4.0), Edit(9, "add", -2.0), Edit(20, "scale", 3.0), Edit(40, "clamp", 0.0))


def at(model: Model, coder: SparseCoder, site: Site = SITE, target: Site | None = None) -> SparseCoder:
    return replace(coder, site=site, target=target or site, model={"fingerprint": model.fingerprint})


def sites_of(model: Model) -> list[Site]:
    named = [SITE, *(Site.parse(name) for name in ("mlp_out.2", "z.1", "z.1.2", "resid_mid.1", "embed", "mlp_post.1"))]
    found = []
    for site in named:
        try:
            found.append(model.site(site))
        except SiteError:
            continue
    return found


@pytest.fixture
def coder(llama: Model) -> SparseCoder:
    return at(llama, random_coder(llama.d_model))


def after(coder: SparseCoder, x: Tensor, edits: tuple[Edit, ...]) -> Tensor:
    """decode(f') of one position after another, by dense latents and plain products."""
    found = []
    for row in x:
        code = coder.encode(row[None])
        latents = code.dense()[0]
        for edit in edits:
            old = latents[edit.latent]
            latents[edit.latent] = {"clamp": edit.value, "scale": old * edit.value, "add": old + edit.value}[
                edit.action
            ]
        frame = (0.0, 1.0) if code.frame is None else code.frame[0]
        found.append((latents @ coder.decoder + coder.decoder_bias) * frame[1] + frame[0])
    return torch.stack(found)


# A coder that loses nothing, and no edits


def test_a_coder_that_loses_nothing_changes_no_logit(model: Model):
    plain = run(model, PROMPTS).logits
    for site in sites_of(model):
        spliced = Splice(at(model, identity_coder(width_of(model, site)), site), error="drop").write(model)
        found = run(model, PROMPTS, writes=[spliced]).logits
        assert max(float((a - b).abs().max()) for a, b in zip(plain, found, strict=True)) <= 1e-4, site


def test_without_edits_nothing_changes_to_the_last_bit(model: Model):
    plain = run(model, PROMPTS).logits
    for site in sites_of(model):
        coder = at(model, random_coder(width_of(model, site)), site)
        found = run(model, PROMPTS, writes=[Splice(coder).write(model)]).logits
        assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True)), site
        # Where the error is dropped the same coder does change the run, so that the test could fail.
        dropped = run(model, PROMPTS, writes=[Splice(coder, error="drop").write(model)]).logits
        assert not torch.equal(plain[0], dropped[0]), site


def test_a_latent_that_is_set_to_what_it_is_changes_nothing(llama: Model, coder: SparseCoder):
    read = capture(llama, PROMPT, [SITE])[SITE][0]
    code = coder.encode(read[-1:])
    kept = Edit(int(code.indices[0, 0]), "clamp", float(code.values[0, 0]))
    found = run(llama, PROMPT, writes=[Splice(coder, edits=[kept]).write(llama, position=-1)])
    assert torch.equal(found.logits[0], run(llama, PROMPT).logits[0])


# Edits


@pytest.mark.parametrize("normed", [False, True])
def test_an_edit_adds_the_difference_of_what_is_decoded(llama: Model, coder: SparseCoder, normed: bool):
    coder = replace(coder, normed=normed)
    read = capture(llama, PROMPT, [SITE])[SITE][0][2:4]
    change = after(coder, read, EDITS) - after(coder, read, ())
    assert change.norm(dim=1).min() > 0.5
    found = run(llama, PROMPT, writes=[Splice(coder, edits=EDITS).write(llama, position=(2, 3))])
    added = [Write(SITE, Add(one), position=position) for position, one in zip((2, 3), change, strict=True)]
    assert torch.allclose(found.logits[0], run(llama, PROMPT, writes=added).logits[0], atol=1e-4)
    dropped = run(llama, PROMPT, writes=[Splice(coder, error="drop", edits=EDITS).write(llama, position=(2, 3))])
    replaced = [Write(SITE, Replace(after(coder, read, EDITS)), position=(2, 3))]
    assert torch.allclose(dropped.logits[0], run(llama, PROMPT, writes=replaced).logits[0], atol=1e-4)


def test_edits_of_several_latents_are_the_sum_of_each(llama: Model, coder: SparseCoder):
    x = capture(llama, PROMPT, [SITE])[SITE][0]
    together = Splice(coder, edits=EDITS).apply(x) - x
    alone = sum(Splice(coder, edits=[edit]).apply(x) - x for edit in EDITS)
    assert torch.allclose(together, alone, atol=1e-5) and together.abs().max() > 0.1


def test_edits_of_one_latent_follow_one_another(coder: SparseCoder):
    x = torch.randn(5, coder.d_in, generator=torch.Generator().manual_seed(1))
    many = Splice(coder, edits=[Edit(3, "clamp", 2.0), Edit(3, "scale", 3.0), Edit(3, "add", 1.0)])
    assert torch.allclose(many.apply(x), Splice(coder, edits=[Edit(3, "clamp", 7.0)]).apply(x), atol=1e-5)


def test_a_head_is_spliced_alone_or_with_all_others(llama: Model):
    whole, head = Site("z", 1), Site("z", 1, 2)
    read = capture(llama, PROMPT, [whole])[whole][0]
    coder = at(llama, random_coder(read[0].numel()), whole)
    found = run(llama, PROMPT, writes=[Splice(coder, error="drop").write(llama, position=3)])
    value = after(coder, read[3:4].flatten(1), ())[0].view_as(read[0])
    same = run(llama, PROMPT, writes=[Write(whole, Replace(value), position=3)])
    assert torch.allclose(found.logits[0], same.logits[0], atol=1e-4)
    coder = at(llama, random_coder(read.shape[-1]), head)
    found = run(llama, PROMPT, writes=[Splice(coder, error="drop").write(llama, position=3)])
    same = run(llama, PROMPT, writes=[Write(head, Replace(after(coder, read[3:4, 2], ())[0]), position=3)])
    assert torch.allclose(found.logits[0], same.logits[0], atol=1e-4)


def test_long_positions_are_left_as_they_are(coder: SparseCoder):
    x = torch.randn(6, coder.d_in, generator=torch.Generator().manual_seed(1))
    x[2] *= 50
    limit = float(x.norm(dim=1).median()) * 10
    for error in ("keep", "drop"):
        every = Splice(coder, error=error, edits=EDITS).apply(x)  # type: ignore[arg-type]
        some = Splice(coder, error=error, edits=EDITS, largest_norm=limit).apply(x)  # type: ignore[arg-type]
        kept = torch.tensor([0, 1, 3, 4, 5])
        assert torch.equal(some[2], x[2]) and not torch.allclose(every[2], x[2])
        assert torch.equal(some[kept], every[kept])


# Transcoders

PAIRS = (("resid_mid.1", "mlp_out.1"), ("resid_pre.1", "mlp_out.1"), ("z.1", "resid_post.2"), ("mlp_out.0", "z.2"))


@pytest.mark.parametrize("pair", PAIRS[1:3], ids=">".join)
def test_a_transcoder_writes_at_one_site_what_it_makes_of_another(model: Model, pair: tuple[str, str]):
    try:
        site, target = (model.site(name) for name in pair)
    except SiteError:
        pytest.skip("the family has no such site")
    widths = [width_of(model, one) for one in (site, target)]
    coder = at(model, replace(random_coder(*widths), skip=torch.randn(widths) / widths[0]), site, target)
    read = capture(model, PROMPTS, [site, target])
    found = run(model, PROMPTS, writes=[Splice(coder, error="drop", edits=EDITS).write(model)])
    kept = run(model, PROMPTS, writes=[Splice(coder, edits=EDITS).write(model, position=(0, 1))])
    for row, prompt in enumerate(PROMPTS):
        x, y = (read[one][row].flatten(1) for one in (site, target))
        made = (after(coder, x, EDITS) + x @ coder.skip).view_as(read[target][row])
        same = run(model, prompt, writes=[Write(target, Replace(made))])
        assert torch.allclose(found.logits[row], same.logits[0], atol=2e-3)
        moved = (y + after(coder, x, EDITS) - after(coder, x, ())).view_as(read[target][row])
        same = run(model, prompt, writes=[Write(target, Replace(moved[:2]), position=(0, 1))])
        assert torch.allclose(kept.logits[row], same.logits[0], atol=2e-3)


def test_a_transcoder_sees_what_was_written_where_it_reads(llama: Model):
    site, target = llama.site("resid_mid.1"), llama.site("mlp_out.1")
    coder = at(llama, random_coder(llama.d_model), site, target)
    spliced = Splice(coder, error="drop").write(llama)
    changed = torch.randn(llama.d_model, generator=torch.Generator().manual_seed(2))
    found = run(llama, PROMPT, writes=[Write(site, Replace(changed), position=-1), spliced], reads=[target])
    assert torch.allclose(found.activations[target][0][-1:], after(coder, changed[None], ()), atol=1e-4)


def test_a_transcoder_that_would_read_what_comes_later_is_refused(llama: Model):
    coder = at(llama, random_coder(llama.d_model), Site("mlp_out", 2), Site("mlp_out", 1))
    with pytest.raises(InterventionError, match=r"depends on mlp_out.2, which this pass has not met before"):
        run(llama, PROMPT, writes=[Splice(coder, error="drop").write(llama)])
    with pytest.raises(InterventionError, match="not met before"):  # nor by a decoding step what its last one met
        generate(llama, PROMPT, writes=[Splice(coder, error="drop").write(llama, when="generated")], max_new_tokens=4)
    with pytest.raises(InterventionError, match="alone"):
        Splice(coder).apply(torch.zeros(1, llama.d_model))


# Generation, batches and plans


def without_cache(model: Model, prompt: str, write: Write, new_tokens: int) -> tuple[list[int], list[Tensor]]:
    """Each token by a pass over all before it, all of them spliced."""
    ids, seen = list(model.tokenize(prompt).ids), []
    for _ in range(new_tokens):
        seen.append(run(model, ids, writes=[write]).logits[0][-1])
        ids.append(int(seen[-1].argmax()))
    return ids[-new_tokens:], seen


@pytest.mark.parametrize("kind", ["autoencoder", "transcoder"])
def test_generation_with_a_cache_is_generation_without(model: Model, kind: str):
    site, target = (SITE, SITE) if kind == "autoencoder" else (Site("resid_pre", 1), Site("mlp_out", 1))
    try:
        coder = at(model, random_coder(model.d_model, seed=3), model.site(site), model.site(target))
    except SiteError:
        pytest.skip("the family has no such site")
    for splice in (Splice(coder, error="drop"), Splice(coder, edits=EDITS)):
        expected, seen = without_cache(model, PROMPT, splice.write(model), 6)
        gap = min(float(one.topk(2).values.diff().abs()) for one in seen)
        assert gap > 1e-4, "a near tie would make the test one of rounding"
        found = generate(model, [PROMPT, PROMPTS[1]], writes=[splice.write(model)], max_new_tokens=6)[0]
        stops = [index for index, token in enumerate(expected) if token in model.stop_ids]
        assert list(found.ids) == expected[: stops[0] if stops else None]
        assert torch.allclose(next_logits(model, PROMPT, writes=[splice.write(model)])[0], seen[0], atol=1e-4)


def test_a_write_at_generated_tokens_alone_leaves_the_prompt(llama: Model, coder: SparseCoder):
    push = Splice(coder, edits=[Edit(3, "clamp", 60.0)])
    plain = generate(llama, PROMPT, max_new_tokens=6)[0].ids
    late = generate(llama, PROMPT, writes=[push.write(llama, when="generated")], max_new_tokens=6)[0].ids
    always = generate(llama, PROMPT, writes=[push.write(llama)], max_new_tokens=6)[0].ids
    assert late[0] == plain[0] and late != plain and always != late


def test_rows_are_spliced_each_by_itself(llama: Model, coder: SparseCoder):
    writes = [Splice(coder, edits=[edit]).write(llama, row=row) for row, edit in enumerate(EDITS[:3])]
    found = run(llama, PROMPTS, writes=writes).logits
    for row, write in enumerate(writes):
        alone = run(llama, PROMPTS[row], writes=[replace(write, row=None)]).logits[0]
        assert torch.allclose(found[row], alone, atol=1e-4)


@pytest.mark.parametrize("pair", [(SITE, SITE), *PAIRS[:3]], ids=lambda pair: ">".join(map(str, pair)))
def test_a_plan_gives_what_plain_runs_give(llama: Model, pair: tuple[Site | str, Site | str]):
    """Rows that sleep until their write wake early enough for what the write depends on."""
    site, target = (llama.site(one) for one in pair)
    coder = at(llama, random_coder(width_of(llama, site), width_of(llama, target), seed=5), site, target)
    prompt, position = llama.tokenize(PROMPT), len(llama.tokenize(PROMPT)) - 2
    noise = Write(SITE, Noise(0.5), position=position)
    cells = [Cell(prompt, Generate(5))]
    for edit in (Edit(3, "clamp", 30.0), Edit(3, "clamp", -30.0), Edit(11, "add", 20.0)):
        spliced = Splice(coder, edits=[edit]).write(llama, position=position, when="prompt")
        cells.append(Cell(prompt, Generate(5), also=(spliced,)))
        cells.append(Cell(prompt, Generate(5), also=(noise,), common=(spliced,)))
        cells.append(Cell(prompt, Generate(5), also=(replace(spliced, when="always"),)))
    planned = plan(cells, llama, llama)
    found = {}
    for event in execute(planned, llama, llama):
        if isinstance(event, Finished):
            found |= dict(zip(planned.batches[event.batch].cells, event.readings, strict=True))
    for index, cell in enumerate(cells):
        plain = generate(llama, PROMPT, writes=[*cell.common, *cell.also], max_new_tokens=5)[0]
        assert found[index].text == plain.text, index
    assert len({found[index].text for index in found}) > 3


def test_cells_are_known_by_the_coders_weights(llama: Model, coder: SparseCoder):
    prompt = llama.tokenize(PROMPT)
    others = [
        Splice(coder),
        Splice(coder, error="drop"),
        Splice(coder, edits=EDITS),
        Splice(coder, edits=EDITS[:1]),
        Splice(coder, largest_norm=9.0),
        Splice(at(llama, random_coder(llama.d_model, seed=1))),
        Splice(replace(coder, site=Site("resid_pre", 1))),
    ]
    keys = {cell_key(Cell(prompt, Generate(3), also=(Write(SITE, one),)), llama, llama) for one in others}
    assert len(keys) == len(set(others)) == len(others)
    assert Splice(coder, edits=list(EDITS)) == Splice(replace(coder), edits=EDITS)


# What does not fit


def test_a_coder_for_something_else_is_refused(llama: Model, coder: SparseCoder):
    with pytest.raises(UsageError, match="belongs to the very weights"):
        Splice(coder).write(tiny_model("mistral"))
    with pytest.raises(SiteError, match="does not exist"):
        Splice(at(llama, coder, Site("resid_post", 40))).write(llama)
    with pytest.raises(UsageError, match="does not say where it belongs"):
        Splice(replace(coder, site=None, target=None)).write(llama)
    for error in ("keep", "drop"):
        wide = at(llama, random_coder(llama.d_model + 1))
        with pytest.raises(InterventionError, match="a coder of width 49 was spliced"):
            run(llama, PROMPT, writes=[Splice(wide, error=error).write(llama)])  # type: ignore[arg-type]


def test_edits_that_mean_nothing_are_refused(coder: SparseCoder):
    for edit in (("clamp", float("nan")), ("add", float("inf"))):
        with pytest.raises(UsageError, match="finite value"):
            Edit(0, *edit)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="one of clamp, scale, add"):
        Edit(0, "set", 1.0)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="latent 64"):
        Splice(coder, edits=[Edit(64, "clamp", 1.0)])
    with pytest.raises(UsageError, match="'keep' or 'drop'"):
        Splice(coder, error="ignore")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a length above 0"):
        Splice(coder, largest_norm=0.0)


def test_a_coder_without_active_latents_writes_its_bias(llama: Model):
    bias = torch.randn(llama.d_model, generator=torch.Generator().manual_seed(0))
    coder = at(llama, blind_coder(llama.d_model, bias))
    assert isinstance(coder.encode(bias[None]), Code)
    found = run(llama, PROMPT, writes=[Splice(coder, error="drop").write(llama)])
    assert torch.equal(found.logits[0], run(llama, PROMPT, writes=[Write(SITE, Replace(bias))]).logits[0])

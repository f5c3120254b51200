"""Edge attribution: a sender's edges add up to the sender, and an edge is the slope of a write into one receiver."""

import pytest
import torch
from torch import Tensor

from bathyscope import capture, run, wrap
from bathyscope.attribution import (
    EdgeResult,
    attribution_patching,
    direct_logit_attribution,
    edge_attribution,
    integrated_gradients,
)
from bathyscope.errors import SiteError, UsageError
from bathyscope.interventions import Add, Replace, Write
from bathyscope.model import Model
from bathyscope.readouts import LogitDiff
from bathyscope.results import Result
from bathyscope.sites import Site
from conftest import tiny_model
from families import TinyFamily
from test_attribution import prompts
from tokenizers_for_tests import tiny_tokenizer

METRIC = LogitDiff(7, 40)


def skip_without_contributions(family: TinyFamily) -> None:
    if family.name == "opt_post_norm":
        pytest.skip("nothing is added to its residual stream as it is")


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_all_edges_of_a_sender_add_up_to_its_own_attribution(model: Model, family: TinyFamily, direction: str):
    clean, corrupted = prompts(model)
    if family.name == "opt_post_norm":
        with pytest.raises(SiteError, match="each sum is normed after it is made"):
            edge_attribution(model, clean, corrupted, METRIC)
        return
    sent = edge_attribution(model, clean, corrupted, METRIC, direction=direction).sent()
    nodes = attribution_patching(
        model, clean, corrupted, METRIC, sites="embed,z,mlp_out", direction=direction, measure=0
    ).nodes
    own: dict[str, float] = {}
    for node in nodes:
        own[node.site] = own.get(node.site, 0.0) + node.attribution
    assert set(own) == set(sent)
    largest = max(map(abs, own.values()))
    for name, value in own.items():
        assert sent[name] == pytest.approx(value, abs=1e-4 * largest), name


def test_edges_of_the_embedding_between_the_runs_are_its_integrated_gradients(model: Model, family: TinyFamily):
    skip_without_contributions(family)
    clean, corrupted = prompts(model)
    sent = edge_attribution(model, clean, corrupted, METRIC, steps=6).sent()
    found = integrated_gradients(model, clean, corrupted, METRIC, steps=6, layers="embed", measure=0)
    assert sent["embed"] == pytest.approx(found.sums()["embed"], rel=1e-3, abs=1e-3)


def test_an_edge_is_the_slope_of_a_write_into_one_receiver(family: TinyFamily):
    """What the receiver makes of a shifted residual stream is written there, and nowhere else."""
    skip_without_contributions(family)
    model = wrap(family.build("eager", torch.float64), tiny_tokenizer(), name=family.name)
    clean, corrupted = prompts(model)
    found = edge_attribution(model, clean, corrupted, METRIC)
    sender = Site("mlp_out", 0)
    shift = torch.sub(*(capture(model, ids, [sender])[sender][0] for ids in (clean, corrupted)))
    middle = "resid_pre" if family.parallel else "resid_mid"
    step = 3e-3
    for receiver, before in (
        ("q.2.1", "resid_pre"),
        ("k.2.1", "resid_pre"),
        ("v.1.0", "resid_pre"),
        ("mlp_out.2", middle),
    ):
        if f"{receiver}" not in found.receivers:  # one key-value head
            continue
        site = Site.parse(receiver)
        shifted = [
            moved(model, corrupted, site, Write(Site(before, site.layer), Add(shift, size))) for size in (step, -step)
        ]
        slope = float(shifted[0] - shifted[1]) / (2 * step)
        wanted = found.at("mlp_out.0", receiver)
        assert wanted is not None
        # Norms of some families compute in float32 whatever the model does.
        assert wanted == pytest.approx(slope, rel=2e-2, abs=2e-3), receiver


def moved(model: Model, ids: list[int], site: Site, write: Write) -> Tensor:
    received = run(model, ids, reads=[site], writes=[write]).activations[site][0]
    logits = run(model, ids, writes=[Write(site, Replace(received))]).logits[0][-1:]
    return METRIC.measure(model, logits)[0]


def test_edges_to_the_logits_are_much_like_direct_attributions():
    """Not the same: one holds the norm's scale of each run, the other lets it bend at the corrupted one."""
    model = tiny_model("llama")
    clean, corrupted = prompts(model)
    found = edge_attribution(model, clean, corrupted, METRIC)
    scaled = {
        ids: {node.site: node.attribution for node in direct_logit_attribution(model, list(ids), METRIC).nodes}
        for ids in (tuple(clean), tuple(corrupted))
    }
    frozen = [scaled[tuple(clean)][name] - scaled[tuple(corrupted)][name] for name in found.senders]
    bent = [found.at(name, "logits") or 0.0 for name in found.senders]
    assert torch.corrcoef(torch.tensor([frozen, bent]))[0, 1] > 0.8


def test_nothing_is_sent_to_what_has_read_already(model: Model, family: TinyFamily):
    skip_without_contributions(family)
    clean, corrupted = prompts(model)
    found = edge_attribution(model, clean, corrupted, METRIC)
    for sender, receiver in (
        ("z.1.0", "q.1.0"),
        ("mlp_out.1", "mlp_out.1"),
        ("z.3.1", "v.0.0"),
        ("mlp_out.2", "k.2.0"),
    ):
        assert found.at(sender, receiver) is None
    for sender, receiver in (("embed", "q.0.0"), ("z.1.0", "v.2.0"), ("mlp_out.1", "q.2.0"), ("mlp_out.3", "logits")):
        assert found.at(sender, receiver) is not None
    assert (found.at("z.1.0", "mlp_out.1") is None) == family.parallel
    heads = family.n_heads + 2 * family.n_kv_heads
    assert len(found.receivers) == family.n_layers * (heads + 1) + 1
    assert len(found.senders) == family.n_layers * (family.n_heads + 1) + 1


def test_steps_in_several_passes_are_steps_in_one(llama: Model, monkeypatch: pytest.MonkeyPatch):
    clean, corrupted = prompts(llama)
    whole = edge_attribution(llama, clean, corrupted, METRIC, steps=4).attributions
    monkeypatch.setattr("bathyscope.attribution.edges.ROWS", 3)
    parts = edge_attribution(llama, clean, corrupted, METRIC, steps=4).attributions
    assert torch.allclose(whole, parts, atol=1e-4, equal_nan=True)


def test_what_is_not_understood_is_refused(llama: Model):
    clean, corrupted = prompts(llama)
    with pytest.raises(UsageError, match="'sites' was given to edges"):
        edge_attribution(llama, clean, corrupted, METRIC, sites="z")
    with pytest.raises(UsageError, match="0 steps"):
        edge_attribution(llama, clean, corrupted, METRIC, steps=0)
    with pytest.raises(UsageError, match="both must have as many"):
        edge_attribution(llama, clean, corrupted[:-1], METRIC)


def test_a_result_keeps_its_edges(llama: Model, tmp_path):
    clean, corrupted = prompts(llama)
    found = edge_attribution(llama, clean, corrupted, METRIC)
    again = Result.load(found.save(tmp_path / "edges.json"))
    assert isinstance(again, EdgeResult)
    assert torch.equal(again.attributions.nan_to_num(9.0), found.attributions.nan_to_num(9.0))
    assert again.rows() == found.rows() and len(found.rows()) == found.count
    sizes = [abs(edge.attribution) for edge in found.strongest(50)]
    assert sizes == sorted(sizes, reverse=True) and len(sizes) == 50
    assert found.strongest(1)[0].sender in found.to_html()

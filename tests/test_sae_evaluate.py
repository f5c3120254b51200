"""Measures of coders: golden values, what theory says of coders that know all or nothing, and a slow reference."""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bathyscope import capture, run, wrap
from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import UsageError
from bathyscope.fitting import usable
from bathyscope.interventions import Replace, Write
from bathyscope.model import Model
from bathyscope.results import Result
from bathyscope.sae import (
    CoderEvaluation,
    CoderEvaluations,
    Reader,
    SparseCoder,
    StreamedActivations,
    WeightedTexts,
    evaluate,
    evaluate_coder,
    evaluate_coders,
)
from bathyscope.sae.evaluate import batches, spread
from bathyscope.sae.losses import Spliced
from bathyscope.sae.places import Place
from bathyscope.sae.reading import read_latents
from bathyscope.sae.reconstruction import DENSITIES, Sums, Tally, sum_of
from bathyscope.sites import Site, residual_site
from bathyscope.texts import Texts, given_texts, windows
from coders_for_tests import blind_coder, identity_coder, random_coder, width_of
from conftest import tiny_model
from families import ALL
from test_fitting import written
from tokenizers_for_tests import tiny_tokenizer

LENGTH = 24
SITES = {"resid_post.1": "resid_post.1", "embed": "embed", "z.2": "z.2", "mlp_out.3": "mlp_out.3"}
TRANSCODERS = {"resid_mid.1": "mlp_out.1", "z.1": "resid_post.3"}


def texts(n_documents: int = 7) -> Texts:
    """Documents of several lengths, so that windows have several."""
    return given_texts([document * (1 + index % 3) for index, document in enumerate(written(n_documents).documents())])


def at(model: Model, coder: SparseCoder, site: str, target: str | None = None) -> SparseCoder:
    places = model.site(site), model.site(target or site)
    return replace(coder, site=places[0], target=places[1], model={"fingerprint": model.fingerprint})


def fitting_coder(model: Model, site: str, target: str | None = None, **options: Any) -> SparseCoder:
    """A random coder that is of some use: its bias is about the mean, and its latents small."""
    widths = [width_of(model, model.site(one)) for one in (site, target or site)]
    return at(model, random_coder(*widths, **options), site, target)


@pytest.fixture(scope="module")
def exact() -> Model:
    """A model in which rounding is far below what is compared."""
    return wrap(ALL["llama"].build("eager", torch.float64), tiny_tokenizer(), name="llama64")


@pytest.fixture(scope="module")
def with_sinks() -> Model:
    """A model in which the token "the" has a residual stream a hundred times as long as others."""
    hf, tokenizer = ALL["gpt2"].build("eager", torch.float64), tiny_tokenizer()
    loud = tokenizer(" the", add_special_tokens=False)["input_ids"][-1]
    with torch.no_grad():
        hf.get_input_embeddings().weight[loud] *= 100
    return wrap(hf, tokenizer, name="sinks")


def numbers(measures: Mapping[str, Any]) -> dict[str, float]:
    """Measures as one flat table of what is a number."""
    found: dict[str, float] = {}
    for name, value in measures.items():
        parts = dict(enumerate(value)) if isinstance(value, tuple) else value
        if isinstance(parts, Mapping):
            found |= {f"{name} {key}": one for key, one in numbers(parts).items()}
        elif isinstance(value, (int, float)):
            found[str(name)] = value
    return found


# Golden sums


def sums(y: Tensor, made: Tensor, about: float = 0.0) -> Sums:
    return Sums.of(y, made, torch.zeros(len(y)), torch.full(y.shape[1:], about))


def test_explained_variance_has_its_golden_values():
    y, made = torch.tensor([[2.0, 0.0], [0.0, 4.0]]), torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    mean = y.mean(0).expand_as(y)
    for about in (0.0, -3.0, 1e4):
        found = [1 - (sums(y, one, about).fvu or 0) for one in (made, mean, y)]
        assert found == pytest.approx([0.8, 0.0, 1.0], abs=1e-6)


def test_sums_are_those_of_a_plain_formula_however_they_are_cut():
    generator = torch.Generator().manual_seed(0)
    y, made = (torch.randn(50, 6, generator=generator, dtype=torch.float64) + 3 for _ in range(2))
    whole = sums(y, made, 2.5)
    cut = sum_of(sums(one, other, 2.5) for one, other in zip(y.split(7), made.split(7), strict=True))
    for one in (whole, cut):
        assert one.fvu == pytest.approx(float((y - made).square().sum() / (y - y.mean(0)).square().sum()), rel=1e-12)
        assert one.cosine / one.n == pytest.approx(float(torch.cosine_similarity(y, made).mean()), rel=1e-12)
        assert one.ratio / one.n == pytest.approx(float((made.norm(dim=1) / y.norm(dim=1)).mean()), rel=1e-12)
        assert one.made / one.product == pytest.approx(float(made.square().sum() / (y * made).sum()), rel=1e-12)


def test_what_shrinks_everything_has_a_bias_of_so_much():
    y = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    found = sums(y, 0.7 * y)
    assert found.made / found.product == pytest.approx(0.7)
    assert found.cosine / found.n == pytest.approx(1.0)


def test_variance_that_is_none_explains_nothing():
    same = torch.full((9, 3), 7.3)
    assert sums(same, same).fvu is None and sums(same[:0], same[:0]).fvu is None


# Against a slow reference


def reference(model: Model, coder: SparseCoder, text: Texts) -> dict[str, Any]:
    """Everything over again: one window at a time, all tokens kept, plain formulas, whole runs."""
    site, target = coder.site, coder.target
    assert site is not None and target is not None
    streams = {residual_site(one.layer) for one in (site, target) if one.layer is not None}
    kept: dict[str, list[Tensor]] = {name: [] for name in ("x", "y", "used", "place")}
    cut = list(windows(model, text, length=LENGTH))
    for window in cut:
        read = capture(model, window, [site, target, *streams])
        kept["x"].append(read[site][0].flatten(1))
        kept["y"].append(read[target][0].flatten(1))
        special = torch.tensor([one in model.tokenizer.all_special_ids for one in window.ids])
        kept["used"].append(torch.stack([usable(read[stream][0]) for stream in streams]).all(0) & ~special)
        kept["place"].append(torch.arange(len(window)) * 2 >= len(window))
    x, y, used = (torch.cat(kept[name]) for name in ("x", "y", "used"))
    made = coder.reconstruct(x)
    active = coder.encode(x[used]).dense() != 0
    share = active.double().mean(0)

    def fvu(chosen: Tensor) -> float:
        return float((y - made)[chosen].square().sum() / (y[chosen] - y[chosen].mean(0)).square().sum())

    found: dict[str, Any] = {"n": int(used.sum()), "left_out": 1 - float(used.double().mean()), "fvu": fvu(used)}
    found |= {"explained_variance": 1 - fvu(used), "fvu_all": fvu(torch.ones_like(used))}
    found |= {"cosine": float(torch.cosine_similarity(y[used], made[used]).mean())}
    found |= {"l2_ratio": float((made[used].norm(dim=1) / y[used].norm(dim=1)).mean())}
    found |= {"reconstruction_bias": float(made[used].square().sum() / (y * made)[used].sum())}
    found |= {"l0": float(active.sum(1).double().mean()), "dead_fraction": float((share == 0).double().mean())}
    found |= {"dense_fraction": float((share > 0.1).double().mean())}
    halves = torch.cat(kept["place"])
    found |= {"first half": fvu(used & ~halves), "second half": fvu(used & halves)}
    values = {"spliced": kept["y"], "zero": kept["y"], "mean": kept["y"]}
    values["spliced"] = [coder.reconstruct(one) for one in kept["x"]]
    values["zero"] = [torch.zeros_like(one) for one in kept["y"]]
    values["mean"] = [y[used].mean(0).expand_as(one) for one in kept["y"]]
    losses = {arm: 0.0 for arm in ("clean", *values)}
    kls = {arm: 0.0 for arm in losses}
    for index, window in enumerate(cut):
        plain = run(model, window).logits[0][:-1].log_softmax(-1)
        shape = capture(model, window, [target])[target][0].shape[1:]
        positions = tuple(kept["used"][index].nonzero()[:, 0].tolist())
        for arm in losses:
            writes = []
            if arm != "clean":
                value = values[arm][index][list(positions)].to(model.dtype)
                writes = [Write(target, Replace(value.reshape(-1, *shape)), position=positions)]
            said = run(model, window, writes=writes).logits[0][:-1].log_softmax(-1)
            losses[arm] += float(cross_entropy(said, torch.tensor(window.ids[1:]), reduction="sum"))
            kls[arm] += float((plain.exp() * (plain - said)).sum())
    n = sum(len(window) - 1 for window in cut)
    ce, kl = ({arm: one / n for arm, one in sums.items()} for sums in (losses, kls))
    found |= {"n_loss": n} | {f"ce_{arm}": one for arm, one in ce.items()}
    found["loss_recovered"] = (ce["zero"] - ce["spliced"]) / (ce["zero"] - ce["clean"])
    found["loss_recovered_mean"] = (ce["mean"] - ce["spliced"]) / (ce["mean"] - ce["clean"])
    found |= {"delta_ce": ce["spliced"] - ce["clean"], "kl_spliced": kl["spliced"], "kl_zero": kl["zero"]}
    return {**found, "kl_recovered": 1 - kl["spliced"] / kl["zero"], "mean_of": "measured"}


def assert_same(found: CoderEvaluation, wanted: dict[str, Any], rel: float = 1e-9) -> None:
    measures = found.measures()
    for half in ("first half", "second half"):
        assert found.reconstruction.by_class[half]["fvu"] == pytest.approx(wanted.pop(half), rel=rel)
    assert set(measures) - set(wanted) == {"density", "by_class"}
    for name, value in wanted.items():
        assert measures[name] == (value if isinstance(value, str) else pytest.approx(value, rel=rel, abs=1e-10)), name


@pytest.mark.parametrize("place", [*SITES.items(), *TRANSCODERS.items()], ids=">".join)
def test_every_measure_is_that_of_a_slow_reference(exact: Model, place: tuple[str, str]):
    coder = fitting_coder(exact, *place)
    if coder.is_transcoder:
        skip = torch.randn(coder.d_in, coder.d_out, generator=torch.Generator().manual_seed(1)) / coder.d_in
        coder = replace(coder, skip=skip)
    found = evaluate_coder(exact, coder, texts(), length=LENGTH)
    assert_same(found, reference(exact, coder, texts()))
    assert len({len(window) for window in windows(exact, texts(), length=LENGTH)}) > 1


def test_measures_leave_sinks_out_and_say_so(with_sinks: Model):
    coder = fitting_coder(with_sinks, "resid_post.1")
    found = evaluate_coder(with_sinks, coder, texts(), length=LENGTH)
    assert_same(found, reference(with_sinks, coder, texts()))
    classes, n_windows = found.reconstruction.by_class, len(list(windows(with_sinks, texts(), length=LENGTH)))
    assert classes["first"]["tokens"] == n_windows and classes["sink"]["tokens"] > 3
    assert sum(one["share"] for one in classes.values()) == pytest.approx(1)
    assert sum(one["variance"] for one in classes.values()) == pytest.approx(1)
    # A few positions are nearly all the variance: a coder that gives them alone back looks perfect, pooled.
    assert classes["sink"]["share"] < 0.2 and classes["sink"]["variance"] > 0.8
    assert classes["sink"]["norm"] > 10 * classes["second half"]["norm"]


def test_what_is_left_out_of_training_is_left_out_of_evaluation_and_reading():
    """One of the commonest tokens is made a special one: no row of it is trained on, measured, spliced or read."""
    tokenizer = tiny_tokenizer()
    model = wrap(ALL["llama"].build("eager", torch.float64), tokenizer, name="special")
    ids = [token for window in windows(model, texts(), length=LENGTH) for token in window.ids[1:]]
    common = max(set(ids), key=ids.count)
    tokenizer.add_special_tokens({"additional_special_tokens": [tokenizer.convert_ids_to_tokens(common)]})
    assert common in tokenizer.all_special_ids and ids.count(common) > 20
    coder = fitting_coder(model, "resid_post.1")
    found = evaluate_coder(model, coder, texts(), length=LENGTH)
    assert_same(found, reference(model, coder, texts()))
    cut = list(windows(model, texts(), length=LENGTH))
    assert [token for window in cut for token in window.ids[1:]] == ids, "the text is cut as it was"
    assert found.reconstruction.by_class["special"]["tokens"] == ids.count(common)
    model = wrap(ALL["llama"].build("eager"), tokenizer, name="special")  # windows of several lengths run together
    reader = Reader(model, (Site("resid_post", 1),), (WeightedTexts(texts()),), length=LENGTH)
    (trained,) = StreamedActivations(reader).portions(1, 0)
    assert len(trained.rows) == found.reconstruction.n
    looked_at = read_latents(model, fitting_coder(model, "resid_post.1"), texts(), length=LENGTH)
    assert looked_at.activity.n_rows == found.reconstruction.n
    assert looked_at.activity.n_sinks == len(ids) + len(cut) - found.reconstruction.n


def test_a_coder_that_knows_sinks_alone_looks_perfect_where_they_are_pooled(with_sinks: Model):
    site, sizes = Site("resid_post", 0), []
    for window in windows(with_sinks, texts(), length=LENGTH):
        read = capture(with_sinks, window, [site])[site][0]
        sizes.append(read[~usable(read)][1:])
    loud = torch.cat(sizes).mean(0)
    direction = (loud / loud.norm()).float()
    # One latent, active where the stream is long along the sinks' own direction.
    coder = SparseCoder(
        direction[None], -loud.norm().float()[None] / 2, direction[None], direction * 0, random_coder(48).selection
    )
    coder = replace(coder, decoder=2 * direction[None])
    found = evaluate_coder(with_sinks, at(with_sinks, coder, str(site)), texts(), length=LENGTH).reconstruction
    assert found.fvu_all is not None and found.fvu is not None
    assert found.fvu_all < 0.1 and found.fvu > 0.9


@pytest.mark.parametrize("size", [1, 3, 8])
def test_nothing_depends_on_the_batch(exact: Model, size: int, monkeypatch: pytest.MonkeyPatch):
    coder = fitting_coder(exact, "resid_post.2")
    wanted = numbers(evaluate_coder(exact, coder, texts(), length=LENGTH).measures())
    monkeypatch.setattr(evaluate, "BATCH", size)
    found = numbers(evaluate_coder(exact, coder, texts(), length=LENGTH).measures())
    assert len(found) > 30 and found == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_in_float32_batches_differ_by_rounding_alone(llama: Model, monkeypatch: pytest.MonkeyPatch):
    coder = fitting_coder(llama, "resid_post.2")
    found = []
    for size in (1, 8):
        monkeypatch.setattr(evaluate, "BATCH", size)
        found.append(numbers(evaluate_coder(llama, coder, texts(), length=LENGTH).measures()))
    assert found[0] == pytest.approx(found[1], rel=1e-4, abs=1e-5)


def test_coders_measured_together_are_each_alone(exact: Model):
    coders = {site: fitting_coder(exact, site, target) for site, target in {**SITES, **TRANSCODERS}.items()}
    together = evaluate_coders(exact, coders, texts(), length=LENGTH)
    assert list(together.coders) == list(coders)
    for name in ("resid_post.1", "resid_mid.1"):
        alone = evaluate_coder(exact, coders[name], texts(), length=LENGTH)
        assert numbers(asdict(together[name].loss)) == pytest.approx(numbers(asdict(alone.loss)), rel=1e-12)
        assert together[name].reconstruction.fvu == alone.reconstruction.fvu


# Coders that know all or nothing


def test_a_coder_that_loses_nothing_recovers_everything(model: Model):
    found = evaluate_coder(model, at(model, identity_coder(model.d_model), "resid_post.2"), texts(3), length=LENGTH)
    said = found.measures()
    assert said["fvu"] == said["fvu_all"] == 0 and said["explained_variance"] == 1
    assert said["loss_recovered"] == pytest.approx(1, abs=1e-5) and said["loss_recovered_mean"] == pytest.approx(
        1, abs=1e-4
    )
    assert said["kl_spliced"] == pytest.approx(0, abs=1e-6) and said["delta_ce"] == pytest.approx(0, abs=1e-5)
    for name in ("cosine", "l2_ratio", "reconstruction_bias"):
        assert said[name] == pytest.approx(1, abs=1e-9)
    assert said["l0"] == pytest.approx(model.d_model, abs=0.01)  # of each pair of latents one, but where x is 0


def test_a_coder_that_gives_zero_recovers_nothing(model: Model):
    found = evaluate_coder(model, at(model, blind_coder(model.d_model), "resid_post.2"), texts(3), length=LENGTH)
    said = found.measures()
    assert said["loss_recovered"] == said["kl_recovered"] == 0
    assert said["ce_spliced"] == said["ce_zero"] != said["ce_clean"]
    assert said["dead_fraction"] == 1 and said["l0"] == 0 and said["reconstruction_bias"] is None
    assert sum(said["density"]) == 0


def test_a_coder_that_gives_the_mean_explains_no_variance(exact: Model):
    first = evaluate.evaluate_coder(exact, at(exact, blind_coder(48), "resid_post.2"), texts(), length=LENGTH)
    assert first.loss.mean_of == "measured"
    site, used = Site("resid_post", 2), []
    for window in windows(exact, texts(), length=LENGTH):
        read = capture(exact, window, [site])[site][0]
        used.append(read[usable(read)])
    mean = torch.cat(used).mean(0)
    said = evaluate_coder(exact, at(exact, blind_coder(48, mean), "resid_post.2"), texts(), length=LENGTH).measures()
    assert said["fvu"] == pytest.approx(1, rel=1e-9)
    assert said["loss_recovered_mean"] == pytest.approx(0, abs=1e-9)
    assert said["ce_spliced"] == pytest.approx(said["ce_mean"], rel=1e-9)


def test_the_mean_is_that_of_the_fit_where_the_coder_says_so(exact: Model):
    centre = torch.randn(48, generator=torch.Generator().manual_seed(3))
    coder = replace(fitting_coder(exact, "resid_post.2"), centre=centre, training={"centre": "mean"})
    said = evaluate_coder(exact, coder, texts(), length=LENGTH).loss
    blind = at(exact, blind_coder(48, centre), "resid_post.2")
    assert said.mean_of == "fit"
    assert said.ce_mean == pytest.approx(evaluate_coder(exact, blind, texts(), length=LENGTH).loss.ce_spliced, rel=1e-9)
    for other in (replace(coder, training={}), replace(coder, normed=True)):
        assert Spliced.of(exact, Place.of(exact, other), centre).mean_of == "measured"


def test_density_counts_every_latent_that_is_not_dead():
    identity = torch.eye(5)
    coder = replace(identity_coder(5), decoder_bias=torch.ones(5))
    tally = Tally(coder)
    x = torch.zeros(1000, 5)
    for latent, often in enumerate((1000, 110, 90, 1, 0)):
        x[:often, latent] = 1.0
    tally.add(x, x, torch.full((1000,), 3))
    tally.add(x[:1] + identity[:1], x[:1], torch.full((1,), 1))  # a sink counts for nothing
    found = tally.result()
    assert found.dead_fraction == pytest.approx(6 / 10) and found.dense_fraction == pytest.approx(2 / 10)
    assert found.l0 == pytest.approx(1.201)
    bins = {density: count for density, count in zip(DENSITIES, found.density, strict=False) if count}
    assert bins == {-0.5: 1, -1.0: 1, -1.5: 1, -3.0: 1}
    assert len(found.density) == len(DENSITIES) - 1


# What is read


def test_windows_are_spread_over_the_text_and_said(llama: Model):
    coder = fitting_coder(llama, "resid_post.1")
    found = evaluate_coder(llama, coder, [texts(), texts(4)], length=LENGTH, n_tokens=200, loss_tokens=60)
    spec = found.provenance["spec"]
    assert spec["windows"] > spec["loss_windows"] > 1
    assert 100 < spec["tokens"] <= 250 and 30 < spec["loss_tokens"] <= 80
    used = found.reconstruction.n / (1 - found.reconstruction.left_out)
    assert used == pytest.approx(spec["tokens"])
    assert found.loss.n == spec["loss_tokens"] - spec["loss_windows"]
    assert [one["n_documents"] for one in spec["texts"]] == [7, 4]
    assert spread([10, 10, 10, 10], 5) == [0] and spread([10, 10, 10, 10], 39) == [0, 1, 2]


def test_windows_run_with_those_of_their_length(llama: Model):
    found = list(batches(windows(llama, texts(), length=LENGTH), 4))
    assert all(len({len(window) for window in block}) == 1 for block in found)
    assert max(map(len, found)) == 4
    ids = sorted(window.ids for block in found for window in block)
    assert ids == sorted(window.ids for window in windows(llama, texts(), length=LENGTH))


def test_progress_ends_where_it_said(llama: Model):
    coders = {site: fitting_coder(llama, site) for site in ("resid_post.1", "mlp_out.2")}
    told: list[tuple[int, int]] = []
    evaluate_coders(llama, coders, texts(4), length=LENGTH, progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] and [done for done, _ in told] == sorted(done for done, _ in told)
    with pytest.raises(CancelledError, match="the evaluation was stopped"):
        evaluate_coders(llama, coders, texts(4), length=LENGTH, stop=Stop(soon=True))


def test_half_precision_is_measured_in_float32():
    hf = ALL["llama"].build("eager", torch.bfloat16)
    half = wrap(hf, tiny_tokenizer(), name="half")
    said = evaluate_coder(half, at(half, identity_coder(48), "resid_post.2"), texts(3), length=LENGTH)
    assert said.loss.loss_recovered == pytest.approx(1, abs=1e-3)
    full = wrap(ALL["llama"].build("eager"), tiny_tokenizer(), name="full")
    wanted = evaluate_coder(full, at(full, identity_coder(48), "resid_post.2"), texts(3), length=LENGTH)
    assert said.loss.ce_clean == pytest.approx(wanted.loss.ce_clean, rel=0.05)


def test_what_cannot_be_measured_is_refused(llama: Model):
    coder = fitting_coder(llama, "resid_post.1")
    with pytest.raises(UsageError, match="belongs to the very weights"):
        evaluate_coder(tiny_model("mistral"), coder, texts())
    with pytest.raises(UsageError, match="inside the blocks"):
        evaluate_coder(llama, at(llama, random_coder(48), "final_norm"), texts(), length=LENGTH)
    with pytest.raises(UsageError, match="to be encoded"):
        evaluate_coder(llama, at(llama, random_coder(47), "resid_post.1"), texts(), length=LENGTH)
    with pytest.raises(UsageError, match="no coder"):
        evaluate_coders(llama, {}, texts())
    with pytest.raises(UsageError, match="n_tokens=0"):
        evaluate_coder(llama, coder, texts(), length=LENGTH, n_tokens=0)


# Results


def test_an_evaluation_is_what_was_saved(llama: Model, tmp_path):
    coders = {
        site: fitting_coder(llama, site, target) for site, target in (("resid_post.1", None), ("z.1", "mlp_out.2"))
    }
    both = evaluate_coders(llama, coders, texts(4), length=LENGTH)
    one = both["z.1"]
    again = Result.load(one.save(tmp_path / "one.json"))
    assert isinstance(again, CoderEvaluation) and again.measures() == one.measures() and again.rows() == one.rows()
    assert (again.site, again.target) == ("z.1", "mlp_out.2")
    kept = Result.load(both.save(tmp_path / "both.json"))
    assert isinstance(kept, CoderEvaluations) and kept.rows() == both.rows() and len(kept.rows()) == 2
    assert {"fvu", "loss_recovered", "ce_mean"} <= set(one.to_dict()) and not math.isnan(one.to_dict()["fvu"])
    page = both.to_html()
    assert f"{one.reconstruction.fvu:,.4g}" in page and "second half" in page

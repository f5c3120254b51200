"""Training sparse coders: gradients against autograd, what stays what it is, what is recovered, what resumes."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import UsageError
from bathyscope.largest import largest
from bathyscope.sae import (
    L1,
    BatchTopK,
    CoderConfig,
    Gated,
    GivenActivations,
    JumpReLU,
    KeepAbove,
    Matryoshka,
    PAnneal,
    Settings,
    Sparsity,
    TopK,
    train_coders,
)
from bathyscope.sae.code import KeepTop
from bathyscope.sae.training import trainer
from bathyscope.sae.training.dead import WEIGHT, Silence, revive
from bathyscope.sae.training.learner import Learner
from bathyscope.sae.training.penalties import _Jump
from bathyscope.sae.training.sparse_algebra import ByLatent, Sparse
from bathyscope.sae.training.sparsity import Moment
from bathyscope.sae.training.weights import Scaling, Weights, autoencoder_start, transcoder_start, unit_rows

SITE = "resid_post.3"
SELECTING = [TopK(3), BatchTopK(3), Matryoshka(3, prefixes=(0.25, 0.5, 1.0))]
PENALISED = [L1(0.02), PAnneal(0.02), JumpReLU(3), Gated(0.02)]
ALL = SELECTING + PENALISED


def by_name(sparsities: list[Sparsity]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("sparsity", sparsities, ids=lambda one: one.name)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights_of(sparsity: Sparsity, *, skip: bool | None = None) -> Weights:
    """Weights in float64, of an autoencoder, or of a transcoder of another width."""
    generator = torch.Generator().manual_seed(1)
    alone = skip is None
    start = autoencoder_start(12, 6, generator) if alone else transcoder_start(12, 6, 5, generator, skip=bool(skip))
    start = {**start, **sparsity.trained(12)}
    found = Weights({name: (one + 0.1 * draw(*one.shape)).double() for name, one in start.items()}, sparsity.kept())
    found.kept = {name: one.double() for name, one in found.kept.items()}
    return found


def small_data(n: int = 256, width: int = 8) -> tuple[Tensor, Tensor]:
    """Sums of a few of 16 directions about a mean, and the directions."""
    generator = torch.Generator().manual_seed(2)
    directions = unit_rows(torch.randn(16, width, generator=generator))
    chosen = torch.rand(n, 16, generator=generator).topk(2).indices
    codes = torch.zeros(n, 16).scatter_(1, chosen, 1 + torch.rand(n, 2, generator=generator))
    return codes @ directions + 3.0, directions


@by_name(SELECTING)
@pytest.mark.parametrize("skip", [None, False, True], ids=["autoencoder", "transcoder", "skip"])
def test_20_gradients_found_entry_by_entry_are_autograds(sparsity: TopK, skip: bool | None) -> None:
    weights, x = weights_of(sparsity, skip=skip), draw(20, 6, seed=3)
    y = x if skip is None else draw(20, 5, seed=4)
    found = sparsity.learn(weights, x, y, Moment(0, 0.5))
    dense = {name: one.detach().clone().requires_grad_() for name, one in weights.trained.items()}
    pre = x @ dense["encoder"].T + dense["encoder_bias"]
    if isinstance(sparsity, BatchTopK):
        least = pre.flatten().topk(sparsity.k * len(x)).values.min()
        latents = torch.where(pre >= least, pre, 0).relu()
    else:
        latents = torch.zeros_like(pre).scatter(1, pre.topk(sparsity.k).indices, 1) * pre.relu()
    ends = [round(share * 12) for share in getattr(sparsity, "prefixes", (1.0,))]
    losses = []
    for end in ends:
        made = latents[:, :end] @ dense["decoder"][:end] + dense["decoder_bias"]
        made = made + x @ dense["skip"] if skip else made
        losses.append((y - made).square().sum() / len(x))
    loss = torch.stack(losses).mean()
    loss.backward()
    assert found.loss.item() == pytest.approx(loss.item(), rel=1e-12)
    for name, one in dense.items():
        grad = weights.trained[name].grad
        assert grad is not None and one.grad is not None
        assert torch.allclose(grad, one.grad, atol=1e-12), name
        assert bool(one.grad.abs().sum() > 0), f"{name} has no gradient: nothing was compared"


def test_products_with_few_entries_are_dense_ones() -> None:
    rows, matrix = draw(7, 5), draw(9, 5, seed=1)
    indices = torch.rand(7, 9, generator=torch.Generator().manual_seed(0)).topk(3).indices  # in no order
    values = draw(7, 3, seed=2)
    code = Sparse.full(indices, values)
    kept = torch.rand(21, generator=torch.Generator().manual_seed(1)) > 0.4  # rows of several lengths, one of none
    kept[3:6] = False
    for one, there in ((code, torch.ones(7, 3, dtype=torch.bool)), (code.where(kept), kept.view(7, 3))):
        dense = torch.zeros(7, 9, dtype=torch.float64).scatter(1, indices, values * there)
        assert torch.equal(one.dots(rows, matrix), code.dots(rows, matrix)[there.flatten()])
        assert torch.allclose(one.dots(rows, matrix), (rows @ matrix.T).gather(1, indices)[there])
        assert torch.allclose(one.sum(matrix), dense @ matrix)
        assert torch.allclose(ByLatent.of(one, 9).sum(one.values, rows), dense.T @ rows)
        assert torch.allclose(one.total(one.values, 9), dense.sum(0))
        assert torch.equal(one.active(9), (dense > 0).sum(0))


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("n", "k"), [(4608, 32), (4608, 128), (256, 1), (256, 16), (100, 5), (24, 30), (70001, 3)])
def test_the_largest_of_groups_are_the_largest(n: int, k: int, dtype: torch.dtype, ties: bool) -> None:
    rows = draw(30 if n > 5000 else 300, n, seed=9).float()
    if ties:
        rows = (rows * 2).round()  # with zeros of both signs
    rows[0, 3], rows[1, 4], rows[2] = torch.inf, -torch.inf, -torch.inf
    rows = rows.to(dtype)
    indices, values = largest(rows, k)
    assert torch.equal(values.sort().values, rows.topk(min(k, n)).values.sort().values)
    assert torch.equal(rows.gather(1, indices), values)
    assert bool((indices.sort().values.diff() > 0).all()), "a place was taken twice"


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_what_is_no_number_is_among_the_largest(dtype: torch.dtype, sign: float) -> None:
    rows = draw(5, 4608, seed=9).to(dtype)
    rows[3, 17] = torch.tensor(torch.nan).copysign(torch.tensor(sign)).to(dtype)
    assert largest(rows, 4)[1].isnan().sum(1).tolist() == [0, 0, 0, 1, 0]


@by_name(PENALISED)
def test_penalised_gradients_predict_small_changes_of_the_loss(sparsity: Sparsity) -> None:
    """Of what is smooth; thresholds and gates have gradients by a kernel, which no difference shows."""
    weights, x = weights_of(sparsity), draw(20, 6, seed=3)
    moment = Moment(0, 0.5)
    sparsity.learn(weights, x, x, moment)  # a first step may change what is kept
    for one in weights.trained.values():
        one.grad = None
    sparsity.learn(weights, x, x, moment)
    smooth = isinstance(sparsity, (L1, PAnneal))  # of those, the kinks at 0 alone are not, and no entry is at one
    for name in ("decoder", "decoder_bias", *(("encoder", "encoder_bias") if smooth else ())):
        step = draw(*weights[name].shape, seed=5)
        grad = weights.trained[name].grad
        assert grad is not None
        changed = []
        for sign in (1, -1):
            moved = copy.deepcopy(weights)
            moved.trained[name].data += sign * 1e-5 * step
            for one in moved.trained.values():
                one.grad = None
            changed.append(sparsity.learn(moved, x, x, moment).loss.item())
        predicted = (grad * step).sum().item()
        if isinstance(sparsity, Gated):  # its gates reconstruct with a decoder that they do not train
            assert predicted != 0
            continue
        assert (changed[0] - changed[1]) / 2e-5 == pytest.approx(predicted, rel=1e-5), name


def test_20_dead_latents_have_gradients_in_encoder_and_decoder_alike() -> None:
    weights, x = weights_of(TopK(1)), draw(40, 6, seed=3)
    found = TopK(1).learn(weights, x, x, Moment(0, 0.5))
    dead = (found.active == 0).nonzero().squeeze(1)[:2]
    assert len(dead) == 2
    before = {name: one.grad.clone() for name, one in weights.trained.items() if one.grad is not None}
    assert not before["encoder"][dead].any()
    revive(weights, x, found.residual, dead, most=2, bias="encoder_bias")
    for name in ("encoder", "decoder", "encoder_bias"):
        change = weights.trained[name].grad - before[name]
        assert bool(change[dead].flatten(1).abs().sum(1).gt(0).all() if change.ndim > 1 else change[dead].any()), name
        alive = torch.ones(12, dtype=torch.bool)
        alive[dead] = False
        assert not change[alive].any(), f"{name} of living latents was changed"


def test_dead_latents_gradients_are_autograds() -> None:
    weights, x, residual = weights_of(TopK(1)), draw(40, 6, seed=3), draw(40, 6, seed=6)
    dead = torch.tensor([1, 4, 7, 9])
    for one in weights.trained.values():
        one.grad = torch.zeros_like(one)
    found = revive(weights, x, residual, dead, most=2, bias="encoder_bias")
    dense = {name: one.detach().clone().requires_grad_() for name, one in weights.trained.items()}
    pre = x @ dense["encoder"][dead].T + dense["encoder_bias"][dead]
    latents = torch.zeros_like(pre).scatter(1, pre.topk(2).indices, 1) * pre.relu()
    loss = WEIGHT * (residual - latents @ dense["decoder"][dead]).square().sum() / len(x)
    loss.backward()
    assert found.item() == pytest.approx(loss.item())
    for name in ("encoder", "encoder_bias", "decoder"):
        assert torch.allclose(weights.trained[name].grad, dense[name].grad), name


def test_21_the_dead_reconstruct_what_is_left_without_a_bias() -> None:
    """With all latents dead, what they should make is the residual itself: no bias is counted twice."""
    x = torch.eye(6, dtype=torch.float64)
    start = {"encoder": torch.eye(6), "encoder_bias": torch.zeros(6), "decoder": torch.eye(6)}
    weights = Weights({name: one.double() for name, one in start.items()} | {"decoder_bias": draw(6)}, {})
    for one in weights.trained.values():
        one.grad = torch.zeros_like(one)
    loss = revive(weights, x, x.clone(), torch.arange(6), most=6, bias="encoder_bias")
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert all(float(one.grad.abs().max()) < 1e-12 for one in weights.trained.values())


def test_dead_is_counted_in_tokens() -> None:
    silence = Silence.none(2)
    for _ in range(3):
        silence.hear(torch.tensor([1, 0]), 100)
    assert silence.tokens.tolist() == [0, 300]
    assert silence.dead(300).tolist() == [1] and silence.dead(301).tolist() == []


@by_name(ALL)
def test_22_decoder_rows_have_length_1_after_every_step(sparsity: Sparsity) -> None:
    x, _ = small_data()
    scaling = GivenActivations({SITE: x}).scaling(CoderConfig(SITE, sparsity, 24).site)
    learner = Learner(
        CoderConfig(SITE, sparsity, 24), (scaling, scaling), Settings(learning_rate=0.05), 10**9, half=False
    )
    for step in range(5):
        before = learner.weights["decoder"].detach().clone()
        learner.learn(x, x, (step + 1) / 10)
        norms = learner.weights["decoder"].norm(dim=1)
        assert torch.allclose(norms, torch.ones(24), atol=1e-6)
        grad = learner.weights.trained["decoder"].grad
        assert grad is not None
        along = (grad * before).sum(1).abs()
        assert bool((along <= 1e-6 * grad.norm(dim=1).clamp_min(1e-3)).all()), "a gradient along a row is left"
        assert not torch.equal(before, learner.weights["decoder"])


@by_name(ALL)
@pytest.mark.parametrize("half", [False, True])
def test_23_a_finished_coder_does_what_training_saw(sparsity: Sparsity, half: bool) -> None:
    """Means and lengths are folded in: the coder of activations as they are is that of scaled ones."""
    x, _ = small_data()
    settings = Settings(3, 64, learning_rate=0.01, dead_after=10**9, half=half)
    (trained,) = train_coders(GivenActivations({SITE: x}), [CoderConfig(SITE, sparsity, 24)], settings)
    assert trained.coder.training.get("half") == (half if sparsity in SELECTING else None)
    scaling = GivenActivations({SITE: x}).scaling(trained.coder.site)
    learner = Learner(CoderConfig(SITE, sparsity, 24), (scaling, scaling), settings, 10**9, half=half)
    for portion in GivenActivations({SITE: x}).portions(3, 0):
        for number, rows in enumerate(portion.batches(64, 0)):
            one = rows[trained.coder.site]
            learner.learn(one, one, (portion.number + (number + 1) / 4) / 3)
    encoder, bias = sparsity.encoder(learner.weights)
    indices, values = sparsity.selection(learner.weights).select(scaling.apply(x) @ encoder.T + bias)
    decoder = learner.weights["decoder"].detach()
    latents = torch.zeros(len(x), 24).scatter_add(1, indices, values)
    wanted = (latents @ decoder + learner.weights["decoder_bias"].detach()) * scaling.length + scaling.mean
    assert torch.allclose(trained.coder.reconstruct(x), wanted, atol=1e-5)
    code = trained.coder.encode(x)
    assert torch.allclose(code.dense(), latents * scaling.length, atol=1e-5)
    assert 0 < float(code.l0().float().mean()) < 24


def test_23_a_transcoder_with_a_skip_folds_both_scalings() -> None:
    x, _ = small_data()
    y = (x.square() @ draw(8, 5).float()) * 4 + 7
    activations = GivenActivations({"resid_mid.3": x, "mlp_out.3": y})
    asked = CoderConfig("resid_mid.3", TopK(4), 24, target="mlp_out.3", skip=True)
    trained = train_coders(activations, [asked, replace(asked, skip=False)], Settings(40, 64, learning_rate=0.01))
    missed = [float((y - one.coder.reconstruct(x)).square().sum() / (y - y.mean(0)).square().sum()) for one in trained]
    for one, fvu in zip(trained, missed, strict=True):
        assert one.coder.is_transcoder and fvu == pytest.approx(one.history[-1].fvu, abs=0.05)
    assert missed[0] < missed[1] < 1, "a linear path helps"


def test_gradients_of_a_threshold_are_those_of_the_kernel() -> None:
    """By hand: within half a bandwidth of it, the loss's slope there times -threshold / bandwidth."""
    pre = torch.tensor([[0.95, -0.04], [1.2, 0.03], [1.05, 9.0]], dtype=torch.float64, requires_grad=True)
    threshold = torch.tensor([1.0, 0.02], dtype=torch.float64, requires_grad=True)
    slope = torch.tensor([[2.0, 5.0], [3.0, 7.0], [11.0, 13.0]], dtype=torch.float64)
    latents = _Jump.apply(pre, threshold, 0.2)
    assert latents.tolist() == [[0.0, 0.0], [1.2, 0.03], [1.05, 9.0]]
    latents.backward(slope)
    assert pre.grad.tolist() == [[0.0, 0.0], [3.0, 7.0], [11.0, 13.0]]
    # Near 1.0 are .95 and 1.05; near .02 are -.04 and .03.
    assert threshold.grad.tolist() == pytest.approx([-(1.0 / 0.2) * (2 + 11), -(0.02 / 0.2) * (5 + 7)])


def test_what_is_far_below_a_threshold_does_not_move_it() -> None:
    """Not even a threshold that is nearer to 0 than the kernel reaches: what a ReLU makes 0 is not near it."""
    sparsity = JumpReLU(1, bandwidth=0.2, start=0.02)
    x = torch.tensor([[-3.0, 1.0], [-2.0, 1.0]], dtype=torch.float64)
    start = {"encoder": torch.eye(2), "encoder_bias": torch.zeros(2), "decoder": torch.eye(2)}
    start |= {"decoder_bias": torch.zeros(2), "log_threshold": torch.full((2,), 0.02).log()}
    weights = Weights({name: one.double() for name, one in start.items()}, {})
    sparsity.learn(weights, x, x, Moment(0, 1.0))
    assert not weights.trained["log_threshold"].grad.any()


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("epochs", [80, 180])
def test_jumprelu_comes_near_the_number_of_latents_that_was_asked_for(k: int, epochs: int) -> None:
    x, _ = small_data()
    (trained,) = train_coders(GivenActivations({SITE: x}), [CoderConfig(SITE, JumpReLU(k), 24)], Settings(epochs, 64))
    assert float(trained.coder.encode(x).l0().float().mean()) == pytest.approx(k, rel=0.2)


@by_name([BatchTopK(4), Matryoshka(4)])
def test_the_threshold_of_a_short_training_is_that_of_its_end(sparsity: Sparsity) -> None:
    """Forty-five steps: what an untrained coder kept is forgotten, and about k latents are active."""
    generator = torch.Generator().manual_seed(0)
    directions = unit_rows(torch.randn(64, 32, generator=generator))
    codes = torch.rand(2000, 64, generator=generator) * (torch.rand(2000, 64, generator=generator) < 0.08)
    settings = Settings(9, 400, learning_rate=0.01, half=False)
    x = codes @ directions
    (trained,) = train_coders(GivenActivations({SITE: x}), [CoderConfig(SITE, sparsity, 96)], settings)
    assert float(trained.coder.encode(x).l0().float().mean()) == pytest.approx(4, abs=0.5)


def test_the_threshold_waits_for_a_batch_that_has_k_latents() -> None:
    weights, x = weights_of(BatchTopK(3)), draw(50, 6, seed=3)
    weights.trained["encoder_bias"].data -= 100
    BatchTopK(3).learn(weights, x, x, Moment(0, 0.5))
    assert float(weights.kept["threshold"]) == float(weights.kept["updates"]) == 0
    weights.trained["encoder_bias"].data += 100
    code = BatchTopK(3).select(weights, x, Moment(1, 0.5))
    assert float(weights.kept["threshold"]) == float(code.values.min()) and float(weights.kept["updates"]) == 1


@by_name([TopK(2), BatchTopK(2), Matryoshka(2), L1(0.05), Gated(1.0)])
def test_27_directions_that_made_the_data_are_recovered(sparsity: Sparsity) -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(32, 32, generator=generator)).Q[:24]
    chosen = torch.rand(8000, 24, generator=generator).topk(2).indices
    codes = torch.zeros(8000, 24).scatter_(1, chosen, 1 + torch.rand(8000, 2, generator=generator))
    x = codes @ directions + 0.02 * torch.randn(8000, 32, generator=generator)
    asked = CoderConfig(SITE, sparsity, 32)
    (trained,) = train_coders(
        GivenActivations({SITE: x}),
        [asked],
        Settings(25, 500, learning_rate=0.003 if sparsity.name == "gated" else 0.01, seed=1),
    )
    best = (trained.coder.decoder @ directions.T).amax(0)
    assert float(best.mean()) > 0.95
    start = unit_rows(torch.randn(32, 32, generator=torch.Generator().manual_seed(1)))
    assert float((start @ directions.T).amax(0).mean()) < 0.6, "where it started is no recovery"


def test_19_topk_keeps_at_most_k_and_batch_topk_k_on_average() -> None:
    x = draw(50, 6, seed=3)
    code = TopK(3).select(weights_of(TopK(3)), x, Moment(0, 0.5))
    values = code.values.view(50, 3)
    pre = x @ weights_of(TopK(3))["encoder"].T + weights_of(TopK(3))["encoder_bias"]
    assert torch.equal((values > 0).sum(1), (pre > 0).sum(1).clamp_max(3))
    code = BatchTopK(3).select(weights_of(BatchTopK(3)), x, Moment(0, 0.5))
    assert len(code.values) == 3 * 50 and bool((code.values > 0).all()), "no entry is dragged along"
    assert len({int(one) for one in code.first.diff()}) > 1, "rows differ in a batch"


def test_what_bfloat16_names_float32_chooses_from_and_measures() -> None:
    """Of 4,608 latents the 32 that are trained are those that inference keeps; bfloat16's own are not."""
    generator = torch.Generator().manual_seed(0)
    encoder = unit_rows(torch.randn(4608, 96, generator=generator))
    x = torch.randn(600, 96, generator=generator)
    weights = Weights({"encoder": encoder, "encoder_bias": 0.01 * torch.randn(4608, generator=generator)}, {})
    pre = x @ encoder.T + weights["encoder_bias"].detach()
    wanted = KeepTop(32).select(pre)[0].sort().values
    code = TopK(32).select(weights, x, Moment(0, 0.5, half=True))
    indices = code.indices.view(600, 32)
    assert float((indices.sort().values == wanted).all(1).float().mean()) > 0.99
    assert torch.allclose(code.values.view(600, 32), pre.gather(1, indices).relu(), atol=1e-5)
    rough = (x.bfloat16() @ encoder.bfloat16().T).float() + weights["encoder_bias"].detach()
    alone = rough.topk(32).indices.sort().values
    assert float((alone == wanted).all(1).float().mean()) < 0.9, "bfloat16 alone would do: this shows nothing"


def test_the_penalty_does_not_jump_when_its_power_falls() -> None:
    sparsity = PAnneal(0.5, begin=0.3, falls=2)
    weights, x = weights_of(sparsity), draw(20, 6, seed=3)
    before = sparsity.learn(weights, x, x, Moment(0, 0.29)).loss
    assert float(weights.kept["power"]) == 1
    after = sparsity.learn(weights, x, x, Moment(0, 0.31)).loss
    assert float(weights.kept["power"]) < 1
    assert after.item() == pytest.approx(before.item(), rel=1e-6)


def test_a_gated_coder_is_a_jumprelu() -> None:
    weights, x = weights_of(Gated(0.1)), draw(200, 6, seed=3)
    encoder, bias = Gated(0.1).encoder(weights)
    selection = Gated(0.1).selection(weights)
    assert isinstance(selection, KeepAbove)
    indices, values = selection.select(x @ encoder.T + bias)
    found = torch.zeros(200, 12, dtype=torch.float64).scatter_add(1, indices, values)
    shared = x @ weights["encoder"].T
    wanted = (shared * weights["log_scale"].exp() + weights["encoder_bias"]).relu()
    wanted = wanted * (shared + weights["gate_bias"] > 0)
    assert torch.allclose(found, wanted.detach()) and 0.05 < float((found > 0).double().mean()) < 0.95


@by_name(ALL)
def test_28_half_a_training_and_its_resumption_are_the_whole_to_the_bit(sparsity: Sparsity, tmp_path) -> None:
    x, _ = small_data()
    activations, asked, settings = (
        GivenActivations({SITE: x}),
        [CoderConfig(SITE, sparsity, 24)],
        Settings(4, 64, learning_rate=0.01, half=False),
    )
    (whole,) = train_coders(activations, asked, settings)
    for interrupted_at in (0, 1, 6, 15):
        stop, kept = Stop(soon=interrupted_at == 0), tmp_path / f"{interrupted_at}.safetensors"

        def tick(done: int, _total: int, stop: Stop = stop, last: int = interrupted_at) -> None:
            stop.soon = done == last

        with pytest.raises(CancelledError, match="goes on from"):
            train_coders(activations, asked, settings, checkpoint=kept, progress=tick, stop=stop)
        done = []
        (again,) = train_coders(
            activations, asked, settings, checkpoint=kept, progress=lambda n, _, done=done: done.append(n)
        )
        assert done[0] == interrupted_at + 1, "it began anew"
        assert again.coder.fingerprint == whole.coder.fingerprint
        assert again.history == whole.history


def test_29_the_same_seed_gives_the_same_coder_and_another_one_does_not() -> None:
    x, _ = small_data()
    found = [
        train_coders(
            GivenActivations({SITE: x}), [CoderConfig(SITE, TopK(2), 24)], Settings(1, 64, seed=seed, half=False)
        )[0].coder
        for seed in (0, 0, 1)
    ]
    assert found[0].fingerprint == found[1].fingerprint != found[2].fingerprint


def test_several_coders_of_one_pass_are_each_alone() -> None:
    x, _ = small_data()
    activations = GivenActivations({SITE: x, "resid_post.4": x * 2 + 1})
    asked = [CoderConfig(SITE, TopK(2), 24), CoderConfig("resid_post.4", BatchTopK(3), 16)]
    settings = Settings(2, 64, half=False)
    together = train_coders(activations, asked, settings)
    for one, found in zip(asked, together, strict=True):
        alone = train_coders(activations, [one], settings)[0]
        assert alone.coder.fingerprint == found.coder.fingerprint


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TopK(0), "k=0"),
        (lambda: L1(0.0), "coefficient"),
        (lambda: JumpReLU(k=-1), "above 0"),
        (lambda: PAnneal(last=1.5), "power between 0 and 1"),
        (lambda: Matryoshka(prefixes=(0.5, 0.2, 1.0)), "growing"),
        (lambda: Settings(epochs=0), "epochs=0"),
        (lambda: Settings(warm_up=0.6, decay=0.6), "together"),
        (lambda: Settings(learning_rate=-1.0), "above 0"),
        (lambda: CoderConfig(SITE, TopK(1), 0), "n_latents=0"),
        (lambda: CoderConfig(SITE, TopK(1), 4, skip=True), "without a target"),
        (lambda: GivenActivations({SITE: torch.zeros(3)}), "tokens, width"),
        (lambda: GivenActivations({SITE: torch.tensor([[1.0], [float("nan")]])}), "token 1 of 2"),
        (lambda: GivenActivations({SITE: torch.ones(3, 2), "mlp_out.1": torch.ones(4, 2)}), "as many at each"),
        (lambda: train_coders(GivenActivations({SITE: torch.ones(4, 2)}), [CoderConfig(SITE, TopK(1), 4)]), "varies"),
        (
            lambda: train_coders(GivenActivations({SITE: torch.eye(4)}), [CoderConfig("mlp_out.2", TopK(1), 4)]),
            "were read",
        ),
        (lambda: train_coders(GivenActivations({SITE: torch.eye(4)}), []), "no coder"),
    ],
)
def test_what_cannot_be_trained_is_refused(make, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_a_checkpoint_of_another_training_is_refused(tmp_path) -> None:
    x, _ = small_data()
    activations, kept = GivenActivations({SITE: x}), tmp_path / "kept.safetensors"
    train_coders(activations, [CoderConfig(SITE, TopK(2), 24)], Settings(1, 64), checkpoint=kept)
    with pytest.raises(UsageError, match="other coders"):
        train_coders(activations, [CoderConfig(SITE, TopK(3), 24)], Settings(1, 64), checkpoint=kept)
    with pytest.raises(UsageError, match="other seed"):
        train_coders(activations, [CoderConfig(SITE, TopK(2), 24)], Settings(1, 64, seed=1), checkpoint=kept)
    with pytest.raises(UsageError, match="squares"):
        train_coders(
            GivenActivations({SITE: x * 2}), [CoderConfig(SITE, TopK(2), 24)], Settings(1, 64), checkpoint=kept
        )


def test_what_is_measured_of_a_processor_is_measured_once_for_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopwatch that says otherwise does not refuse a checkpoint; another `half` does, and a coder says its own."""
    x, _ = small_data()
    activations, asked = GivenActivations({SITE: x}), [CoderConfig(SITE, TopK(2), 24)]
    for quick in (True, False):
        kept, timed = tmp_path / str(quick), []

        def slower(*given: object, quick: bool = quick, timed: list[object] = timed) -> float:
            timed.append(given)
            return 0.2 if quick else 1.4

        monkeypatch.setattr(trainer, "times_slower", slower)
        stop = Stop(soon=True)
        with pytest.raises(CancelledError):
            train_coders(activations, asked, Settings(2, 64), checkpoint=kept, stop=stop)
        assert timed == [(torch.bfloat16, trainer.SHAPE)]
        monkeypatch.setattr(trainer, "times_slower", lambda *_, quick=quick: 1.4 if quick else 0.2)
        (found,) = train_coders(activations, asked, Settings(2, 64), checkpoint=kept)
        (pinned,) = train_coders(activations, asked, Settings(2, 64, half=quick))
        assert found.coder.fingerprint == pinned.coder.fingerprint
        assert found.coder.training["half"] is pinned.coder.training["half"] is quick
        train_coders(activations, asked, Settings(2, 64, half=quick), checkpoint=kept)
        with pytest.raises(UsageError, match="other half"):
            train_coders(activations, asked, Settings(2, 64, half=not quick), checkpoint=kept)


def test_what_a_coder_says_of_itself_is_a_mean_over_steps() -> None:
    """Forty-one steps: the last record is of one, which alone says little, and has the weight of one."""
    x, _ = small_data(41 * 64)
    (trained,) = train_coders(
        GivenActivations({SITE: x}), [CoderConfig(SITE, L1(0.02), 24)], Settings(1, 64, learning_rate=0.01)
    )
    before, last = trained.history[-2:]
    assert last.tokens - before.tokens == 64
    for name in ("fvu", "l0"):
        wanted = (20 * getattr(before, name) + getattr(last, name)) / 21
        assert trained.coder.training[name] == pytest.approx(wanted)
        assert getattr(last, name) != pytest.approx(wanted, rel=1e-6)


def test_a_sparsity_that_selects_no_number_of_latents_times_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = small_data()
    monkeypatch.setattr(trainer, "times_slower", lambda *_: pytest.fail("a stopwatch was looked at"))
    found = [
        train_coders(GivenActivations({SITE: x}), [CoderConfig(SITE, L1(0.02), 24)], Settings(1, 64, half=half))[0]
        for half in (None, True, False)
    ]
    assert len({one.coder.fingerprint for one in found}) == 1 and "half" not in found[0].coder.training


def test_rows_fewer_than_a_batch_are_one_batch() -> None:
    x, _ = small_data(40)
    (trained,) = train_coders(GivenActivations({SITE: x}), [CoderConfig(SITE, TopK(2), 24)], Settings(3, 64))
    assert trained.coder.training["n_tokens"] == 120


def test_a_scaling_is_that_of_a_naive_mean() -> None:
    x = draw(100, 4).float() * 3 + 50
    scaling = GivenActivations({SITE: x}).scaling(CoderConfig(SITE, TopK(1), 1).site)
    assert torch.allclose(scaling.mean, x.mean(0), atol=1e-5)
    assert scaling.length == pytest.approx(float((x - x.mean(0)).square().sum(1).mean()) ** 0.5, rel=1e-6)
    assert isinstance(scaling, Scaling)

"""What other libraries get wrong about sparse coders, each as a test that this one does not.

Every bug was found by reading the library named, some by running it. `ELSEWHERE` names the tests of those that
other files test.
"""

import ast
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bathyscope.sae import (
    L1,
    BatchTopK,
    CoderConfig,
    Gated,
    GivenActivations,
    JumpReLU,
    Matryoshka,
    PAnneal,
    Settings,
    Sparsity,
    TopK,
    train_coders,
)
from bathyscope.sae.training.dead import WEIGHT, revive
from bathyscope.sae.training.learner import Learner
from bathyscope.sae.training.sparsity import Moment
from bathyscope.sae.training.weights import Weights

SITE = "resid_post.3"
ELSEWHERE = {
    "sparsify: aux-k gives the encoder no gradient": "test_20_dead_latents_have_gradients_in_encoder_and_decoder_alike",
    "sparsify, SAELens: aux-k counts the decoder's bias twice": (
        "test_21_the_dead_reconstruct_what_is_left_without_a_bias"
    ),
    "SAELens: dead is counted in steps": "test_dead_is_counted_in_tokens",
    "SAELens: a decoder of sparsify is transposed": "test_reference_bug_saelens_transposes_the_decoder_of_sparsify",
    "SAELens: num_latents 0 is taken literally": "test_reference_bug_saelens_takes_num_latents_0_literally",
    "SAELens: normalize_decoder decides about b_dec": (
        "test_reference_bug_saelens_lets_normalize_decoder_decide_whether_b_dec_is_taken_from_inputs"
    ),
    "SAELens: explained variance is a mean over batches": "test_explained_variance_has_its_golden_values",
    "SAELens: BatchTopK of dictionary_learning has no threshold": (
        "test_reference_bug_saelens_reads_batchtopk_without_its_threshold"
    ),
    "dictionary_learning: the scaling is of another number of batches": "test_a_scaling_is_that_of_a_naive_mean",
    "dictionary_learning: what is resumed has lost its scaling": (
        "test_28_half_a_training_and_its_resumption_are_the_whole_to_the_bit"
    ),
    "OpenAI: what lies along rows is taken out after they were made unit": (
        "test_22_decoder_rows_have_length_1_after_every_step"
    ),
    "delphi: rules are tested on what they were made from": (
        "test_a_rule_is_measured_on_documents_that_it_was_not_chosen_on"
    ),
}


def weights(**tensors: Tensor) -> Weights:
    found = Weights({name: tensor.double() for name, tensor in tensors.items()}, {})
    for one in found.trained.values():
        one.grad = torch.zeros_like(one)
    return found


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("bug", ELSEWHERE)
def test_the_test_of_each_other_bug_is_there(bug: str) -> None:
    """A function that pytest runs, and that says what it expects."""
    found = [
        node
        for path in Path(__file__).parent.glob("test_sae_*.py")
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name == ELSEWHERE[bug]
    ]
    assert len(found) == 1 and expects(found[0]) and not is_skipped(found[0])


def expects(function: ast.FunctionDef) -> bool:
    """Whether it asserts something, expects an error, or calls a helper that does so by its name."""
    called = [ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)]
    asserts = any(isinstance(node, ast.Assert) for node in ast.walk(function))
    return asserts or any(name == "pytest.raises" or name.startswith("assert_") for name in called)


def is_skipped(function: ast.FunctionDef) -> bool:
    """Whether a mark or a call leaves it out, or takes its failure for granted."""
    marks = [ast.unparse(one) for one in function.decorator_list]
    called = [ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)]
    return any(word in one for one in [*marks, *called] for word in ("skip", "xfail"))


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("def test(): assert 1", (True, False)),
        ("def test():\n with pytest.raises(UsageError): f()", (True, False)),
        ("def test(): assert_same(1, 1)", (True, False)),
        ("def test(): pass", (False, False)),
        ("@pytest.mark.skip(reason='later')\ndef test(): assert 1", (True, True)),
        ("@pytest.mark.xfail\ndef test(): assert 1", (True, True)),
        ("def test():\n pytest.skip('later')\n assert 1", (True, True)),
    ],
)
def test_what_counts_as_a_test_of_a_bug(code: str, wanted: tuple[bool, bool]) -> None:
    (function,) = ast.parse(code).body
    assert isinstance(function, ast.FunctionDef)
    assert (expects(function), is_skipped(function)) == wanted


@pytest.mark.parametrize("sparsity", [TopK(4), BatchTopK(4), Matryoshka(4)], ids=lambda one: one.name)
def test_reference_bug_sparsify_trains_latents_that_were_chosen_and_are_negative(sparsity: Sparsity) -> None:
    """With k as large as the coder all latents are chosen; the two that are negative everywhere learn nothing."""
    x = draw(30, 3).abs()
    encoder = torch.cat([torch.eye(2, 3), -torch.eye(2, 3)])
    one = weights(encoder=encoder, encoder_bias=torch.zeros(4), decoder=draw(4, 3), decoder_bias=torch.zeros(3))
    one.kept = sparsity.kept()
    sparsity.learn(one, x, x, Moment(0, 0.5))
    for name in ("encoder", "encoder_bias", "decoder"):
        grad = one.trained[name].grad
        assert grad is not None and grad[:2].any() and not grad[2:].any(), name


def test_reference_bug_saelens_lets_dead_latents_be_negative() -> None:
    """What is negative everywhere reconstructs nothing, whatever its decoder, and the loss is that of nothing."""
    x, residual = draw(30, 3).abs(), draw(30, 3, seed=1)
    one = weights(encoder=-torch.eye(2, 3), encoder_bias=torch.zeros(2), decoder=draw(2, 3))
    loss = revive(one, x, residual, torch.arange(2), most=2, bias="encoder_bias")
    assert loss.item() == pytest.approx(WEIGHT * residual.square().sum().item() / 30)
    assert one.trained["decoder"].grad is not None and not one.trained["decoder"].grad.any()


@pytest.mark.parametrize(
    "sparsity", [TopK(2), BatchTopK(2), L1(0.05), PAnneal(0.05), JumpReLU(2), Gated(0.05)], ids=lambda one: one.name
)
def test_reference_bug_dictionary_learning_revives_a_copy(sparsity: Sparsity) -> None:
    """A latent that was put to silence, negative in every row, is active again; without revival it never is."""
    x = draw(512, 8).float()
    scaling = GivenActivations({SITE: x}).scaling(CoderConfig(SITE, sparsity, 16).site)
    heard = []
    for dead_after in (512, 10**9):
        learner = Learner(
            CoderConfig(SITE, sparsity, 16), (scaling, scaling), Settings(learning_rate=0.02), dead_after, half=False
        )
        with torch.no_grad():
            learner.weights[sparsity.bias][0] = -4.0
        steps = 0
        for step in range(300):
            learner.learn(x, x, (step + 1) / 600)
            steps += int(learner.silence.tokens[0]) == 0
        heard.append(steps)
    revived, left = heard
    assert revived > 0 and left == 0, heard


def test_reference_bug_dictionary_learning_divides_matryoshkas_loss_twice() -> None:
    """One prefix that is everything is BatchTopK: loss and gradients are its own, on one scale with the revival's."""
    found = []
    for sparsity in (BatchTopK(3), Matryoshka(3, prefixes=(1.0,))):
        one = weights(
            encoder=draw(6, 4, seed=1), encoder_bias=torch.zeros(6), decoder=draw(6, 4, seed=2), decoder_bias=draw(4)
        )
        one.kept = sparsity.kept()
        loss = sparsity.learn(one, draw(30, 4), draw(30, 4), Moment(0, 0.5)).loss
        found.append((loss, one.trained["encoder"].grad, one.trained["decoder"].grad))
    for plain, nested in zip(*found, strict=True):
        assert torch.allclose(plain, nested) and bool(plain.any())


def test_reference_bug_dictionary_learning_counts_l0_after_the_jump() -> None:
    """A latent just below its threshold is within the kernel: the penalty on L0 moves that threshold."""
    sparsity = JumpReLU(k=0.5, coefficient=1.0, bandwidth=0.2, start=1.0)
    x = torch.tensor([[0.95, 3.0], [0.97, 3.0]], dtype=torch.float64)
    one = weights(
        encoder=torch.eye(2),
        encoder_bias=torch.zeros(2),
        decoder=torch.zeros(2, 2),
        decoder_bias=torch.zeros(2),
        log_threshold=torch.zeros(2),
    )
    sparsity.learn(one, x, x, Moment(0, 1.0))
    grad = one.trained["log_threshold"].grad
    assert grad is not None
    # L0 is 1 (the second latent), so the penalty's slope is 2 (1/k - 1) / k; the kernel is 1/bandwidth in both rows.
    assert grad.tolist() == pytest.approx([-2 * (1 / 0.5 - 1) / 0.5 / 0.2, 0.0])


def test_reference_bug_dictionary_learning_shuffles_the_whole_buffer_for_each_batch() -> None:
    """One order an epoch: every row comes once, and the next epoch has another order."""
    x = torch.arange(100.0)[:, None] + 1
    (site,) = GivenActivations({SITE: x}).sites
    orders = [
        torch.cat([batch[site][:, 0] for batch in portion.batches(10, seed=0)]).tolist()
        for portion in GivenActivations({SITE: x}).portions(2, seed=0)
    ]
    assert all(sorted(order) == x[:, 0].tolist() for order in orders)
    assert orders[0] != orders[1]


def test_reference_bug_dictionary_learning_starts_at_a_median_that_divides_by_zero() -> None:
    """Most rows are the very same point, which is where a coder starts; everything stays finite."""
    x = torch.cat([torch.ones(200, 4), draw(56, 4).float()])
    (trained,) = train_coders(GivenActivations({SITE: x}), [CoderConfig(SITE, TopK(2), 8)], Settings(2, 64))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in trained.coder.tensors().values())


def test_reference_bug_saelens_refuses_its_own_defaults() -> None:
    """Nothing but what has no default is said: activations, a place, a width."""
    (trained,) = train_coders(GivenActivations({SITE: draw(300, 8).float()}), [CoderConfig(SITE, TopK(), 64)])
    assert trained.history[-1].tokens == 300

"""Sparse probing and absorption on latents whose part in a label is known by construction."""

from dataclasses import replace

import numpy
import pytest
import torch
from torch import Tensor

from bathyscope.errors import UsageError
from bathyscope.probing import Logistic
from bathyscope.sae import KeepAbove, SparseCoder, Splice, absorption, sparse_probing
from bathyscope.sae.places import CLASSES
from bathyscope.sae.probing_latents import FewLatents, _latents, _shuffled, by_difference
from bathyscope.sae.reconstruction import Tally
from bathyscope.sites import Site
from coders_for_tests import random_coder

pytest.importorskip("sklearn")

N, WIDTH = 240, 20


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rows_of_identity(width: int = WIDTH) -> SparseCoder:
    """A latent for each coordinate, active above 0.5."""
    nothing = torch.zeros(width)
    return SparseCoder(torch.eye(width), nothing, torch.eye(width), nothing, KeepAbove(torch.tensor(0.5)))


def test_one_latent_that_is_the_label_tells_it_and_others_do_not():
    has = torch.arange(N) % 2 == 0
    x = noise(N, WIDTH)
    x[:, 7] = 0.1 * noise(N, seed=1) + 5.0 * has
    labels = ["yes" if one else "no" for one in has]
    found = sparse_probing(rows_of_identity(), x, labels, k=(1, 3))
    assert found.by_k == {1: 1.0, 3: 1.0} and found.dense == 1.0
    assert found.majority == 0.5 and found.n == N
    without = x.clone()
    without[:, 7] = noise(N, seed=2)
    chance = sparse_probing(rows_of_identity(), without, labels, k=(1, 3))
    for one in (*chance.by_k.values(), *chance.random.values(), chance.dense):
        assert abs(one - 0.5) < 0.12


def test_a_label_of_two_latents_needs_two():
    """Three kinds, each told by a latent that is active for it alone, but for the third."""
    kinds = torch.arange(N) % 3
    x = noise(N, WIDTH)
    for kind in (0, 1):
        x[:, kind] = 3.0 * (kinds == kind)
    found = sparse_probing(rows_of_identity(), x, [f"kind {one}" for one in kinds], k=(1, 2))
    assert found.by_k[1] == pytest.approx(2 / 3, abs=0.02) and found.by_k[2] == 1.0
    assert found.random[2] < 0.9


def test_latents_are_chosen_on_other_items_than_they_are_tested_on():
    """With more latents than items one of them fits any labels by chance, and tells nothing of others."""
    x = noise(40, 3000)
    labels = ["yes" if one else "no" for one in noise(40, seed=3) > 0]
    latents = rows_of_identity(3000).encode(x).dense().double().numpy()
    numbers = numpy.array([label == "yes" for label in labels], numpy.intp)
    best = by_difference(latents, numbers)[:5]
    leaked = Logistic().fit(latents[:, best], numbers).probabilities(latents[:, best], 2).argmax(1) == numbers
    assert leaked.mean() > 0.9
    assert sparse_probing(rows_of_identity(3000), x, labels, k=(5,)).by_k[5] < 0.75


def test_subjects_are_never_on_both_sides():
    """A latent that knows subjects by heart tells labels of items, and none of new subjects."""
    subjects = [index % 24 for index in range(N)]
    labels = ["yes" if one else "no" for one in noise(24, seed=5) > 0]
    x = torch.nn.functional.one_hot(torch.tensor(subjects), 24).float() * 3 + 0.1 * noise(N, 24)
    arguments = rows_of_identity(24), x, [labels[one] for one in subjects]
    known, new = sparse_probing(*arguments, k=(24,)), sparse_probing(*arguments, k=(24,), subjects=subjects)
    assert known.by_k[24] > 0.95 and new.by_k[24] < 0.8


def absorbing(share: float) -> tuple[SparseCoder, Tensor, list[bool]]:
    """A label whose own latent is silent in a share of items, where a latent for something narrower is active.

    The narrower latent writes the label's direction and one of its own, as absorption has it.
    """
    label, narrow, other = torch.eye(WIDTH)[:3]
    both = (label + narrow) / 2**0.5
    decoder = torch.stack([label, both, other])
    has = torch.arange(N) % 2 == 0
    taken = has & (torch.rand(N, generator=torch.Generator().manual_seed(0)) < share)
    x = 4.0 * (has & ~taken)[:, None] * label + 6.0 * taken[:, None] * both
    x = x + 3.0 * (noise(N, seed=4) > 0)[:, None] * other + 0.05 * noise(N, WIDTH, seed=6)
    encoder = torch.stack([label - narrow, narrow, other])
    coder = SparseCoder(encoder, torch.zeros(3), decoder, torch.zeros(WIDTH), KeepAbove(torch.tensor([1.0, 1.0, 1.0])))
    return coder, x, has.tolist()


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_absorption_is_the_share_that_was_built_in(share: float):
    coder, x, has = absorbing(share)
    found = absorption(coder, x, has)
    built = float((coder.encode(x).dense()[:, 1] > 0).double().mean() * 2)
    assert found.n == N // 2 and set(found.latents) == {0}
    assert found.silent == found.absorbed == pytest.approx(built, abs=1e-9)
    assert built == pytest.approx(share, abs=0.1)


def test_a_latent_that_is_silent_without_a_stand_in_is_not_absorbed():
    coder, x, has = absorbing(0.25)
    deaf = SparseCoder(
        coder.encoder, torch.tensor([0.0, -100.0, 0.0]), coder.decoder, coder.decoder_bias, coder.selection
    )
    found = absorption(deaf, x, has)
    assert found.silent > 0.15 and found.absorbed == 0


def test_the_control_says_what_chance_gives():
    """Many latents that are always active: some are near any direction, so that the measure says nothing."""
    coder, x, has = absorbing(0.25)
    crowd = noise(2000, WIDTH, seed=8)
    loud = SparseCoder(
        torch.cat([coder.encoder, torch.zeros(2000, WIDTH)]),
        torch.cat([torch.zeros(3), torch.full((2000,), 2.0)]),
        torch.cat([coder.decoder, crowd]),
        torch.zeros(WIDTH),
        KeepAbove(torch.tensor(1.0)),
    )
    found = absorption(loud, x, has)
    assert found.control == found.silent == found.absorbed > 0.15
    # With no crowd there is but the one that takes the label's place: some directions are near it, by what it is for.
    alone = absorption(coder, x, has, cosine=0.5)
    assert 0 < alone.control < alone.absorbed


def test_the_control_says_what_chance_gives_at_a_models_width():
    """In 512 dimensions no random direction is near a decoder row; but activations vary along few of them.

    All latents but the label's stand for those directions and are always active: so one is active near the direction
    of any labels, wherever the label's own is silent.
    """
    width, n_topics = 512, 6
    label, *topics = torch.linalg.qr(noise(width, 1 + n_topics, seed=3)).Q.T
    has = torch.arange(N) % 2 == 0
    weak = torch.rand(N, generator=torch.Generator().manual_seed(0)) < 0.3
    x = (has * torch.where(weak, 1.5, 4.0))[:, None] * label + noise(N, n_topics, seed=4).abs() @ torch.stack(
        topics
    ) * 3
    rows = torch.stack([label, *topics, *(-one for one in topics)])
    bias = torch.tensor([-2.0] + [20.0] * (2 * n_topics))
    coder = SparseCoder(rows, bias, rows, torch.zeros(width), KeepAbove(torch.tensor(0.0)))
    found = absorption(coder, x, has.tolist())
    assert set(found.latents) == {0} and found.silent > 0.2
    assert found.control == pytest.approx(found.silent, abs=0.02), "every direction of shuffled labels is near a topic"
    random = torch.randn(50, width, generator=torch.Generator().manual_seed(1))
    cosines = torch.nn.functional.cosine_similarity(random[:, None], rows[None], dim=2)
    assert float(cosines.max()) < 0.25, "a random direction would find nothing"


def test_shuffled_labels_say_nothing_of_the_label():
    numbers = numpy.array([0] * 30 + [1] * 50, numpy.intp)
    for seed in range(5):
        found = _shuffled(numbers, numpy.random.default_rng(seed))
        assert found[numbers == 0].sum() == 15 and found[numbers == 1].sum() == 25
    assert sorted(_shuffled(numpy.array([0, 1], numpy.intp), numpy.random.default_rng(0)).tolist()) == [0, 1]


def test_the_random_control_draws_latents_that_are_active():
    """Three of forty are; five are asked for, and what is silent everywhere is no control of anything."""
    latents = numpy.zeros((30, 40))
    latents[:, [4, 17, 33]] = noise(30, 3).abs().numpy()
    labels = numpy.arange(30) % 2
    for seed in range(4):
        for k, wanted in ((2, 2), (5, 3)):
            chosen = FewLatents(k, seed).fit(latents, labels).chosen
            assert len(set(chosen)) == len(chosen) == wanted and set(chosen) <= {4, 17, 33}
    assert len(FewLatents(2, 0).fit(numpy.zeros((30, 40)), labels).chosen) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_code_is_computed_in_the_finer_dtype(dtype: torch.dtype):
    """One rule for encoding, reconstruction, splices, tallies and probing, whatever the inputs are in."""
    coder = random_coder(WIDTH, site=Site("embed"), target=Site("embed"))
    x = noise(N, WIDTH).to(dtype)
    finer = torch.promote_types(dtype, torch.float32)
    code, wanted = coder.encode(x), coder.encode(x.to(finer))
    assert code.values.dtype == coder.reconstruct(x).dtype == finer
    assert torch.equal(code.dense(), wanted.dense())
    assert torch.equal(Splice(coder, error="drop").apply(x), coder.reconstruct(x.to(finer)).to(dtype))
    assert numpy.array_equal(_latents(coder, x), wanted.dense().double().numpy())
    tally = Tally(coder)
    tally.add(x, x, torch.full((N,), CLASSES.index("first half")))
    assert tally.used.error == float((x.double() - coder.reconstruct(x.to(finer)).double()).square().sum())


def test_what_cannot_be_probed_is_refused():
    coder, x, has = absorbing(0.25)
    with pytest.raises(UsageError, match="one label an item"):
        sparse_probing(coder, x, ["yes"] * N)
    with pytest.raises(UsageError, match="one label an item"):
        sparse_probing(coder, x, ["yes", "no"])
    with pytest.raises(UsageError, match=r"from 1 to 3"):
        sparse_probing(coder, x, ["yes", "no"] * (N // 2), k=(4,))
    with pytest.raises(UsageError, match="with and without"):
        absorption(coder, x, [True] * N)
    with pytest.raises(UsageError, match="transcoder"):
        absorption(replace(coder, site=Site("resid_mid", 1), target=Site("mlp_out", 1)), x, has)

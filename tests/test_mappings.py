"""Mappings: what they make of a representation, what they refuse, and the file of a fitted one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from bathyscope import Source, Target, patchscope, wrap
from bathyscope.errors import StorageError, UsageError
from bathyscope.mappings import Affine, Fit, Identity, NormMatch, Scale, Term, mapping_of, model_identity
from bathyscope.mappings.affine import FORMAT, HEADER
from bathyscope.model import Model
from bathyscope.prompts import custom
from bathyscope.readouts import Generate
from bathyscope.sites import Site, residual_site
from families import ALL, D_MODEL
from tokenizers_for_tests import tiny_tokenizer

PAIR = Site("resid_post", 1), Site("resid_post", 2)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fit_of(model: Model, **facts) -> Fit:
    return Fit("least-squares", model_identity(model), model_identity(model), **facts)


def affine_of(model: Model) -> Affine:
    """One term of each form, with all that a fit may tell."""
    terms = {
        PAIR: Term(normal(D_MODEL, D_MODEL), normal(D_MODEL, seed=1)),
        (Site("embed"), Site("resid_post", 0)): Term(normal(D_MODEL, D_MODEL, seed=2)),
        (Site("z", 1, 3), Site("z", 2, 0)): Term(torch.tensor(0.5), normal(16, seed=3)),
    }
    told = {"held_out": {"resid_post.1>resid_post.2": {"error": 0.1}}, "options": {"lambda": 0.01, "name": "ü"}}
    return Affine(terms, fit_of(model, text={"name": "words"}, n_samples=7, **told))


# What is made of a representation


@pytest.mark.parametrize("bias", [None, normal(3, seed=1)])
def test_a_term_is_a_matrix_or_a_factor_and_a_bias(bias: Tensor | None):
    rows, matrix = normal(4, 5), normal(5, 3, seed=2)
    shift = [0.0] * 3 if bias is None else bias.tolist()
    by_hand = [
        [sum(row[i] * matrix[i, j].item() for i in range(5)) + shift[j] for j in range(3)] for row in rows.tolist()
    ]
    torch.testing.assert_close(Term(matrix, bias).apply(rows), torch.tensor(by_hand))
    by_hand = [[-2 * row[j] + shift[j] for j in range(3)] for row in rows.tolist()]
    torch.testing.assert_close(Term(torch.tensor(-2.0), bias).apply(rows[:, :3]), torch.tensor(by_hand))


def test_a_term_counts_in_the_finer_of_two_dtypes():
    rows, term = normal(2, 3), Term(normal(3, 3, seed=1), normal(3, seed=2))
    assert term.apply(rows.bfloat16()).dtype == torch.float32
    assert Term(term.weight.bfloat16(), term.bias.bfloat16()).apply(rows).dtype == torch.float32
    assert Term(term.weight.double(), term.bias.double()).apply(rows).dtype == torch.float64
    assert Term(term.weight.double()).apply(rows.double()).equal(rows.double() @ term.weight.double())


@pytest.mark.parametrize(
    ("weight", "bias"),
    [
        (torch.ones(3), None),
        (torch.ones(1, 3, 3), None),
        (torch.eye(3), torch.ones(1)),
        (torch.eye(3), torch.ones(4)),
        (torch.eye(3), torch.ones(1, 3)),
        (torch.tensor(1.0), torch.tensor(1.0)),
        (torch.full((3, 3), torch.nan), None),
        (torch.eye(3), torch.tensor([0.0, torch.inf, 0.0])),
    ],
)
def test_a_term_of_another_shape_or_without_numbers_is_refused(weight: Tensor, bias: Tensor | None):
    with pytest.raises(UsageError, match="shape|not finite"):
        Term(weight, bias)


def test_the_unit_matrix_without_bias_is_the_identity(model: Model):
    unit = Term(torch.eye(D_MODEL), torch.zeros(D_MODEL))
    for term in (unit, Term(torch.tensor(1.0))):
        same = Affine({(residual_site(1),) * 2: term}, fit_of(model))
        source, target = Source(model, "The cat of the keeper", layer=1), Target(prompt=custom("The largest city in x"))
        mapped, plain = (
            patchscope(source, target, mapping=mapping, readout=Generate(3)).cells[0] for mapping in (same, Identity())
        )
        assert (mapped.ids, mapped.text) == (plain.ids, plain.text)


def test_a_term_is_found_by_its_pair_of_sites(gpt2: Model):
    mapping = affine_of(gpt2)
    rows = normal(2, D_MODEL, seed=9)
    assert mapping.apply(rows, *PAIR).equal(mapping.terms[PAIR].apply(rows))
    with pytest.raises(UsageError, match=r"resid_post\.2 to resid_post\.1 is needed.*resid_post\.1 to resid_post\.2"):
        mapping.apply(rows, *reversed(PAIR))
    many = Affine({(Site("embed"), residual_site(layer)): Term(torch.tensor(1.0)) for layer in range(9)}, mapping.fit)
    with pytest.raises(UsageError, match="and 3 more"):
        many.term(*PAIR)


# Which models it is for


def test_a_mapping_is_for_the_very_weights_that_it_was_fitted_on(gpt2: Model):
    mapping = affine_of(gpt2)
    mapping.check(wrap(ALL["gpt2"].build(), tiny_tokenizer(), name="another name"), gpt2, {PAIR})
    for other in (ALL["gpt2"].build(seed=1), ALL["gpt2"].build(dtype=torch.float64)):
        model = wrap(other, tiny_tokenizer(), name="other")
        for models, role in (((model, gpt2), "source"), ((gpt2, model), "target")):
            with pytest.raises(UsageError, match=f"'gpt2' as its {role}, and 'other'"):
                mapping.check(*models, {PAIR})
    with pytest.raises(UsageError, match="is needed"):
        mapping.check(gpt2, gpt2, {PAIR, (PAIR[1], PAIR[0])})


# Equal and not


def test_mappings_are_equal_when_their_terms_are_to_the_last_bit(gpt2: Model):
    mapping = affine_of(gpt2)
    again = affine_of(gpt2)
    assert again == mapping
    assert hash(again) == hash(mapping)
    assert replace(mapping, fit=Fit("another", {}, {})) == mapping
    term = mapping.terms[PAIR]
    nudged = term.weight.clone()
    nudged[3, 4] = torch.nextafter(nudged[3, 4], torch.tensor(torch.inf))
    others = [
        {PAIR: replace(term, weight=nudged)},
        {PAIR: replace(term, weight=term.weight.double())},
        {PAIR: replace(term, bias=None)},
        {(PAIR[1], PAIR[0]): term},
        {PAIR: term, (PAIR[1], PAIR[0]): term},
    ]
    alone = Affine({PAIR: term}, mapping.fit)
    found = {Affine(terms, mapping.fit).fingerprint() for terms in others}
    assert len(found | {alone.fingerprint()}) == len(others) + 1
    assert alone != Identity()


def test_a_fingerprint_does_not_depend_on_order_or_layout(gpt2: Model):
    mapping = affine_of(gpt2)
    turned = {pair: mapping.terms[pair] for pair in reversed(list(mapping.terms))}
    laid_out = {PAIR: replace(turned[PAIR], weight=turned[PAIR].weight.T.contiguous().T)}
    assert not laid_out[PAIR].weight.is_contiguous()
    assert Affine(turned | laid_out, mapping.fit) == mapping


# Its file


def test_what_is_loaded_is_what_was_saved(gpt2: Model, tmp_path: Path):
    mapping = affine_of(gpt2)
    path = mapping.save(tmp_path / "map.safetensors")
    again = Affine.load(path)
    assert again == mapping
    assert again.fit == mapping.fit
    assert again.path == path
    assert again.terms[Site("embed"), Site("resid_post", 0)].bias is None
    again.check(gpt2, gpt2, set(mapping.terms))
    assert again.save(tmp_path / "twice.safetensors").read_bytes() == path.read_bytes()


def test_terms_that_share_memory_are_saved(gpt2: Model, tmp_path: Path):
    shared = Term(normal(D_MODEL, D_MODEL), normal(D_MODEL))
    mapping = Affine({PAIR: shared, (PAIR[1], PAIR[1]): shared}, fit_of(gpt2))
    assert Affine.load(mapping.save(tmp_path / "map.safetensors")) == mapping


def test_a_file_that_cannot_be_written_leaves_the_old_one(gpt2: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mapping = affine_of(gpt2)
    with pytest.raises(StorageError, match="could not be written"):
        mapping.save(tmp_path / "nowhere" / "map.safetensors")
    before = mapping.save(tmp_path / "map.safetensors").read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="room"):
        Affine({PAIR: Term(torch.tensor(1.0))}, mapping.fit).save(tmp_path / "map.safetensors")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def altered(path: Path, **header) -> None:
    """Write a mapping's file again with something else in its header."""
    with safe_open(path, "pt") as file:
        kept = json.loads(file.metadata()[HEADER])
    save_file(load_file(path), path, {HEADER: json.dumps(kept | header)})


def holding(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a mapping's file again with other tensors."""
    with safe_open(path, "pt") as file:
        save_file(tensors, path, file.metadata())


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


WEIGHT = "resid_post.1>resid_post.2.weight"
DAMAGE = {
    "missing": (Path.unlink, "No such file"),
    "empty": (lambda path: path.write_bytes(b""), "SafetensorError"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "SafetensorError"),
    "text": (lambda path: path.write_text("a mapping"), "SafetensorError"),
    "one bit": (flip, "not those that were written"),
    "foreign": (lambda path: save_file({WEIGHT: torch.eye(3)}, path), "KeyError"),
    "another header": (lambda path: save_file({WEIGHT: torch.eye(3)}, path, {HEADER: '"a text"'}), "AttributeError"),
    "header cut": (lambda path: save_file({WEIGHT: torch.eye(3)}, path, {HEADER: "{"}), "JSONDecodeError"),
    "newer": (lambda path: altered(path, format=FORMAT + 1), "written by a newer bathyscope"),
    "another field": (lambda path: altered(path, colour="blue"), "colour"),
    "other numbers": (lambda path: holding(path, {WEIGHT: torch.eye(3)}), "not those that were written"),
    "no weight": (lambda path: holding(path, {"embed>embed.bias": torch.ones(3)}), "no weights"),
    "no site": (
        lambda path: holding(path, {"resid_pots.1>embed.weight": torch.eye(3)}),
        "'resid_pots.1' is not a site",
    ),
    "one site": (lambda path: holding(path, {"resid_post.2.weight": torch.eye(3)}), "not enough values"),
    "not finite": (lambda path: holding(path, {WEIGHT: torch.full((3, 3), torch.nan)}), "not finite"),
    "a vector": (lambda path: holding(path, {WEIGHT: torch.ones(3)}), "of shape"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_is_no_mapping_is_refused(damage: str, gpt2: Model, tmp_path: Path):
    path = affine_of(gpt2).save(tmp_path / "map.safetensors")
    do, said = DAMAGE[damage]
    do(path)
    with pytest.raises(StorageError, match=said) as raised:
        Affine.load(path)
    assert str(path) in raised.value.given
    assert raised.value.remedy


# From a run's spec


@pytest.mark.parametrize("mapping", [Identity(), Scale(2.5), NormMatch()])
def test_a_mapping_without_data_is_its_spec(mapping):
    assert mapping_of(json.loads(json.dumps(mapping.spec()))) == mapping


def test_a_fitted_mapping_is_read_again_from_its_file(gpt2: Model, tmp_path: Path):
    mapping = affine_of(gpt2)
    path = mapping.save(tmp_path / "map.safetensors")
    spec = json.loads(json.dumps({**mapping.spec(), "mapping_file": str(path)}))
    assert mapping_of(spec) == mapping
    Affine({PAIR: Term(torch.tensor(1.0))}, mapping.fit).save(path)
    with pytest.raises(UsageError, match="another mapping than the run used"):
        mapping_of(spec)
    with pytest.raises(UsageError, match="a least-squares that was in memory only"):
        mapping_of(mapping.spec())
    with pytest.raises(UsageError, match="no mapping is called 'Magic'"):
        mapping_of({"mapping": "Magic"})

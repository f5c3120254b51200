"""Lenses as what they are defined to be: exact identities, on every family."""

import pytest
import torch

from bathyscope import Result, Source, Target, capture, differentiate, patchscope, run
from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import SiteError, UsageError
from bathyscope.interventions import Replace, Write
from bathyscope.lenses import (
    attribute_lens,
    backward_lens,
    bare_placeholder,
    embedding_space,
    jacobian_lens,
    linear_shortcut,
    logit_lens,
    selfie,
    token_identity,
    tuned_lens,
)
from bathyscope.mappings import Affine, Fit, Term, model_identity
from bathyscope.model import Model
from bathyscope.prompts import InspectionPrompt, prepare
from bathyscope.readouts import Generate, NextToken
from bathyscope.sites import Site, residual_site

TEXT = "the cat sat on it"


def shares(logits: torch.Tensor) -> list[float]:
    return torch.softmax(logits.double(), -1).topk(5).values.tolist()


def mapping(model: Model, method: str, terms: dict[tuple[int, int], Term]) -> Affine:
    identity = model_identity(model)
    return Affine(
        {(residual_site(a), residual_site(b)): term for (a, b), term in terms.items()}, Fit(method, identity, identity)
    )


def unchanged(model: Model, method: str, to: int | None = None, weight: torch.Tensor | None = None) -> Affine:
    last = model.n_layers - 1 if to is None else to
    factor = torch.tensor(1.0) if weight is None else weight
    return mapping(model, method, {(layer, last): Term(factor) for layer in range(-1, last + 1)})


def test_the_logit_lens_at_the_last_block_is_the_model(model: Model):
    logits = run(model, TEXT).logits[0]
    found = logit_lens(model, TEXT, layer=model.n_layers - 1)
    for position, one in enumerate(logits):
        assert [one.probability for one in found.at(layer=model.n_layers - 1, position=position).candidates] == (
            pytest.approx(shares(one), abs=1e-5)
        )


def test_the_logit_lens_is_a_write_behind_the_last_block_of_any_prompt(model: Model):
    found = logit_lens(model, TEXT, position=[1, 3])
    assert found.plan["target_passes"] == found.plan["batch_passes"] == 0
    for target in ("hello x", "dog dog dog x"):
        long_way = patchscope(
            Source(model, TEXT, [1, 3]),
            Target(prompt=target, layer=model.n_layers - 1),
            readout=NextToken(5),
        )
        assert long_way.plan["target_passes"] == 1  # the control needs it
        for cell, other in zip(found.cells, long_way.cells, strict=True):
            assert (cell.layer, cell.position) == (other.source_layer, other.source_position)
            assert [one.id for one in cell.candidates] == [one.id for one in other.candidates]


def test_without_a_hook_it_is_the_pass_with_one(model: Model):
    """The tail alone against the whole target run, on the model's own residuals."""
    found = logit_lens(model, TEXT, position="last")
    reads = [residual_site(layer) for layer in range(-1, model.n_layers)]
    values = capture(model, TEXT, reads)
    for layer, site in enumerate(reads, -1):
        write = Write(Site("resid_post", model.n_layers - 1), Replace(values[site][0][-1]), -1)
        logits = run(model, "hello dog", writes=[write]).logits[0][-1]
        cell = found.at(layer=layer, position=max(found.positions))
        assert [one.probability for one in cell.candidates] == pytest.approx(shares(logits), abs=1e-5)


def test_an_untrained_translator_is_the_logit_lens_to_the_last_bit(model: Model):
    plain = logit_lens(model, TEXT)
    eye = torch.eye(model.d_model)
    assert tuned_lens(model, TEXT, unchanged(model, "tuned-lens")).cells == plain.cells
    assert tuned_lens(model, TEXT, unchanged(model, "tuned-lens", weight=eye)).cells == plain.cells
    assert jacobian_lens(model, TEXT, unchanged(model, "jacobian-lens", weight=eye)).cells == plain.cells


def test_a_translator_is_applied_before_the_norm(model: Model):
    torch.manual_seed(0)
    weight, bias = torch.randn(model.d_model, model.d_model) / 7, torch.randn(model.d_model)
    lens = mapping(model, "tuned-lens", {(1, model.n_layers - 1): Term(weight, bias)})
    found = tuned_lens(model, TEXT, lens, layer=1)
    hidden = capture(model, TEXT, ["resid_post.1"])["resid_post.1"][0]
    with torch.no_grad():
        logits = model.unembed(hidden @ weight + bias)
    for position, one in enumerate(logits):
        cell = found.at(layer=1, position=position)
        assert [one.probability for one in cell.candidates] == pytest.approx(shares(one), abs=1e-5)


def test_a_shortcut_to_where_it_is_read_is_the_model_itself(model: Model):
    """Writing a representation back where it came from, in its own context, changes nothing."""
    logits = run(model, TEXT).logits[0]
    lens = mapping(model, "linear", {(1, 1): Term(torch.eye(model.d_model)), (0, 1): Term(torch.tensor(1.0))})
    found = linear_shortcut(model, TEXT, lens, to=1, layer="0,1")
    for position, one in enumerate(logits):
        cell = found.at(layer=1, position=position)
        assert [one.probability for one in cell.candidates] == pytest.approx(shares(one), abs=1e-5)
    jumped = run(
        model,
        TEXT,
        writes=[Write("resid_post.1", Replace(capture(model, TEXT, ["resid_post.0"])["resid_post.0"][0][3]), 3)],
    ).logits[0][3]
    assert [one.probability for one in found.at(layer=0, position=3).candidates] == pytest.approx(
        shares(jumped), abs=1e-5
    )


def test_prompts_that_make_the_model_speak_are_patchscopes(model: Model):
    for lens, prompt, placeholder in (
        (token_identity, "cat -> cat\n1135 -> 1135\nhello -> hello\n?", "?"),
        (bare_placeholder, "?", "?"),
    ):
        found = lens(model, TEXT, position="last", layer="embed,2")
        inspection = prepare(model, InspectionPrompt(prompt, placeholder))
        for cell in found.cells:
            site = residual_site(cell.layer)
            value = capture(model, TEXT, [site])[site][0][-1]
            logits = run(model, prompt, writes=[Write(site, Replace(value), inspection.positions)]).logits[0][-1]
            assert [one.probability for one in cell.candidates] == pytest.approx(shares(logits), abs=1e-4)


def test_selfie_is_a_patchscope_at_every_placeholder(model: Model):
    prompt = InspectionPrompt("_ _ _", "_", every=True, reply="it")
    found = selfie(model, TEXT, prompt=prompt, layer="1,3", position="last", new_tokens=4)
    same = patchscope(Source(model, TEXT, layer="1,3"), Target(prompt=prompt, layer=0), readout=Generate(4))
    assert [cell.text for cell in found.cells] == [cell.text for cell in same.cells]
    assert len(same.cells[0].target_positions) >= 3
    assert all(len(cell.relevancy) == len(other.ids) for cell, other in zip(found.cells, same.cells, strict=True))
    assert any(max(cell.relevancy, default=0) > 1e-6 for cell in found.cells)


def test_a_cancel_of_selfie_is_seen_while_relevancy_is_measured(llama: Model, monkeypatch: pytest.MonkeyPatch):
    from bathyscope.lenses import interpretation

    stop, measured = Stop(), []

    def ran(*args, **options):
        measured.append(args)
        stop.now = True
        return run(*args, **options)

    monkeypatch.setattr(interpretation, "run", ran)
    prompt = InspectionPrompt("_ _", "_", every=True)
    with pytest.raises(CancelledError):
        selfie(llama, TEXT, prompt=prompt, layer="all", position="all", new_tokens=2, stop=stop)
    assert len(measured) == 2, "the first texts, with the write and without it"


def test_relevancy_is_nothing_where_the_prompts_own_value_is_written(llama: Model):
    """One placeholder, read from the prompt itself where it is written."""
    text = "hello cat _ dog"
    found = selfie(llama, text, prompt=InspectionPrompt(text, "_"), layer=0, position="_", new_tokens=4)
    assert found.cells[0].relevancy == pytest.approx([0.0] * len(found.cells[0].relevancy), abs=1e-6)
    assert found.cells[0].relevancy


def test_a_units_direction_is_what_it_adds(family, model: Model):
    layer = 1
    try:
        site = model.site(f"mlp_post.{layer}")
    except SiteError:
        site = None
    for name in filter(None, (site, Site("z", layer, 2))):
        found = embedding_space(model, name, units=[0, 5])
        suppressed = embedding_space(model, name, units=[0, 5], suppressed=True)
        module = model.hf.get_submodule(model.architecture.module_path(name))
        weight = module.weight.detach()
        rows = weight.T if isinstance(module, torch.nn.Linear) else weight
        if name.head is not None:
            rows = rows[name.head * family.d_head :]
        for unit, cell, other in zip((0, 5), found.cells, suppressed.cells, strict=True):
            direction = rows[unit] / rows[unit].norm() * model.d_model**0.5
            with torch.no_grad():
                for sign, one in ((1, cell), (-1, other)):
                    wanted = shares(model.unembed(sign * direction))
                    assert [candidate.probability for candidate in one.candidates] == pytest.approx(wanted, abs=1e-4)


def test_a_push_is_the_gradient_of_the_log_probability(model: Model):
    token = 7
    found = backward_lens(model, TEXT, token=token)
    sites = [residual_site(layer) for layer in (-1, 1, model.n_layers - 1)]
    gradients = differentiate(model, TEXT, lambda logits: torch.log_softmax(logits[-1].float(), -1)[token], sites)
    for site in sites:
        for position, gradient in enumerate(gradients[site]):
            if not gradient.any():
                with pytest.raises(UsageError):
                    found.at(layer=site.layer, position=position)
                continue
            direction = gradient / gradient.norm() * model.d_model**0.5
            with torch.no_grad():
                wanted = shares(model.unembed(direction))
            cell = found.at(layer=site.layer, position=position)
            assert [one.probability for one in cell.candidates] == pytest.approx(wanted, abs=1e-3)


def test_a_lens_of_another_kind_model_or_layer_is_refused(llama: Model, gpt2: Model):
    with pytest.raises(UsageError, match="fitted as 'tuned-lens' is needed"):
        tuned_lens(llama, TEXT, unchanged(llama, "jacobian-lens"))
    with pytest.raises(UsageError, match="very weights"):
        jacobian_lens(llama, TEXT, unchanged(gpt2, "jacobian-lens"))
    with pytest.raises(UsageError, match=r"from resid_post.2 to resid_post.3 is needed"):
        tuned_lens(llama, TEXT, mapping(llama, "tuned-lens", {(1, 3): Term(torch.tensor(1.0))}), layer=2)
    with pytest.raises(SiteError, match="neurons and heads"):
        embedding_space(llama, "resid_post.1")


def test_a_relation_is_read_at_its_own_layer(llama: Model):
    relation = mapping(llama, "relation", {(1, 3): Term(torch.eye(llama.d_model), torch.ones(llama.d_model))})
    found = attribute_lens(llama, TEXT, relation, position=1)
    assert [(cell.layer, cell.position) for cell in found.cells] == [(1, 1)]


def test_a_lens_is_saved_shown_and_stored(llama: Model, tmp_path):
    from bathyscope import Store

    found = logit_lens(llama, TEXT, k=3)
    assert Result.load(found.save(tmp_path / "lens.json")).to_dict() == found.to_dict()
    page = found.save(tmp_path / "lens.html").read_text()
    assert page.count('class="heat"') == 1
    assert page.count("--heat: ") == len(found.cells) + page.count("var(--heat: ")
    assert "<script" not in page
    with Store(tmp_path / "runs") as store:
        first = logit_lens(llama, TEXT, k=3, store=store)
        again = logit_lens(llama, TEXT, k=3, store=store)
    assert first.cells == again.cells == found.cells

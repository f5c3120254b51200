"""Controls: each is the plain run that its name says, planned and kept like any cell, and shown beside its cells."""

import pytest
import torch

import command_line
from bathyscope import Model, Source, Store, Target, capture, generate, patchscope, plan_patchscope, run
from bathyscope.controls import CONTROLS, Controls, occurs_in, random_vector
from bathyscope.errors import UsageError
from bathyscope.interventions import Replace, Write
from bathyscope.mappings import Scale
from bathyscope.patchscopes import patchscope_again
from bathyscope.prompts import custom, prepare
from bathyscope.readouts import Contains, Generate, NextToken, Surprisal
from bathyscope.results import Result
from bathyscope.sites import residual_site

bathyscope, tiny = command_line.bathyscope, command_line.tiny

SOURCE, PROMPT = "Diana, Princess of Wales", custom("The capital of France is x", "x")
READ = Generate(4)


def said(model: Model, prompt, layer: int, value: torch.Tensor, positions, match_norm: bool = False) -> str:
    """The continuation when a value is written, by a plain run."""
    write = Write(residual_site(layer), Replace(value, match_norm), positions)
    return generate(model, prompt, writes=[write], max_new_tokens=4)[0].text


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_each_control_is_what_its_name_says(model: Model, scale: float):
    asked = Source(model, SOURCE, position="Princess", layer="1,2"), Target(prompt=PROMPT, layer="0,3")
    found = patchscope(*asked, readout=READ, mapping=Scale(scale), controls=Controls(CONTROLS, seed=5))
    tokens, inspection = model.tokenize(SOURCE), prepare(model, PROMPT)
    position = found.cells[0].source_position
    width = (model.d_model,)
    read = capture(model, SOURCE, [residual_site(layer) for layer in (1, 2)])
    alone = generate(model, PROMPT.text, max_new_tokens=4)[0].text
    text = SOURCE[: SOURCE.index("Princess") + len("Princess")]
    prompted = generate(model, PROMPT.text[:-1] + text, max_new_tokens=4)[0].text
    for cell in found.cells:
        controls = found.controls_of(cell)
        assert set(controls) == set(CONTROLS)
        source, target = cell.source_layer, cell.target_layer
        drawn = random_vector(str(residual_site(target)), width, seed=5)
        held = read[residual_site(source)][0]
        others = {place: held[place] for place in range(1, len(tokens)) if place != position}

        def write(value, norm=False, target=target):
            return said(model, PROMPT.text, target, value, inspection.positions, norm)

        assert controls["unpatched"].text == alone
        assert controls["prompting"].text == prompted
        assert controls["no-activation"].text == write(torch.zeros(width))
        assert controls["random"].text == write(drawn, True)
        assert controls["mean"].text == write(scale * held[1:].mean(0))
        written = {tokens.texts[place]: write(scale * value) for place, value in others.items()}
        assert controls["shuffled"].text == written[controls["shuffled"].instead]


def test_texts_give_the_mean_and_the_other_token(llama: Model):
    texts = ("The old river", "the cat says hello")
    asked = Source(llama, "Diana", layer=2), Target(prompt=PROMPT)
    found = patchscope(*asked, readout=READ, controls=Controls(("mean", "shuffled"), texts=texts))
    controls = found.controls_of(found.cells[0])
    rows = [rows[1:] for text in texts for rows in capture(llama, text, [residual_site(2)])[residual_site(2)]]
    positions = prepare(llama, PROMPT).positions
    assert controls["mean"].text == said(llama, PROMPT.text, 2, torch.cat(rows).mean(0), positions)
    assert any(controls["shuffled"].text == said(llama, PROMPT.text, 2, value, positions) for value in torch.cat(rows))


def test_the_same_seed_draws_the_same_and_another_another(llama: Model):
    asked = Source(llama, SOURCE, position="all", layer="0-3"), Target(prompt=PROMPT)

    def drawn(seed: int) -> list[tuple]:
        found = patchscope(*asked, readout=READ, controls=Controls(("random", "shuffled"), seed=seed))
        return [(one.text, one.instead) for one in found.controls]

    assert drawn(1) == drawn(1) != drawn(2)


def test_another_token_is_never_the_one_that_is_read(llama: Model):
    for seed in range(5):
        found = patchscope(
            Source(llama, SOURCE, position="all", layer=1), Target(prompt=PROMPT), readout=READ,
            controls=Controls(("shuffled",), seed=seed),
        )  # fmt: skip
        for cell in found.cells:
            other = found.controls_of(cell)["shuffled"]
            assert other.instead in found.cells[0].source_token or other.instead != cell.source_token


def test_a_readout_that_compares_measures_each_control_against_its_own_place(llama: Model):
    asked = Source(llama, SOURCE, position=(2, 4), layer="1,3"), Target(prompt=PROMPT)
    found = patchscope(*asked, readout=Surprisal(), controls=CONTROLS)
    own = run(llama, SOURCE).logits[0].log_softmax(-1)
    alone = run(llama, PROMPT.text).logits[0][-1].argmax()
    for cell in found.cells:
        measured = found.controls_of(cell)["unpatched"].values["surprisal"]
        assert measured == pytest.approx(float(-own[cell.source_position][alone]), rel=1e-4)
    row = found.rows()[0]
    assert {f"surprisal_{name}" for name in CONTROLS} <= set(row)


def test_controls_that_are_cells_already_are_not_measured_twice(llama: Model):
    source, target = Source(llama, SOURCE, position="all", layer=1), Target(prompt=PROMPT)
    planned = plan_patchscope(source, target, readout=READ, control=False, controls=("shuffled",))
    assert len(planned.cells) == len(llama.tokenize(SOURCE))
    none = plan_patchscope(source, target, readout=READ, control=False)
    assert len(none.cells) == len(llama.tokenize(SOURCE))


def test_controls_are_kept_found_again_and_asked_again(llama: Model, tmp_path):
    asked = Source(llama, SOURCE, layer="0-2"), Target(prompt=PROMPT)
    controls = Controls(CONTROLS, seed=3, texts=("the old river",))
    with Store(tmp_path) as store:
        first = patchscope(*asked, readout=READ, controls=controls, store=store)
        again = patchscope(*asked, readout=READ, controls=controls, store=store)
        resumed = patchscope_again(store.show(first.run).spec, llama, llama, store=store)
    assert first.timing["computed"] > 0 == again.timing["computed"] == resumed.timing["computed"]
    assert first.controls == again.controls == resumed.controls and first.run == resumed.run
    loaded = Result.load(first.save(tmp_path / "result.json"))
    assert loaded.controls == first.controls
    for name in ("mean", "random", "shuffled"):
        assert f"control: {name}" in first.to_html()


def test_a_prompt_without_other_tokens_needs_texts(llama: Model):
    with pytest.raises(UsageError, match="no other token.*--control-text"):
        patchscope(Source(llama, llama.tokenize("hello").ids[-1:], layer=0), readout=READ, controls=("mean",))


def test_an_unknown_control_is_refused():
    with pytest.raises(UsageError, match="no control is called 'noise'.*random"):
        Controls(("noise",))


def test_an_answer_that_stands_in_a_text_is_told(llama: Model):
    assert occurs_in("São Paulo", "In SÃO  PAULO, today") and not occurs_in("Paul", "São Paulo")
    asked = Source(llama, "Diana of France", layer=1), Target(prompt=PROMPT)
    found = patchscope(*asked, readout=Contains("france", 4))
    assert found.provenance["spec"]["answer_occurs_in"] == ["source", "target"]
    assert patchscope(*asked, readout=Contains("rome", 4)).provenance["spec"]["answer_occurs_in"] == []


def test_ranked_tokens_have_controls_too(llama: Model):
    found = patchscope(
        Source(llama, SOURCE, layer=3), Target(prompt=PROMPT), readout=NextToken(2), controls=("no-activation",)
    )
    logits = run(llama, PROMPT.text, writes=[Write(residual_site(3), Replace(torch.zeros(llama.d_model)), -1)]).logits[
        0
    ][-1]
    (control,) = (one for one in found.controls if one.control == "no-activation")
    # Where zeros are all that is left, every token is as likely as any other.
    assert logits[control.candidates[0].id] == logits.max()


# The command line


def test_the_ladder_has_controls_beside_what_they_are_for(bathyscope, tiny):
    done = bathyscope(
        "patchscope", SOURCE, "--model", tiny, "--new-tokens", "3", "--controls", "all", "--layers", "0,2"
    )
    assert done.code == 0, done.err
    head = next(line for line in done.out.splitlines() if line.strip().startswith("layer"))
    assert all(name in head for name in ("says", "random", "mean", "shuffled"))
    assert "nothing written:" in done.out and "prompting:" in done.out


def test_a_grid_prints_each_control_as_a_table_of_its_own(bathyscope, tiny):
    asked = ("patchscope", SOURCE, "--model", tiny, "--new-tokens", "3", "--at", "all", "--layers", "0,2")
    done = bathyscope(*asked, "--controls", "random,mean")
    assert done.code == 0, done.err
    assert "control: random" in done.out and "control: mean" in done.out
    data = bathyscope(*asked, "--controls", "random,mean", "--json").json()
    assert {one["control"] for one in data["controls"]} == {"unpatched", "random", "mean"}
    assert data["provenance"]["spec"]["controls"] == {"names": ["unpatched", "random", "mean"], "seed": 0, "texts": []}


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--controls", "noise"], "no control is called 'noise'"),
        (["--control-text", "a b"], "for the controls mean and shuffled"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(bathyscope, tiny, arguments, fragment):
    done = bathyscope("patchscope", SOURCE, "--model", tiny, *arguments)
    command_line.assert_one_line(done, fragment)
    assert done.code == 2

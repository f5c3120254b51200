"""Steering: a direction is a difference of means, and what is added is what a plain generation adds."""

import pytest
import torch

from bathyscope import capture, generate, run
from bathyscope.errors import UsageError
from bathyscope.interventions import Add, Write
from bathyscope.model import Model
from bathyscope.results import Result
from bathyscope.steering import Direction, SteeringResult, difference_of_means, steer
from conftest import tiny_model

POSITIVES, NEGATIVES = ["The capital of France", "The cat is"], ["The keeper", "The city of Paris is", "x"]
PROMPT = "The capital of the city is"
LAYER = 1


@pytest.fixture
def direction(llama: Model) -> Direction:
    return difference_of_means(llama, POSITIVES, NEGATIVES, LAYER)


def test_a_direction_is_the_difference_of_means(model: Model):
    for layer, site in ((LAYER, "resid_post.1"), (-1, "embed")):
        for position in ("last", 0, "all"):
            means = []
            for prompts in (POSITIVES, NEGATIVES):
                own = [capture(model, prompt, [site])[site][0] for prompt in prompts]
                chosen = {"last": lambda one: one[-1], 0: lambda one: one[0], "all": lambda one: one.mean(0)}[position]
                means.append(torch.stack([chosen(one) for one in own]).mean(0))
            found_all = (means[0] - means[1]).norm() > 1e-4
            if not found_all:  # all prompts but one begin with the same token, and so might their means
                continue
            found = difference_of_means(model, POSITIVES, NEGATIVES, layer, position=position)
            assert torch.allclose(found.vector, means[0] - means[1], rtol=1e-3, atol=1e-4)
            assert (found.site, found.n_positives, found.n_negatives) == (site, 2, 3)
            assert found.norm == pytest.approx(float(found.vector.norm()))


def test_steered_texts_are_those_of_plain_generations(model: Model):
    direction = difference_of_means(model, POSITIVES, NEGATIVES, LAYER)
    found = steer(model, PROMPT, direction, factors=(-3, 2, 0), new_tokens=5)
    assert [(one.direction, one.factor) for one in found.texts] == [
        ("none", 0.0),
        ("direction", -3.0),
        ("random", -3.0),
        ("direction", 2.0),
        ("random", 2.0),
    ]
    drawn = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    vectors = {"direction": direction.vector, "random": drawn * direction.norm / drawn.norm()}
    plain = run(model, PROMPT).logits[0][-1].log_softmax(-1)
    for one in found.texts:
        writes = []
        if one.direction != "none":
            writes = [Write(direction.site, Add(vectors[one.direction], one.factor), when="always")]
        assert one.text == generate(model, PROMPT, writes=writes, max_new_tokens=5)[0].text
        steered = run(model, PROMPT, writes=writes).logits[0][-1].log_softmax(-1)
        assert one.kl == pytest.approx(float((plain.exp() * (plain - steered)).sum()), abs=1e-3)
        assert one.probability == pytest.approx(float(steered.max().exp()), abs=1e-3)
    assert found.at(0).kl == 0
    assert min(one.kl for one in found.texts if one.factor) > 0


def test_a_direction_is_added_at_every_token_that_is_written(llama: Model, direction: Direction):
    """What is written into the prompt alone gives another text."""
    steered = steer(llama, PROMPT, direction, factors=(8,), new_tokens=12).at(8).text
    once = generate(llama, PROMPT, writes=[Write(direction.site, Add(direction.vector, 8.0))], max_new_tokens=12)
    assert steered != once[0].text


def test_a_random_direction_is_another_one_by_seed(llama: Model, direction: Direction):
    first, second = (steer(llama, PROMPT, direction, factors=(5,), new_tokens=6, seed=seed) for seed in (0, 1))
    assert first.at(5).text == second.at(5).text
    assert first.at(5, "random").kl != second.at(5, "random").kl


def test_results_keep_what_they_say(llama: Model, direction: Direction, tmp_path):
    again = Result.load(direction.save(tmp_path / "direction.json"))
    assert isinstance(again, Direction)
    assert torch.equal(again.vector, direction.vector) and again.rows() == direction.rows()
    found = steer(llama, PROMPT, again, factors=(2,), new_tokens=4)
    kept = Result.load(found.save(tmp_path / "texts.json"))
    assert isinstance(kept, SteeringResult) and kept.rows() == found.rows()
    assert set(found.rows()[0]) == {"direction", "factor", "text", "kl", "next_token", "probability"}
    assert "2 x random" in found.to_html() and "The keeper" in direction.to_html()


def test_what_cannot_be_steered_is_refused(llama: Model, direction: Direction):
    with pytest.raises(UsageError, match="belongs to the weights"):
        steer(tiny_model("mistral"), PROMPT, direction)
    with pytest.raises(UsageError, match="finite numbers"):
        steer(llama, PROMPT, direction, factors=(float("nan"),))
    with pytest.raises(UsageError, match="positive prompts"):
        difference_of_means(llama, [], NEGATIVES, LAYER)
    with pytest.raises(UsageError, match="negative prompts"):
        difference_of_means(llama, POSITIVES, "The keeper", LAYER)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="same mean"):
        difference_of_means(llama, POSITIVES, POSITIVES[::-1], LAYER)
    with pytest.raises(UsageError, match="layer 9"):
        difference_of_means(llama, POSITIVES, NEGATIVES, 9)
    with pytest.raises(UsageError, match="factor 9"):
        steer(llama, PROMPT, direction, new_tokens=1).at(9)

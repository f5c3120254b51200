"""A latent's direction: steering with it is what a splice with that latent raised does."""

import pytest
import torch

from bathyscope import generate, run
from bathyscope.errors import UsageError
from bathyscope.model import Model
from bathyscope.results import Result
from bathyscope.sae import Edit, Splice, latent_direction
from bathyscope.sites import Site
from bathyscope.steering import steer
from coders_for_tests import random_coder

PROMPT, SITE = "The capital of the city is", Site("resid_post", 1)


def test_steering_is_the_splice_with_the_latent_raised(model: Model):
    coder = random_coder(model.d_model, site=SITE, target=SITE)
    found = steer(model, PROMPT, latent_direction(model, coder, 5), factors=(3,), new_tokens=4).at(3)
    write = Splice(coder, edits=[Edit(5, "add", 3.0)]).write(model)
    assert found.text == generate(model, PROMPT, writes=[write], max_new_tokens=4)[0].text
    logits = run(model, PROMPT, writes=[write]).logits[0][-1]
    assert found.probability == pytest.approx(float(logits.softmax(-1).max()), abs=1e-4)


def test_it_is_saved_and_shown(llama: Model, tmp_path):
    coder = random_coder(llama.d_model, site=SITE, target=SITE)
    found = latent_direction(llama, coder, 5)
    again = Result.load(found.save(tmp_path / "a.json"))
    assert torch.equal(again.vector, coder.decoder[5]) and again.site == str(SITE)
    assert "latent 5" in found.to_html()


def test_what_has_no_direction_is_refused(llama: Model):
    coder = random_coder(llama.d_model, site=SITE, target=SITE)
    for latent in (-1, coder.n_latents):
        with pytest.raises(UsageError, match="latents 0 to"):
            latent_direction(llama, coder, latent)
    with pytest.raises(UsageError, match="norms its inputs"):
        latent_direction(llama, random_coder(llama.d_model, site=SITE, target=SITE, normed=True), 5)

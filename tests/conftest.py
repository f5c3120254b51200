"""Models that every test file shares: tiny, random, built once."""

import pytest
import torch

from bathyscope import wrap
from bathyscope.model import Model
from families import ALL, TinyFamily
from tokenizers_for_tests import tiny_tokenizer

torch.set_num_threads(1)

_BUILT: dict[tuple[str, str], Model] = {}


def tiny_model(name: str = "llama", attention: str = "eager") -> Model:
    """A tiny model by its name in `families.ALL`, built once and never changed."""
    if (name, attention) not in _BUILT:
        _BUILT[name, attention] = wrap(ALL[name].build(attention), tiny_tokenizer(), name=name)
    return _BUILT[name, attention]


@pytest.fixture(params=list(ALL))
def family(request: pytest.FixtureRequest) -> TinyFamily:
    return ALL[request.param]


@pytest.fixture
def model(family: TinyFamily) -> Model:
    return tiny_model(family.name)


@pytest.fixture
def llama() -> Model:
    return tiny_model("llama")


@pytest.fixture
def gpt2() -> Model:
    return tiny_model("gpt2")

"""fit_tuned_lens: translators into the last block's residual stream, trained to say what the model will say.

One pass over the text: each window is read once, and every position moves the translators of all layers
once. What is kept between steps is in `translators`, which tokens a step looks at in `vocabulary`.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor

from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import BathyscopeWarning, UsageError
from bathyscope.fitting.agreement import log_probabilities
from bathyscope.fitting.checkpoints import Checkpoint
from bathyscope.fitting.stream import Block, Stream
from bathyscope.fitting.translators import Translator, main_directions
from bathyscope.fitting.vocabulary import Sample, draw, kl_gradient, product_dtype, whole_vocabulary
from bathyscope.generation import Progress
from bathyscope.mappings import Affine, Fit, Term, model_identity
from bathyscope.model import Model
from bathyscope.sites import Site, check_layer, parse_layers, residual_site
from bathyscope.texts import Texts, split_texts

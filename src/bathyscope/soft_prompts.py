"""SoftPrompt: a target prompt whose embeddings were learned, with what it was learned on, and its file.

Of the future lens (arXiv 2311.04897): a representation is written at its last position, and the model goes on from
there. How one is learned is in `fitting.soft_prompts`.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bathyscope.errors import StorageError, UsageError
from bathyscope.files import write_atomically
from bathyscope.forward import capture
from bathyscope.interventions import Replace, Write
from bathyscope.mappings import Fit, model_identity
from bathyscope.model import Model, Prompt, Tokens
from bathyscope.prompts import Inspection
from bathyscope.sites import EMBEDDING_LAYER, Site, check_layer

FORMAT = 1
"""Version of the file; one of a newer version is refused."""

HEADER = "bathyscope_soft_prompt"
"""Where the file's metadata keeps what is not a tensor."""

SHOWN: Final = "[soft]"
"""What stands for each of its tokens where tokens are shown."""


@dataclass(frozen=True, eq=False)
class SoftPrompt:
    """Embeddings that stand where a prompt's tokens would.

    Two are equal when their vectors are, to the last bit, and their layer is. It refuses models that it was not
    learned for.

    Args:
        vectors: one embedding a position, as they enter the residual stream, (length, d_model).
        layer: the layer at whose last position a representation is written.
        fit: what it was learned on; its source is the model.
        path: the file that it was loaded from, if any.

    Example:
        >>> import bathyscope
        >>> from bathyscope.soft_prompts import SoftPrompt
        >>> model = bathyscope.load()
        >>> prompt = SoftPrompt.of(model, "Tell me about x", layer=5)
        >>> prompt.vectors.shape, prompt.inspection(model).positions
        (torch.Size([4, 576]), (3,))
    """

    vectors: Tensor
    layer: int
    fit: Fit
    path: Path | None = None

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or not len(self.vectors) or not torch.isfinite(self.vectors).all():
            raise UsageError(
                f"soft prompt vectors of shape {tuple(self.vectors.shape)} were given",
                "finite vectors, (length, d_model), at least one",
            )

    @classmethod
    def of(cls, model: Model, text: Prompt, layer: int) -> Self:
        """The embeddings of a real text; it is read as that text would be.

        Args:
            model: the model.
            text: any prompt; what stands at its last token is overwritten.
            layer: the layer at which a representation is written; -1 is the embedding.
        """
        check_layer(layer, model.n_layers)
        tokens = model.tokenize(text)
        vectors = capture(model, tokens, [Site("embed")])[Site("embed")][0]
        identity = model_identity(model)
        return cls(vectors, layer, Fit("text", identity, identity, options={"text": tokens.text}))

    def inspection(self, model: Model) -> Inspection:
        """The target prompt: its embeddings are written over those of as many tokens, which do not matter.

        Raises:
            UsageError: it is for another model.
        """
        self.check(model)
        length = len(self.vectors)
        tokens = Tokens(SHOWN * length, (0,) * length, (SHOWN,) * length)
        written = Write(Site("embed"), Replace(self.vectors), tuple(range(length)))
        return Inspection(tokens, (length - 1,), SHOWN, (written,))

    def check(self, model: Model) -> None:
        """Refuse a model that it was not learned for.

        Raises:
            UsageError: it is for another model, of which it says the name.
        """
        identity = self.fit.source
        if model.fingerprint != identity.get("fingerprint"):
            raise UsageError(
                f"a soft prompt for {identity.get('model')!r} was used with {model.name!r} ({model.dtype})",
                "a soft prompt belongs to the very weights that it was learned for, dtype included",
                "fitting.fit_soft_prompt with this model",
            )

    def fingerprint(self) -> str:
        """SHA-256 of the layer and the vectors: dtype, shape and bytes."""
        digest = hashlib.sha256(f"{self.layer}{self.vectors.dtype}{tuple(self.vectors.shape)}".encode())
        digest.update(self.vectors.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SoftPrompt) and self.fingerprint() == other.fingerprint()

    def __hash__(self) -> int:
        return hash(self.fingerprint())

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file, whole or not at all, with the layer and all of `fit` in its header.

        Raises:
            StorageError: it cannot be written; what was there is intact.
        """
        header = {"format": FORMAT, "layer": self.layer, "fit": asdict(self.fit)}
        text = json.dumps(header, sort_keys=True, allow_nan=False)
        write_atomically(Path(path), save({"vectors": self.vectors.contiguous()}, {HEADER: text}))
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            StorageError: the file is missing, damaged, no soft prompt, or of a newer version.
        """
        path = Path(path)
        remedy = "fitting.fit_soft_prompt"
        try:
            with safe_open(path, "pt") as file:
                header = json.loads((file.metadata() or {})[HEADER])
                vectors = file.get_tensor("vectors")
            if header["format"] > FORMAT:
                raise StorageError(f"{path} was written by a newer bathyscope", f"format up to {FORMAT}", remedy)
            layer = int(header["layer"])
            if layer < EMBEDDING_LAYER:
                raise ValueError(f"layer {layer}")
            return cls(vectors, layer, Fit(**header["fit"]), path)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, UsageError) as error:
            given = f"{path} could not be read as a soft prompt ({type(error).__name__}: {error})"
            raise StorageError(given, "a file that SoftPrompt.save wrote", remedy) from error

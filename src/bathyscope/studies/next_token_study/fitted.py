"""The fitted lenses of a study: found where one was kept, or fitted on text that is not measured on."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bathyscope import fitting
from bathyscope.engine import Stop
from bathyscope.errors import StorageError
from bathyscope.generation import Progress
from bathyscope.mappings import Affine
from bathyscope.model import Model
from bathyscope.store import Store, spec_key
from bathyscope.texts import Texts

logger = logging.getLogger(__name__)

VERSION = 1
"""Version of how lenses are fitted for studies; a change finds no lens that was kept before."""


@dataclass(frozen=True)
class LensFit:
    """One lens to be fitted, which is kept in a folder and found again.

    Args:
        method: "tuned-lens" or "jacobian-lens".
        model: the model.
        texts: what it is fitted on.
        settings: further arguments of the function that fits it, as JSON values.
    """

    method: str
    model: Model
    texts: Texts
    settings: dict[str, Any]

    def path(self, folder: Path) -> Path:
        """Where in a folder it is kept: the name is made of everything that it depends on."""
        text = {name: value for name, value in self.texts.describe().items() if name != "name"}
        spec = {
            "version": VERSION,
            "method": self.method,
            "model": self.model.fingerprint,
            "attention": self.model.attention,
            "text": text,
            "settings": self.settings,
        }
        return folder / f"{self.method}-{spec_key(spec)[:32]}.safetensors"

    def find(self, folder: Path) -> Affine | None:
        """The lens that was kept, or None where there is none, or a damaged one."""
        path = self.path(folder)
        if not path.exists():
            return None
        try:
            return Affine.load(path)
        except StorageError as error:
            logger.warning("%s; it is fitted again", error)
            return None

    def describe(self, folder: Path | None) -> str:
        """What `run` will do, in one sentence without its full stop."""
        text = self.texts.describe()["name"]
        if folder is not None and self.path(folder).exists():
            return f"the {self.method} that was fitted on {text} before is used"
        return f"a {self.method} is fitted on the part of {text} that is not measured on"

    def run(self, folder: Path | None = None, *, progress: Progress | None = None, stop: Stop | None = None) -> Affine:
        """The lens: found, or fitted and then kept.

        Args:
            folder: where it is kept, made if it is not there; None for nowhere.
            progress: called with what is done and what there is to do.
            stop: looked at while it is fitted; in a folder a fit goes on from where it was stopped.
        """
        fit = fitting.fit_tuned_lens if self.method == "tuned-lens" else fitting.fit_jacobian_lens
        if folder is None:
            return fit(self.model, self.texts, progress=progress, stop=stop, **self.settings)
        if (found := self.find(folder)) is not None:
            return found
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"the folder {folder} could not be made ({error.strerror})", "", "--no-store") from error
        path = self.path(folder)
        checkpoint = path.with_suffix(".checkpoint")
        found = fit(self.model, self.texts, checkpoint=checkpoint, progress=progress, stop=stop, **self.settings)
        found.save(path)
        checkpoint.unlink(missing_ok=True)
        return found


def lens_folder(store: Store | None) -> Path | None:
    """Where lenses are kept beside a store; nowhere without one."""
    return None if store is None else store.folder / "lenses"

"""Location: a folder, or a file in one, that a coder is looked for in."""

from dataclasses import dataclass
from pathlib import Path

from bathyscope.errors import StorageError
from bathyscope.sae.formats.config import Config


@dataclass(frozen=True)
class Location:
    """What a person points at.

    Args:
        folder: where the files are.
        file: the one file that is meant, or None for the folder. Config are read from beside it.
        asked: what was typed, in which published collections say what they hold.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from bathyscope.sae.formats.location import Location
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "cfg.json").write_text("{}")
        >>> Location.of(folder).has("cfg.json")
        True
    """

    folder: Path
    file: Path | None
    asked: str

    @classmethod
    def of(cls, path: Path, asked: str = "") -> "Location":
        """The location of a path.

        Raises:
            StorageError: there is nothing.
        """
        asked = asked or path.absolute().as_posix()
        if path.is_dir():
            return cls(path, None, asked)
        if path.is_file():
            return cls(path.parent, path, asked)
        raise StorageError(f"there is no {path}", "a folder or a file with a coder is needed")

    @property
    def path(self) -> Path:
        """The file that is meant, or the folder."""
        return self.file or self.folder

    def has(self, name: str) -> bool:
        """Whether a file is there, and meant where one file is."""
        return self.find(name) is not None

    def find(self, name: str, ending: str = "") -> Path | None:
        """The file that is meant, if it has this name or this ending; in a folder, the one of this name."""
        if self.file is not None and not name.endswith(".json"):
            meant = self.file.name == name or (ending and self.file.suffix == ending)
            return self.file if meant else None
        return self.folder / name if (self.folder / name).is_file() else None

    def config(self, name: str) -> Config | None:
        """What a JSON file beside it says, or None where there is none.

        Raises:
            StorageError: it is no JSON object.
        """
        return Config.read(self.folder / name) if (self.folder / name).is_file() else None

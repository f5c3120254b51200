"""A person's own labels and groups of a circuit's features, in a file beside the circuit's. Knows no circuit."""

import json
from pathlib import Path

from bathyscope.errors import BathyscopeError, StorageError


def labels_file(path: Path) -> Path:
    """Where a person's own labels of a circuit's file lie."""
    return path.with_name(f"{path.stem}.labels.json")


def read_labels(path: Path) -> dict[str, str]:
    """A person's own labels, by feature.

    Raises:
        StorageError: it cannot be read, or is something else.
    """
    return read_words(path)[0]


def read_words(path: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """A person's own labels, by feature, and their groups of features, by name, where the file has "groups".

    Raises:
        StorageError: it cannot be read, or is something else.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
        groups = found.pop("groups", {}) if isinstance(found, dict) else {}
        if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
            raise ValueError("it is no JSON object of texts")
        named = groups.values() if isinstance(groups, dict) else [None]
        if not all(isinstance(one, list) and all(isinstance(key, str) for key in one) for one in named):
            raise ValueError("its groups are no lists of features")
    except BathyscopeError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise StorageError(
            f"{path} could not be read ({error})", "a JSON object of labels", '{"resid_post.12/281": "plural subject"}'
        ) from error
    return found, groups

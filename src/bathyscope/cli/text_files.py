"""Files of text that were named: what a mapping is fitted on, or a study made on."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bathyscope.cli import choices
from bathyscope.errors import UsageError

if TYPE_CHECKING:
    from bathyscope.prompts import Span
    from bathyscope.texts import Texts


def check(path: str, column: str, *, statements: bool = False) -> None:
    """Refuse a file that cannot be read.

    Args:
        path: the file.
        column: where its rows keep their text.
        statements: whether its lines are to be statements.
    """
    if statements:
        read_statements(Path(path))
    else:
        documents(path, column, None)


def documents(path: str, column: str, seed: int | None) -> "Texts":
    """The documents of a file.

    Raises:
        UsageError: the file cannot be read as text.
    """
    from bathyscope.texts import read_texts

    with choices.refusing():
        return read_texts(path, column=column, seed=seed)


def read_statements(path: Path) -> "tuple[Sequence[str], Sequence[Span]]":
    """Prompts that state a relation, one a line, with the subject in brackets; and the subjects.

    Raises:
        UsageError: the file cannot be read, or a line has no subject.
    """
    from bathyscope.prompts import Span

    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} could not be read ({error})", "a file of text in UTF-8 is needed") from error
    prompts, subjects = [], []
    for number, line in enumerate(lines, 1):
        found = re.fullmatch(r"(.*)\[(.+?)\](.*)", line.rstrip())
        if found:
            before, subject, after = found.groups()
            prompts.append(before + subject + after)
            subjects.append(Span(subject, before.count(subject)))
        elif line.strip():
            raise UsageError(
                f"line {number} of {path.name} has no subject", "each is such as: The capital of [France] is"
            )
    if not prompts:
        raise UsageError(f"{path} has no line in it", "at least one is needed, such as: The capital of [France] is")
    return prompts, subjects

"""The few kinds of error: each says what was given, what was expected and what to type.

Knows nothing of models or of the command line; the command line reads only `exit_code`.
"""

from collections.abc import Iterable


class BathyscopeError(Exception):
    """A failure that a person can act on.

    Args:
        given: what was asked or met, in one sentence without its full stop.
        expected: what would have been right, in one sentence without its full stop.
        remedy: what to type or do, verbatim where possible.

    Example:
        >>> from bathyscope.errors import UsageError
        >>> str(UsageError("layer 40 was given", "the model has layers -1 to 29", "--layers 0-29"))
        'layer 40 was given; the model has layers -1 to 29. Try: --layers 0-29'
    """

    exit_code = 1

    def __init__(self, given: str, expected: str = "", remedy: str = "") -> None:
        self.given, self.expected, self.remedy = given, expected, remedy
        message = "; ".join(part for part in (given, expected) if part)
        super().__init__(f"{message}. Try: {remedy}" if remedy else message)


class UsageError(BathyscopeError):
    """The request cannot be carried out as it was written."""

    exit_code = 2


class SiteError(UsageError):
    """A site that does not exist, or that this model does not have."""


class PositionError(UsageError):
    """A token position that does not exist, or text that is not in the prompt exactly once."""


class ModelError(UsageError):
    """A model that cannot be found, loaded or trusted."""


class InterventionError(BathyscopeError):
    """A read or a write that did not happen, or whose value does not fit its site."""


class StorageError(BathyscopeError):
    """A file, the cache, the disk or the network failed; what was stored before is intact."""


class BathyscopeWarning(UserWarning):
    """A number that is given, and that a person should not trust without having read why."""


def nearest(typed: str, names: Iterable[str]) -> str:
    """The name that is most like what was typed: what a remedy offers.

    Example:
        >>> from bathyscope.errors import nearest
        >>> nearest("resid_pots.12", ["resid_pre", "resid_post", "logits"])
        'resid_post'
    """
    import difflib

    return difflib.get_close_matches(typed, list(names), 1, 0)[0]

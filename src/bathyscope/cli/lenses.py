"""The lenses by name: what each shows, which function makes it, and which options it takes.

Imports no lens: names are found when one is used.
"""

import shlex
from dataclasses import dataclass
from typing import Final

from bathyscope.cli import choices
from bathyscope.errors import UsageError, nearest

CANDIDATES: Final = 5
"""Likeliest tokens that are kept unless said."""

READING: Final = frozenset({"at", "layers", "top", "store", "memory", "explain"})
"""What lenses take that are patchscopes of a text."""

KEYWORDS: Final = {
    "top": "k",
    "to": "to",
    "ahead": "n_ahead",
    "new_tokens": "new_tokens",
    "token": "token",
    "suppressed": "suppressed",
}
"""What options are called by the lenses' functions, where they are handed on as they are."""


@dataclass(frozen=True)
class Lens:
    """One lens.

    Args:
        function: its name in `bathyscope.lenses`.
        shows: what a cell of its heat map is, to go after "each cell:".
        takes: the options it has besides the model and the output.
        fitted: the `--method` that its mapping is fitted by; None where it can do without.
        mapping_as: the argument that its mapping is.
        soft: whether that may be a soft prompt.
    """

    function: str
    shows: str
    takes: frozenset[str] = READING
    fitted: str | None = None
    mapping_as: str = "mapping"
    soft: bool = False


LENSES: Final[dict[str, Lens]] = {
    "logit-lens": Lens("logit_lens", "what the model would say next, were that layer its last"),
    "tuned-lens": Lens(
        "tuned_lens",
        "what the model would say next, by a trained translation",
        READING | {"mapping"},
        "tuned-lens",
    ),
    "jacobian-lens": Lens(
        "jacobian_lens",
        "what that layer moves the model to say, on average",
        READING | {"mapping"},
        "jacobian-lens",
    ),
    "linear-shortcut": Lens(
        "linear_shortcut",
        "what the model says after a linear jump from that layer",
        READING | {"mapping", "to"},
        "linear",
    ),
    "attribute-lens": Lens(
        "attribute_lens", "what a relation makes of the token, by that layer", READING | {"mapping"}, "relation"
    ),
    "future-lens": Lens(
        "future_lens",
        "what the model will say several tokens on",
        READING | {"mapping", "ahead"},
        mapping_as="by",
        soft=True,
    ),
    "token-identity": Lens("token_identity", "the token that the model repeats when shown the vector"),
    "bare-placeholder": Lens("bare_placeholder", "what the model says next when shown the vector alone"),
    "selfie": Lens("selfie", "what the model says of the vector, asked in words", READING - {"top"} | {"new_tokens"}),
    "embedding-space": Lens(
        "embedding_space", "tokens that a neuron, or a head's unit, promotes", frozenset({"top", "units", "suppressed"})
    ),
    "backward-lens": Lens(
        "backward_lens",
        "what a push towards a next token would write there",
        frozenset({"layers", "top", "token"}),
    ),
}
"""Every lens, by the name that is typed."""


def lens_name(name: str) -> str:
    """A lens's whole name, from the name or a word of it that no other lens has.

    Raises:
        UsageError: no lens has that name, or several have that word.

    Example:
        >>> from bathyscope.cli.lenses import lens_name
        >>> lens_name("logit"), lens_name("selfie")
        ('logit-lens', 'selfie')
    """
    choices.readable(name)
    named = [whole for whole in LENSES if name == whole or name in whole.split("-")]
    if len(named) == 1:
        return named[0]
    raise UsageError(
        f"no lens is called {name!r}",
        f"lenses are {', '.join(LENSES)}",
        f"bathyscope lens {nearest(name, LENSES)}",
    )


def checked(name: str, given: set[str], model: str | None) -> Lens:
    """The lens of a name, if it takes what was given and was given what it needs.

    Args:
        name: its whole name.
        given: the options that were typed, by their names here.
        model: as it was typed.

    Raises:
        UsageError: it has no such option, or needs a mapping.
    """
    lens = LENSES[name]
    for option in sorted(given - lens.takes):
        having = [other for other, one in LENSES.items() if option in one.takes]
        raise UsageError(
            f"--{option.replace('_', '-')} was given to {name}",
            f"only {', '.join(having)} {'have' if len(having) > 1 else 'has'} it",
            f"bathyscope lens {name} TEXT",
        )
    if lens.fitted is not None and "mapping" not in given:
        of = "" if model is None else f" --source-model {shlex.quote(model)}"
        raise UsageError(
            f"{name} was asked for without --mapping",
            "it is fitted to a model first",
            f"bathyscope mapping fit --method {lens.fitted}{of} --text FILE --out {name.split('-')[0]}.safetensors",
        )
    return lens

"""From what was typed to what the library takes; what can be refused without a model is refused here."""

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from bathyscope.errors import SiteError, StorageError, UsageError
from bathyscope.sites import parse_layers

if TYPE_CHECKING:
    from bathyscope.mappings import Mapping
    from bathyscope.prompts import InspectionPrompt
    from bathyscope.readouts import Readout

NEW_TOKENS, CANDIDATES = 20, 10
MOST_LAYERS = 10_000
"""More than any model has."""


def readable(text: str | None) -> str | None:
    """Refuse an argument that is not UTF-8, which no tokenizer and no file could take."""
    if text is not None and any("\ud800" <= character <= "\udfff" for character in text):
        raise UsageError(f"the argument {text!r} was given", "arguments are text in UTF-8")
    return text


def model_name(name: str | None) -> str | None:
    """Refuse an empty name, which a shell makes of a variable that is not set."""
    if name == "":
        raise UsageError("an empty model name was given", "a Hugging Face id or a local folder", "bathyscope models")
    return readable(name)


def check_text(text: str) -> None:
    """Refuse an empty prompt."""
    if not text:
        raise UsageError(
            "an empty prompt was given", "a prompt needs at least one token", 'bathyscope patchscope "Barack Obama"'
        )


def check_layers(text: str, option: str) -> None:
    """Refuse what is no choice of layers in any model; which of them exist, the model says.

    Raises:
        SiteError: naming the forms that are choices.
    """
    if any(int(number) >= MOST_LAYERS for number in re.findall(r"\d{1,9}", text)):
        raise SiteError(f"{option} {text} was given", "no model has so many layers", f"{option} all")
    parse_layers(text, MOST_LAYERS)


def check_revision(revision: str | None, model: str | None) -> None:
    """Refuse a revision of the embedded model, of which there is one."""
    if revision is not None and model is None:
        raise UsageError(
            f"--revision {revision} was given without --model", "the embedded model has no revisions", "--model NAME"
        )


def check_out(path: Path, *endings: str) -> None:
    """Refuse a file that could not be what is asked for, before the work that it is for.

    Raises:
        UsageError: its ending is wrong, or it is a folder, or lacks one.
    """
    given = f"--out {str(path)!r} was given"
    if path.suffix not in endings:
        raise UsageError(given, f"its name must end in {' or '.join(endings)}", f"--out {path.stem}{endings[0]}")
    if path.is_dir():
        raise UsageError(given, "that is a folder, and a file is written", f"--out {path / ('result' + path.suffix)}")
    if not path.parent.is_dir():
        raise UsageError(given, f"there is no folder {str(path.parent)!r}", f"--out {path.name}")


def check_writable(folder: Path) -> None:
    """Refuse a folder that nothing can be written to."""
    if not os.access(folder, os.W_OK):
        raise StorageError(f"the folder {str(folder)!r} cannot be written to", "one of your own", "another --out")


def position(at: str) -> int | str:
    """Digits are an index; all else is for the library to read."""
    return int(at) if re.fullmatch(r"-?\d{1,9}", at, re.ASCII) else at


def inspection_prompt(
    name: str | None, own: str | None, placeholder: str | None, chat: bool | None
) -> "InspectionPrompt":
    """The prompt that is written into.

    Raises:
        UsageError: two prompts were given, or a placeholder that is not in the prompt.
    """
    from bathyscope import prompts

    if own is None:
        if placeholder is not None:
            raise UsageError(
                f"--placeholder {placeholder} was given without --text",
                "the named prompts have their own",
                '--text "Tell me about x" --placeholder x',
            )
        return prompts.named(name or "entity-description", chat=chat)
    if name is not None:
        raise UsageError(f"both --prompt {name} and --text were given", "one prompt is written into", "one of them")
    return prompts.custom(own, "x" if placeholder is None else placeholder, chat=bool(chat))


def mapping(name: str | None, factor: float | None) -> "Mapping":
    """What is done to a vector before it is written.

    Raises:
        UsageError: a factor is missing, not finite, or has nothing to scale.
    """
    from bathyscope import mappings

    if factor is None:
        if name == "scale":
            raise UsageError("--mapping scale was given without --scale", "a factor is needed", "--scale 2")
        return mappings.NormMatch() if name == "norm-match" else mappings.Identity()
    if name not in (None, "scale"):
        raise UsageError(f"both --mapping {name} and --scale were given", "one mapping is applied", "one of them")
    if not math.isfinite(factor):
        raise UsageError(f"--scale {factor} was given", "a finite number is needed", "--scale 2")
    return mappings.Scale(factor)


def readout(new_tokens: int | None, next_token: bool, top: int | None) -> "Readout":
    """What is taken from the model that was written to.

    Raises:
        UsageError: both a text and a ranking were asked for.
    """
    from bathyscope import readouts

    if not next_token and top is None:
        return readouts.Generate(NEW_TOKENS if new_tokens is None else new_tokens)
    if new_tokens is not None:
        raise UsageError(
            f"--new-tokens {new_tokens} was given with {'--next-token' if top is None else '--top'}",
            "the model either writes a text or ranks one next token",
            "one of them",
        )
    return readouts.NextToken(CANDIDATES if top is None else top)

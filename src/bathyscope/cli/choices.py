"""From what was typed to what the library takes; what can be refused without a model is refused here."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bathyscope.errors import SiteError, StorageError, UsageError
from bathyscope.sites import parse_layers

if TYPE_CHECKING:
    from bathyscope.controls import Controls
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
    """Refuse an empty name, which a shell makes of a variable that is not set, and a folder that is not there."""
    if name == "":
        raise UsageError("an empty model name was given", "a Hugging Face id or a local folder", "bathyscope models")
    if name is not None:
        from bathyscope.loading import check_folder  # of two models, none is loaded before both are there

        check_folder(name)
    return readable(name)


def check_text(text: str) -> None:
    """Refuse an empty prompt."""
    if not text:
        raise UsageError(
            "an empty prompt was given", "a prompt needs at least one token", 'a text, such as "Barack Obama"'
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


def check_out(path: Path, *endings: str, option: str = "--out") -> None:
    """Refuse a file that could not be what is asked for, before the work that it is for.

    Raises:
        UsageError: its ending is wrong, or it is a folder, or lacks one.
    """
    given = f"{option} {str(path)!r} was given"
    if path.suffix not in endings:
        raise UsageError(given, f"its name must end in {' or '.join(endings)}", f"{option} {path.stem}{endings[0]}")
    if path.is_dir():
        raise UsageError(
            given, "that is a folder, and a file is written", f"{option} {path / ('result' + path.suffix)}"
        )
    if not path.parent.is_dir():
        raise UsageError(given, f"there is no folder {str(path.parent)!r}", f"{option} {path.name}")


def check_map(path: Path, text: str | None) -> None:
    """Refuse a file that a mapping cannot be kept in, before it is fitted.

    Raises:
        UsageError: it is a folder, or lacks one, or is the text that is read.
        StorageError: its folder cannot be written to.
    """
    given = f"--out {str(path)!r} was given"
    if path.is_dir() or not path.name:
        raise UsageError(given, "that is a folder, and a file is written", f"--out {path / 'map.safetensors'}")
    if not path.parent.is_dir():
        raise UsageError(given, f"there is no folder {str(path.parent)!r}", f"--out {path.name}")
    if path.exists() and (not path.is_file() or (text is not None and Path(text).exists() and path.samefile(text))):
        what = "the text that is read" if path.is_file() else "no file that can be replaced"
        raise UsageError(given, f"that is {what}", f"--out {path.stem}.safetensors")
    check_writable(path.parent)


def check_writable(folder: Path) -> None:
    """Refuse a folder that nothing can be written to."""
    if not os.access(folder, os.W_OK):
        raise StorageError(f"the folder {str(folder)!r} cannot be written to", "one of your own", "another --out")


def numbers(text: str, option: str) -> list[int]:
    """Numbers such as 3,7 or 0-10.

    Raises:
        UsageError: it is no such list.
    """
    found = [re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part.strip()) for part in text.split(",")]
    ranges = [range(int(one[1]), int(one[2] or one[1]) + 1) for one in found if one]
    if len(ranges) < len(found) or not all(ranges):
        raise UsageError(f"{option} {text} was given", "numbers are written 3, 3,7 or 0-10", f"{option} 0-15")
    return [number for one in ranges for number in one]


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


def controls(names: str | None, texts: Sequence[str] | None, seed: int) -> "Controls":
    """What a patchscope is compared with; the target prompt as it is always.

    Raises:
        UsageError: there is no such control, or texts for none that takes any.
    """
    from bathyscope.controls import CONTROLS, UNPATCHED, Controls

    asked = [] if names is None else [name.strip() for name in names.split(",")]
    found = Controls(CONTROLS if asked == ["all"] else (UNPATCHED, *asked), seed, tuple(texts or ()))
    if texts and not {"mean", "shuffled"} & set(found.names):
        raise UsageError(
            f"--control-text {texts[0]!r} was given",
            "it is for the controls mean and shuffled, which take its tokens",
            "--controls mean",
        )
    return found


@contextmanager
def refusing() -> Iterator[None]:
    """A file that was named and cannot be read makes a request that cannot be carried out."""
    try:
        yield
    except StorageError as error:
        raise UsageError(error.given, error.expected, error.remedy) from error


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

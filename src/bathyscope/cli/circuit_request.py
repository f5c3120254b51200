"""What the circuit commands and the agreement study share: coders by site, numbers, labels, and telling progress."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bathyscope.cli import choices, terminal
from bathyscope.cli.opening import open_model
from bathyscope.errors import UsageError

if TYPE_CHECKING:
    from bathyscope.circuits import CircuitResult, FindChoices
    from bathyscope.circuits.finding import Say
    from bathyscope.generation import Progress
    from bathyscope.model import Model
    from bathyscope.sae import SparseCoder


def numbers(typed: str, option: str, kind: type) -> tuple[Any, ...]:
    """Numbers with commas between; "none" is none of them.

    Raises:
        UsageError: it is something else.
    """
    if typed.strip() == "none":
        return ()
    try:
        return tuple(kind(one) for one in typed.split(",") if one.strip())
    except ValueError as error:
        example = "10,50" if kind is int else "0.1,1"
        raise UsageError(f"{option} {typed} was given", "numbers with commas between", f"{option} {example}") from error


def find_choices(sizes: str, penalties: str, **given: Any) -> "FindChoices":
    """How circuits are looked for, as it was typed.

    Raises:
        UsageError: sizes or penalties are no numbers, or another value is none of those there are.
    """
    from bathyscope.circuits import FindChoices

    return FindChoices(
        sizes=numbers(sizes, "--sizes", int), penalties=numbers(penalties, "--penalties", float), **given
    )


def labels(path: Path) -> dict[str, str]:
    """A person's own labels.

    Raises:
        UsageError: the file cannot be read, or is something else.
    """
    from bathyscope.circuits.own_labels import read_labels

    with choices.refusing():
        return read_labels(path)


def coders(folder: Path, sites: list[str] | None) -> "dict[Path, SparseCoder]":
    """The coders of a folder, those of the sites that were asked for, by where they lie.

    Raises:
        UsageError: there are none, or none of a site.
    """
    from bathyscope.sae import coder_folders, load_coder

    with choices.refusing():
        found = {one: load_coder(one) for one in coder_folders(folder)}
    if sites is None:
        return found
    by_site = {str(one.site): path for path, one in found.items()}
    if missing := [site for site in sites if site not in by_site]:
        raise UsageError(f"--sites {missing[0]} was given", f"{folder} has coders of {', '.join(by_site)}")
    return {by_site[site]: found[by_site[site]] for site in sites}


def circuit_coders(circuit: "CircuitResult", folder: Path | None) -> "dict[Path, SparseCoder]":
    """The coders that a circuit was found with: from a folder, or from where they lay then.

    Raises:
        UsageError: one is missing, or is not the one that it was found with.
    """
    from bathyscope.sae import load_coder

    there = {} if folder is None else {str(one.site): path for path, one in coders(folder, None).items()}
    found = {}
    for site, record in circuit.coders.items():
        path = there.get(site) if folder is not None else Path(record["path"])
        if path is None:
            raise UsageError(
                f"{folder} has no coder of {site}",
                f"the circuit was found with coders of {', '.join(circuit.coders)}",
                "--coders DIR with all of them",
            )
        if folder is None and not path.exists():
            raise UsageError(f"{path} is not there", f"the circuit's coder of {site} lay there", "--coders DIR")
        with choices.refusing():
            coder = load_coder(path)
        if coder.fingerprint != record["fingerprint"]:
            raise UsageError(
                f"{path} holds a coder with the fingerprint {coder.fingerprint[:12]}",
                f"the circuit was found with {record['fingerprint'][:12]} at {site}",
                "--coders DIR with the same coders",
            )
        found[path] = coder
    return found


def parts_beside(out: Path) -> Path:
    """The folder beside a file in which the parts of unfinished work lie; if there are any, it says so."""
    kept = out.with_name(f".{out.name}.parts")
    if n_kept := sum(1 for one in kept.rglob("*") if one.is_file()):
        terminal.note(f"going on from {n_kept} finished part{'s' * (n_kept > 1)} in {kept}")
    return kept


def check_pairs(path: Path) -> None:
    """Refuse a file of pairs that cannot be read, before a model is waited for.

    Raises:
        UsageError: naming the line.
    """
    from bathyscope.facts.agreement_files import agreement_lines

    with choices.refusing():
        agreement_lines(path)


def opened(file: Path, folder: Path | None) -> "tuple[CircuitResult, dict[Path, SparseCoder]]":
    """A circuit and its coders.

    Raises:
        UsageError: the file is none, or a coder is missing or another one.
    """
    from bathyscope.circuits import open_circuit

    with choices.refusing():
        found = open_circuit(file)
    return found, circuit_coders(found, folder)


def open_its_model(found: "CircuitResult", name: str | None, **options: Any) -> "Model":
    """The model that was asked for, else the one that a circuit was found in."""
    return open_model(name or found.provenance["models"][0]["model"], **options)


def forget(kept: Path) -> None:
    """Remove what was kept of a search whose result is safe."""
    shutil.rmtree(kept, ignore_errors=True)


@contextmanager
def saying(shown: bool, unit: str = "parts") -> "Iterator[Say]":
    """Yield what is called with each part of the work as it begins; it shows one bar at a time."""
    with ExitStack() as bars:

        def say(what: str) -> "Progress | None":
            bars.close()
            return bars.enter_context(terminal.progress(what, shown=shown, per_cell=1, unit=unit))

        yield say

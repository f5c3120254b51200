"""Environments of other libraries: each its own, made once, so that none constrains this project's versions.

Whatever goes wrong with a peer is told and never ends the benchmark.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any

from measure import Settings, say

TORCH = "torch==2.13.0"
TRANSFORMERS = "transformers==5.23.0"
HOUR = 3600.0
SCRIPTS = Path(__file__).parent
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "WANDB_MODE": "disabled", "TQDM_DISABLE": "1"}


class PeerError(Exception):
    """A peer that could not be installed or run; the reason in one line."""


@dataclass(frozen=True)
class Peer:
    """Another library.

    Args:
        name: for people, and the name of its environment.
        packages: what pip installs besides torch.
        script: what measures it, from this folder.
    """

    name: str
    packages: tuple[str, ...]
    script: str


NNSIGHT = Peer("nnsight 0.8.1", ("nnsight==0.8.1", TRANSFORMERS, "accelerate"), "peers/nnsight_grid.py")
LENS_3 = Peer("TransformerLens 3.9.0", ("transformer-lens==3.9.0", TRANSFORMERS), "peers/transformerlens_patching.py")
LENS_4 = Peer("TransformerLens 4.3.0", ("transformer-lens==4.3.0", TRANSFORMERS), "peers/transformerlens_patching.py")


def measure_peer(peer: Peer, job: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """What a peer's script finds; its environment is made first where it is not there.

    Raises:
        PeerError: it cannot be installed, or it fails.
    """
    if not settings.peers:
        raise PeerError("left out (--no-peers)")
    python = _environment(peer, settings.environments)
    say(f"  {peer.name}")
    return run_script(python, SCRIPTS / peer.script, job, settings.threads)


def run_script(python: Path, script: Path, job: dict[str, Any], threads: int) -> dict[str, Any]:
    """Run a script that reads a job from one JSON file and writes what it finds to another.

    Raises:
        PeerError: it fails, or takes more than an hour.
    """
    surroundings = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    surroundings |= {**OFFLINE, "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder, "job.json"), Path(folder, "found.json")
        given.write_text(json.dumps(job), "utf-8")
        told: deque[str] = deque(maxlen=20)
        with subprocess.Popen(
            [python, script, given, found],
            env=surroundings,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        ) as process:
            timer = Timer(HOUR, process.kill)
            timer.start()
            for line in process.stderr or ():
                told.append(line.strip())
                if line.startswith("bench: "):
                    say(f"    {line.removeprefix('bench: ').rstrip()}")
            process.wait()
            timer.cancel()
        if process.returncode or not found.exists():
            said = next((line for line in reversed(told) if line), f"exit code {process.returncode}")
            raise PeerError(f"{script.name} failed: {said[:300]}")
        return json.loads(found.read_text("utf-8"))


def _environment(peer: Peer, root: Path) -> Path:
    """The Python of a peer's environment, which is made where it is missing or was made from something else."""
    folder = root / peer.name.lower().replace(" ", "-")
    # Relative to the running interpreter's layout: bin or Scripts, with or without a suffix.
    python = folder / Path(sys.executable).parent.name / Path(sys.executable).name
    stamp, wanted = folder / "installed.txt", "\n".join([TORCH, *peer.packages])
    if stamp.exists() and stamp.read_text("utf-8") == wanted and python.exists():
        return python
    say(f"  installing {peer.name} into an environment of its own")
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if index := os.environ.get("TORCH_INDEX"):
        # The other index has torch alone: its dependencies are the ordinary ones.
        _run([*pip, "--no-deps", "--index-url", index, TORCH])
    _run([*pip, TORCH, *peer.packages])
    stamp.write_text(wanted, "utf-8")
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()] or lines or ["no reason was given"]
        raise PeerError(f"could not be installed: {errors[-1].strip()[:300]}")

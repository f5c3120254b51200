"""`make bench-sae`: sparse coders trained by this project, SAELens and sparsify on the same cached activations.

    python bench/sae.py [--text FILE | --activations FILE] [--quick] [--only NAMES] [--json FILE]

Same width, k, batch and token budget, each library in its own environment; they train in turns, in three
rounds that begin with another one each, and the rounds are the three learning rates of each. Speed is of the
training loop alone, quality of the whole budget. Without a text the activations are made up.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported

import torch
from environments import Peer, PeerError, measure_peer
from measure import Settings, machine, say
from platformdirs import user_cache_path
from rich.console import Console
from sae_activations import captured, description, made_up
from sae_quality import quality
from sae_report import Measured, checks, show
from safetensors import safe_open
from tables import show_checks, show_machine
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from bathyscope.embedded import embedded_path
from bathyscope.sae import Code, CoderConfig, GivenActivations, TopK, train_coders
from bathyscope.sae import Settings as CoderSettings

N_LATENTS, K, BATCH, EPOCHS = 4608, 32, 2048, 6
ROUNDS, WARM_UP, PROBE, RECENT = 3, 5, 10, 100_000
WIDTH, MADE_UP = 576, 200_000

SAELENS_RATES = (1e-3, 3e-4, 3e-3)
SAELENS = Peer("SAELens 6.54.12", ("sae-lens==6.54.12",), "sae_peers/saelens_train.py")
SPARSIFY = Peer("eai-sparsify 1.3.3", ("eai-sparsify==1.3.3",), "sae_peers/sparsify_train.py")


@dataclass(frozen=True)
class Trained:
    """What a contender hands back.

    Args:
        tokens: rows of the clocked steps: all but the first `warm_up`.
        seconds: of these steps; neither loading nor encoding afterwards is among them.
        processor_seconds: of all threads meanwhile (time.process_time).
        settings: what it was trained with, for people, as JSON values.
        reconstruction: of the held-out rows, un-normalised, (rows, width).
        code: their latents.
        recent: latents of the last `recent` rows of the training set.
    """

    tokens: int
    seconds: float
    processor_seconds: float
    settings: dict[str, Any]
    reconstruction: Tensor
    code: Code
    recent: Code


def ours(job: dict[str, Any], settings: Settings) -> Trained:
    """Train this project's coder.

    The job is that of `sae_peers/sharing.py`: the safetensors file `activations` has "train" and "held_out",
    both (rows, width), float32, sinks left out. To be trained: `n_latents`, `k`, `batch` rows a step, `steps`
    steps in all (the same rows, shuffled anew each epoch), from `seed`, with `learning_rate` (None is the
    library's own, as in all three rounds of ours). The clock begins after `warm_up` steps and ends with the
    last one; nothing is saved, drawn or evaluated meanwhile, as in the other contenders.

    What comes back is of the finished coder, in the activations' own units: with x = held_out,
    `code = coder.encode(x)`, `reconstruction = coder.decode(code)`, `recent = coder.encode(train[-recent:])`.
    """
    del settings  # those of the machine, which this process has
    with safe_open(job["activations"], "pt") as file:
        train, held_out = file.get_tensor("train"), file.get_tensor("held_out")
    per_epoch = len(train) // job["batch"]
    epochs = max(1, job["steps"] // per_epoch)
    times: list[tuple[float, float]] = []
    (trained,) = train_coders(
        GivenActivations({"resid_post.12": train[: job["steps"] * job["batch"]]}),
        [CoderConfig("resid_post.12", TopK(job["k"]), job["n_latents"])],
        CoderSettings(epochs, job["batch"], learning_rate=job["learning_rate"], seed=job["seed"]),
        progress=lambda *_: times.append((time.perf_counter(), time.process_time())),
    )
    (began, processor_began), (ended, processor_ended) = times[job["warm_up"] - 1], times[-1]
    coder = trained.coder
    code = coder.encode(held_out)
    return Trained(
        (len(times) - job["warm_up"]) * job["batch"],
        ended - began,
        processor_ended - processor_began,
        dict(coder.training["settings"]),
        coder.decode(code),
        code,
        coder.encode(train[-job["recent"] :]),
    )


@dataclass(frozen=True)
class Contender:
    """Who is compared.

    Args:
        name: for people.
        train: trains once; a job and settings to what was trained.
        learning_rates: of the rounds; None is its own default.
        wanted: how many times faster this project is to be.
    """

    name: str
    train: Callable[[dict[str, Any], Settings], Trained]
    learning_rates: tuple[float | None, ...]
    wanted: float = 1.0


def by_peer(peer: Peer, **options: bool) -> Callable[[dict[str, Any], Settings], Trained]:
    """Training in another library's environment, with what only that library knows."""

    def train(job: dict[str, Any], settings: Settings) -> Trained:
        found = measure_peer(peer, {**job, "options": options}, settings)
        with safe_open(job["made"], "pt") as file:
            made = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        code, recent = (
            Code(made[f"{kind}indices"], made[f"{kind}values"], job["n_latents"]) for kind in ("", "recent_")
        )
        told = {**found["settings"], "versions": found["versions"]}
        clocked = found["tokens"], found["seconds"], found["processor_seconds"]
        return Trained(*clocked, told, made["reconstruction"], code, recent)

    return train


CONTENDERS = {
    "ours": Contender("this project", ours, (None,) * ROUNDS),
    "SAELens": Contender(SAELENS.name, by_peer(SAELENS), SAELENS_RATES, wanted=5),
    "SAELens-sparse": Contender(f"{SAELENS.name}, sparse", by_peer(SAELENS, sparse=True), SAELENS_RATES, wanted=5),
    "sparsify": Contender(SPARSIFY.name, by_peer(SPARSIFY), (None, 3e-3, 1e-3), wanted=3),
}


def measure(names: list[str], job: dict[str, Any], settings: Settings) -> dict[str, Measured]:
    """Train every contender once a round, another one first each time."""
    found = {name: Measured(CONTENDERS[name].name, CONTENDERS[name].wanted) for name in names}
    with safe_open(job["activations"], "pt") as file:
        held_out = file.get_tensor("held_out")
    for index in range(1 if settings.quick else ROUNDS):
        for name in names[index % len(names) :] + names[: index % len(names)]:
            one, contender = found[name], CONTENDERS[name]
            if one.failed:
                continue
            say(f"round {index + 1}: {contender.name}")
            try:
                made = contender.train({**job, "learning_rate": contender.learning_rates[index]}, settings)
            except PeerError as error:
                one.failed = str(error)
                continue
            one.rates.append(made.tokens / made.seconds)
            one.processor_rates.append(made.tokens / made.processor_seconds)
            one.qualities.append(quality(held_out, made.reconstruction, made.code, made.recent))
            one.settings.append(made.settings)
            say(f"    {one.rates[-1]:,.0f} tokens/s, {one.qualities[-1]}")
    return found


def main() -> None:
    """Make or find the activations, measure, print the tables, write the JSON file."""
    asked = _arguments()
    torch.set_num_threads(asked.threads)
    disable_progress_bar()
    settings = Settings(embedded_path(), asked.threads, asked.quick, True, asked.envs)
    console = Console(width=200, highlight=False, markup=False, soft_wrap=True)
    facts = machine(settings)
    show_machine(console, facts)
    with tempfile.TemporaryDirectory() as folder:
        told = _activations(asked)
        steps = asked.epochs * (told["train"][0] // BATCH)
        if steps <= WARM_UP:
            sys.exit(f"{told['train'][0]} rows make {steps} steps of {BATCH}; more than {WARM_UP} are needed: --rows")
        job = {
            "activations": str(asked.activations),
            "made": str(Path(folder, "made.safetensors")),
            "n_latents": N_LATENTS,
            "k": K,
            "batch": BATCH,
            "steps": min(steps, WARM_UP + 20) if asked.quick else steps,
            "warm_up": WARM_UP,
            "probe": 3 if asked.quick else PROBE,
            "recent": RECENT,
            "learning_rate": None,
            "seed": 0,
            "threads": asked.threads,
        }
        console.print(f"\n{N_LATENTS} latents, k {K}, batch {BATCH}, {job['steps']} steps on {json.dumps(told)}\n")
        found = measure(asked.only, job, settings)
    show(console, list(found.values()))
    console.print()
    promises = checks(found.get("ours"), [one for name, one in found.items() if name != "ours"])
    show_checks(console, promises, quick=asked.quick)
    kept = {name: asdict(one) for name, one in found.items()}
    all_found = {
        "machine": facts,
        "job": job,
        "activations": told,
        "found": kept,
        "checks": list(map(asdict, promises)),
    }
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps(all_found, indent=1), "utf-8")
    say(f"written to {asked.json}; the activations are {asked.activations}")


def _activations(asked: argparse.Namespace) -> dict[str, Any]:
    """The file that was named, or a new one in its place; `asked.activations` says where it is."""
    if asked.text is None and asked.activations is not None:
        return description(asked.activations)
    if asked.activations is None:
        asked.activations = user_cache_path("bathyscope-bench", appauthor=False) / "sae-activations.safetensors"
    say(f"writing activations to {asked.activations}")
    rows = asked.rows or (20_000 if asked.quick else None)
    if asked.text is not None:
        return captured(asked.text, rows, asked.activations)
    return made_up(rows or MADE_UP, WIDTH, asked.activations)


def _arguments() -> argparse.Namespace:
    cache = user_cache_path("bathyscope-bench", appauthor=False)
    parser = argparse.ArgumentParser(description="Train sparse coders with bathyscope, SAELens and sparsify.")
    parser.add_argument("--text", type=Path, metavar="FILE", help="whose activations; without it they are made up")
    parser.add_argument(
        "--activations", type=Path, metavar="FILE", help="use this file; with --text, where they are written"
    )
    parser.add_argument("--rows", type=int, metavar="N", help="at most so many rows to train on")
    parser.add_argument("--epochs", type=int, default=EPOCHS, metavar="N", help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="few rows, few steps, one round: no figures to quote")
    parser.add_argument("--only", type=_names, default=list(CONTENDERS), metavar="NAMES", help=",".join(CONTENDERS))
    parser.add_argument("--json", type=Path, default=cache / "results-sae.json", metavar="FILE", help="%(default)s")
    parser.add_argument("--envs", type=Path, default=cache / "envs", metavar="FOLDER", help="others' environments")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: torch's, %(default)s")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in CONTENDERS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is none of {', '.join(CONTENDERS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())

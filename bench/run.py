"""`make bench`: everything that the project promises about speed and memory, measured in one run, side by side.

    python bench/run.py [--quick] [--only grid,patching,lens,memory] [--json FILE] [--envs FOLDER]

It takes about half an hour on two cores. Times of different runs or machines must not be compared: on a
shared machine they differ by a half.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported

import grid
import lens
import memory
import patching
import torch
from measure import Settings, machine, say
from platformdirs import user_cache_path
from rich.console import Console
from tables import show, show_machine
from transformers.utils.logging import disable_progress_bar

from bathyscope.embedded import embedded_path

PARTS = {"grid": grid.measure, "patching": patching.measure, "lens": lens.measure, "memory": memory.measure}


def main() -> None:
    """Measure what was asked for, print the tables, write the JSON file."""
    asked = _arguments()
    torch.set_num_threads(asked.threads)
    disable_progress_bar()
    settings = Settings(embedded_path(), asked.threads, asked.quick, asked.peers, asked.envs)
    console = Console(width=200, highlight=False, markup=False, soft_wrap=True)
    found: dict[str, Any] = {"machine": machine(settings), "parts": {}}
    show_machine(console, found["machine"])
    for name in asked.only:
        part = PARTS[name](settings)
        found["parts"][name] = part.to_dict(quick=settings.quick)
        # Written after each part, so that what an interrupted run has measured is kept.
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(found, indent=1), "utf-8")
        show(console, part, quick=settings.quick)
    say(f"written to {asked.json}")


def _arguments() -> argparse.Namespace:
    cache = user_cache_path("bathyscope-bench", appauthor=False)
    parser = argparse.ArgumentParser(description="Measure bathyscope against a plain loop, other libraries and limits.")
    parser.add_argument(
        "--quick", action="store_true", help="a few cells and one warm run: a test, no figures to quote"
    )
    parser.add_argument("--only", type=_parts, default=list(PARTS), metavar="PARTS", help=f"of {','.join(PARTS)}")
    parser.add_argument(
        "--json", type=Path, default=cache / "results.json", metavar="FILE", help="default: %(default)s"
    )
    parser.add_argument(
        "--envs", type=Path, default=cache / "envs", metavar="FOLDER", help="other libraries' environments"
    )
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="leave the other libraries out")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: torch's, %(default)s")
    return parser.parse_args()


def _parts(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is none of {', '.join(PARTS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())

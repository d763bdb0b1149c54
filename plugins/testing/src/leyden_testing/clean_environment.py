"""For Leyden's own tests: a virtual environment in which wheels are installed as users install them.

The repository is not on its path. The third-party packages of the running environment are linked and not copied, since
they are large. Leyden's own editable installs are left out.
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
    """Run a command that must succeed, and return its output.

    Args:
        command: The program and its arguments.
        cwd: The directory in which it runs.
        environ: Further environment variables. Those of this process are kept, except Leyden's and Python's.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LEYDEN", "PYTHON"))}
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**kept, **environ}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def build_wheels(folder: Path, *sources: Path) -> dict[str, Path]:
    """Build the wheels of distributions.

    Args:
        folder: The directory for the wheels.
        sources: The directories of the distributions.

    Returns:
        The wheels' paths by the distributions' names.
    """
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    run(*pip, "--wheel-dir", folder, *sources)
    return {path.name.split("-")[0].replace("_", "-"): path for path in folder.glob("*.whl")}


class CleanEnvironment:
    """A virtual environment with the third-party packages of the running one, but without Leyden.

    Args:
        folder: The directory to make it in.
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
        """Yield the packages in the order of ``sys.path``, so that the first of a name is linked, as for an import."""
        for folder in map(Path, sys.path):
            if folder.name in ("site-packages", "dist-packages"):
                ours = ("leyden", "_editable_impl_leyden")
                yield from (e for e in folder.iterdir() if not e.name.startswith(ours) and e.suffix != ".pth")

    def pip(self, *arguments: str | Path) -> str:
        """Run pip in this environment and return its output."""
        return run(self.python, "-I", "-m", "pip", "--disable-pip-version-check", *arguments)

    def install(self, *files: Path) -> None:
        """Install wheels."""
        self.pip("install", "--quiet", "--no-deps", "--no-index", *files)

    def uninstall(self, *distributions: str) -> None:
        """Uninstall distributions."""
        self.pip("uninstall", "--quiet", "--yes", *distributions)

    @contextmanager
    def without(self, wheels: dict[str, Path], *distributions: str) -> Iterator[None]:
        """Uninstall some distributions within a block."""
        self.uninstall(*distributions)
        try:
            yield
        finally:
            self.install(*(wheels[name] for name in distributions))

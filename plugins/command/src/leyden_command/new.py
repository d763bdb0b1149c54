"""``leyden new``: write a plugin package with working code, tests that use the conformance kit, and a README."""

from __future__ import annotations

import argparse
import keyword
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import importlib_metadata as metadata

from leyden.utilities.exceptions import MisconfigurationException
from leyden_command import distributions

if TYPE_CHECKING:
    from importlib.abc import Traversable

TEMPLATES = files("leyden_command").joinpath("templates")
KINDS = ("accelerator", "callback", "checkpoint_io", "environment", "logger", "precision", "profiler", "strategy")
SHARED = "package"  # the template of the files that every package has
CORE = '"leyden-core[hooks-1]>=0.1,<1"'  # the dependencies in that template
DEPENDENCIES = {"logger": f'{CORE}, "leyden-logfiles>=0.1,<1"'}  # the dependencies of a kind that needs more


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("kind", choices=KINDS, help="what the plugin provides")
    parser.add_argument(
        "name", help="the name that users write, as in Trainer(accelerator=NAME); a callback's class is named after it"
    )
    parser.add_argument("--directory", type=Path, default=Path(), help="where to make the folder (default: here)")


def run(options: argparse.Namespace) -> int:
    """Write the package and print what to do next.

    Raises:
        MisconfigurationException: The name or the folder can't be used.
    """
    name = checked_name(options.name)
    folder = write(options.kind, name, options.directory)
    print(f"{folder} is the new package of the {options.kind} {name!r}. Next:")
    print(f'    cd {folder}\n    python -m pip install -e ".[test]"\n    python -m pytest')
    return 0


def checked_name(given: str) -> str:
    """Return the name as a Python identifier: ``my-npu``, ``My NPU`` and ``leyden-my-npu`` become ``my_npu``.

    Raises:
        MisconfigurationException: It can't become an identifier, or another package has the name.
    """
    name = re.sub(r"[-_.\s]+", "_", given.strip().lower()).removeprefix("leyden_").strip("_")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise MisconfigurationException(
            f"{given!r} can't be the name of a Python package; write letters and digits, a letter first: 'my_logger'."
        )
    if name in sys.stdlib_module_names:
        raise MisconfigurationException(f"{given!r} is the name of a module of Python itself; choose another name.")
    distribution = f"leyden-{name.replace('_', '-')}"
    if distribution in distributions.known():
        raise MisconfigurationException(f"{distribution} is one of Leyden's own distributions; choose another name.")
    for taken in (name, distribution):
        try:
            metadata.distribution(taken)
        except metadata.PackageNotFoundError:
            continue
        raise MisconfigurationException(f"{given!r} is taken: {taken} is installed here; choose another name.")
    return name


def write(kind: str, name: str, directory: Path) -> Path:
    """Write a package from the templates.

    Args:
        kind: One of :data:`KINDS`.
        name: A name from :func:`checked_name`.
        directory: The directory in which to make the folder ``leyden-NAME``.

    Returns:
        The folder.

    Raises:
        MisconfigurationException: The folder exists already, or can't be written.
    """
    words = {
        CORE: DEPENDENCIES.get(kind, CORE),
        "leyden-quux": f"leyden-{name.replace('_', '-')}",
        "QUUX": name.upper(),
        "Quux": "".join(word.capitalize() for word in name.split("_")),
        "quux": name,
    }
    folder = directory / words["leyden-quux"]
    if folder.exists():
        raise MisconfigurationException(f"{folder} exists already and was not changed; give another --directory.")
    try:
        for template in (SHARED, kind):
            for path, source in _files(TEMPLATES.joinpath(template), Path()):
                target = folder / _replaced(str(path), {**words, "dot-": "."})
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(_replaced(source.read_text(encoding="utf-8"), words), encoding="utf-8")
    except OSError as error:
        raise MisconfigurationException(f"{folder} can't be written: {error.strerror}.") from error
    return folder


def _files(folder: Traversable, path: Path) -> Iterator[tuple[Path, Traversable]]:
    """Yield every file of a template with its path in the template."""
    for entry in folder.iterdir():
        if entry.is_file():
            yield path / entry.name, entry
        elif entry.name != "__pycache__":
            yield from _files(entry, path / entry.name)


def _replaced(text: str, words: Mapping[str, str]) -> str:
    """Return the text with each key of ``words`` replaced by its value."""
    for word, other in words.items():
        text = text.replace(word, other)
    return text

"""``leyden new``: write the package of a plugin, with code that works, tests on the conformance kit, and a README."""

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
SHARED = "package"  # the template of what every package has
CORE = '"leyden-core[hooks-1]>=0.1,<1"'  # what every package needs, as it stands in that template
NEEDS = {"logger": f'{CORE}, "leyden-logfiles>=0.1,<1"'}  # what the code of a kind needs instead


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("kind", choices=KINDS, help="what the plugin brings")
    parser.add_argument(
        "name", help="what users write, as in Trainer(accelerator=NAME); a callback's class is made of it"
    )
    parser.add_argument("--directory", type=Path, default=Path(), help="where to make its folder (default: here)")


def run(options: argparse.Namespace) -> int:
    """Write the package and say what to do next.

    Raises:
        MisconfigurationException: The name or the folder is none that can be taken.
    """
    name = checked_name(options.name)
    folder = write(options.kind, name, options.directory)
    print(f"{folder} is the package of the {options.kind} {name!r}. Next:")
    print(f'    cd {folder}\n    python -m pip install -e ".[test]"\n    python -m pytest')
    return 0


def checked_name(given: str) -> str:
    """The name as a Python identifier: ``my-npu``, ``My NPU`` and ``leyden-my-npu`` are ``my_npu``.

    Raises:
        MisconfigurationException: It is none, or the package would have the name of one that is there.
    """
    name = re.sub(r"[-_.\s]+", "_", given.strip().lower()).removeprefix("leyden_").strip("_")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise MisconfigurationException(
            f"{given!r} makes no name for a Python package; write letters and digits, a letter first: 'my_logger'."
        )
    if name in sys.stdlib_module_names:
        raise MisconfigurationException(f"{given!r} is the name of a module of Python's own; choose another.")
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
        directory: Where to make its folder, ``leyden-NAME``.

    Returns:
        The folder.

    Raises:
        MisconfigurationException: The folder is there already, or can't be made.
    """
    words = {
        CORE: NEEDS.get(kind, CORE),
        "leyden-quux": f"leyden-{name.replace('_', '-')}",
        "QUUX": name.upper(),
        "Quux": "".join(word.capitalize() for word in name.split("_")),
        "quux": name,
    }
    folder = directory / words["leyden-quux"]
    if folder.exists():
        raise MisconfigurationException(
            f"{folder} is there already, and nothing in it is touched; name another directory."
        )
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
    """Every file in a template, with its path there."""
    for entry in folder.iterdir():
        if entry.is_file():
            yield path / entry.name, entry
        elif entry.name != "__pycache__":
            yield from _files(entry, path / entry.name)


def _replaced(text: str, words: Mapping[str, str]) -> str:
    """The text with the stand-in's name, in all its forms, replaced by the plugin's."""
    for word, other in words.items():
        text = text.replace(word, other)
    return text

"""Plugins import from the core what is public, in annotations too: others could have written Leyden's own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import leyden

ROOT = Path(__file__).parents[2]
PACKAGES = sorted([*ROOT.glob("plugins/*/src/*"), *ROOT.glob("examples/third_party/*/src/*")])
CORE = ROOT / "core" / "src" / "leyden"
WINDOWS = {path.stem for path in CORE.glob("*.py") if " = window(" in path.read_text(encoding="utf-8")}


def internals(source: str) -> Iterator[str]:
    """What a module imports from the core that is not public."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if not is_public(name))


def is_public(name: str) -> bool:
    package, *rest = name.split(".")
    if package != "leyden" or not rest or rest[0] == "utilities":
        return True
    if rest[0] == "plugins":
        return len(rest) < 3 and (len(rest) == 1 or rest[1] in leyden.plugins.__all__)
    return rest[0] in WINDOWS if len(rest) > 1 else rest[0] in {*WINDOWS, *leyden.__all__}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_plugin_imports_nothing_internal(package: Path) -> None:
    sources = [path.read_text(encoding="utf-8") for path in package.rglob("*.py")]
    assert [name for source in sources for name in internals(source)] == []


@pytest.mark.parametrize(
    "source",
    [
        "import leyden.trainer.run",
        "from leyden.trainer import Trainer",
        "from leyden import datamodule",
        "from leyden.plugins import window",
        "if TYPE_CHECKING:\n    from leyden.module import LightningModule",
        "def f():\n    from leyden.metrics import Results",
    ],
)
def test_an_internal_name_is_found(source: str) -> None:
    assert list(internals(source))


@pytest.mark.parametrize(
    "source",
    ["from leyden import Trainer", "from leyden.plugins import Run", "from leyden.utilities.rng import isolate_rng"],
)
def test_a_public_name_is_none(source: str) -> None:
    assert not list(internals(source))

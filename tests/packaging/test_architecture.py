"""The page on the architecture names only what is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "core" / "src" / "leyden"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([\w/]+\.py):([\w.]+)`", PAGE)))


def names(body: list[ast.stmt], prefix: str = "") -> set[str]:
    """The functions, classes, methods and variables of a module or class."""
    found: set[str] = set()
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            found.add(prefix + node.name)
        if isinstance(node, ast.ClassDef):
            found |= names(node.body, f"{prefix}{node.name}.")
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {prefix + target.id for target in targets if isinstance(target, ast.Name)}
    return found


def test_the_page_follows_something() -> None:
    assert len(NAMED) > 40


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_what_the_page_names_is_there(file: str, name: str) -> None:
    assert name in names(ast.parse((CORE / file).read_text(encoding="utf-8")).body)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:core|tests|plugins)/[\w/.]+\.py)`", PAGE))))
def test_the_files_that_the_page_names_are_there(path: str) -> None:
    assert (ROOT / path).is_file()


@pytest.mark.parametrize("page", [PAGE, (ROOT / "core" / "README.md").read_text(encoding="utf-8")])
def test_every_package_of_the_core_has_its_line(page: str) -> None:
    packages = sorted(path.parent.name for path in CORE.glob("*/__init__.py"))
    assert "trainer" in packages
    assert [name for name in packages if f"{name}/" not in page] == []

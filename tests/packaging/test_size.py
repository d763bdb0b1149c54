"""The core stays small: about 5,100 lines, less than a quarter of what pytorch-lightning needs, counted alike.

    python tests/packaging/test_size.py

prints both figures, and those of the core's files.
"""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

CORE = Path(__file__).parents[2] / "core" / "src" / "leyden"


def lines_of_code(source: str) -> int:
    """Lines that are neither blank nor part of a comment or a docstring."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, documented)]
    docstrings = [node.body[0] for node in nodes if ast.get_docstring(node, clean=False) is not None]
    described = {line for text in docstrings for line in range(text.lineno, (text.end_lineno or text.lineno) + 1)}
    lines = enumerate(map(str.strip, source.splitlines()), 1)
    return sum(bool(line) and not line.startswith("#") and number not in described for number, line in lines)


def by_file(package: Path) -> dict[str, int]:
    """The lines of code of each file of a package."""
    files = package.rglob("*.py")
    return {str(path.relative_to(package)): lines_of_code(path.read_text(encoding="utf-8")) for path in files}


def peer() -> Path:
    """Where pytorch-lightning is installed."""
    spec = find_spec("pytorch_lightning")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def test_blank_lines_comments_and_docstrings_do_not_count() -> None:
    assert (
        lines_of_code(
            '"""A module."""\n\n# why\nx = 1  # here\n\n\ndef f():\n    """A\n    function."""\n    return x\n'
        )
        == 3
    )


def test_the_core_stays_small() -> None:
    assert sum(by_file(CORE).values()) <= 5125 < 0.25 * sum(by_file(peer()).values())


if __name__ == "__main__":
    print(f"core {sum(by_file(CORE).values())}, pytorch-lightning {sum(by_file(peer()).values())}")
    for name, count in sorted(by_file(CORE).items(), key=lambda item: -item[1]):
        print(f"{count:6} {name}")

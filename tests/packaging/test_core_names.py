"""The core's source names no device, vendor, backend, logger or other plugin; its docstrings may, as examples."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "core" / "src" / "leyden"
SOURCES = sorted(path.relative_to(CORE).as_posix() for path in CORE.rglob("*.py"))

DEVICES = "cuda|mps|xla|tpu|npu|hpu|xpu|nccl|gloo"
BACKENDS = "deepspeed|fsdp|ddp|slurm|wandb|mlflow|tensorboard|rich|tqdm"
WORDS = re.compile(rf"(?<![a-z])({DEVICES}|{BACKENDS})(?![a-z])", re.IGNORECASE)


def catalogued() -> list[str]:
    """The distributions in the catalogue of plugins, as names of packages too, and the classes that they bring."""
    catalogue = json.loads((CORE / "plugin_system" / "catalogue.json").read_text(encoding="utf-8"))
    kinds = [names for section in catalogue.values() for names in section.values()]
    distributions = {distribution for names in kinds for distribution in names.values()}
    classes = {name for names in kinds for name in names if name[0].isupper()}
    return sorted(distributions | {name.replace("-", "_") for name in distributions} | classes)


PLUGINS = re.compile(rf"\b({'|'.join(map(re.escape, catalogued()))})\b")


def code(source: str) -> str:
    """The source without comments and docstrings, string literals kept."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body[0] = ast.Pass()
    return ast.unparse(tree)


def named(source: str) -> list[str]:
    """What the code names that the core must not know."""
    text = code(source)
    return [match.group() for pattern in (WORDS, PLUGINS) for match in pattern.finditer(text)]


@pytest.mark.parametrize("path", SOURCES)
def test_the_core_names_nothing_foreign(path: str) -> None:
    assert named((CORE / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import leyden_callbacks",
        "device = 'cuda:0'",
        "def is_mps_available(): ...",
        "name = 'pip install leyden-csv'",
        "if type(c).__name__ == 'EarlyStopping': ...",
        "x = f'{y} on NCCL'",
    ],
)
def test_a_foreign_name_is_found(source: str) -> None:
    assert named(source)


def test_docstrings_and_comments_may_name_anything() -> None:
    assert named('"""Such as cuda."""\ndef f():\n    """As EarlyStopping does."""\n    return 1  # tqdm\n') == []

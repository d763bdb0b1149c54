"""``leyden new``: every package that it writes passes its own tests; unusable names and folders are refused."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from leyden.plugins import HOOKS_VERSION
from leyden_command import new
from leyden_command.main import main

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each kind, a package as ``leyden new`` writes it."""
    folder = tmp_path_factory.mktemp("packages")
    for kind in new.KINDS:
        assert main(["new", kind, f"my-{kind}", "--directory", str(folder)]) == 0
    return {kind: folder / f"leyden-my-{kind.replace('_', '-')}" for kind in new.KINDS}


def project(package: Path) -> dict[str, Any]:
    return tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("kind", new.KINDS)
def test_a_package_is_complete(packages, kind):
    package, module = packages[kind], f"leyden_my_{kind}"
    files = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    assert files == {
        ".github/workflows/test.yml",
        ".gitignore",
        "README.md",
        "pyproject.toml",
        f"src/{module}/__init__.py",
        f"src/{module}/{kind}.py",
        f"src/{module}/plugin.py",
        f"src/{module}/py.typed",
        f"tests/test_my_{kind}_{kind}.py",
    }
    described = project(package)
    assert described["name"] == package.name
    assert described["entry-points"] == {"leyden": {f"my_{kind}": f"{module}.plugin"}}
    needs = ["leyden-logfiles>=0.1,<1"] if kind == "logger" else []
    assert described["dependencies"] == [f"leyden-core[hooks-{HOOKS_VERSION}]>=0.1,<1", *needs]
    assert "license" not in described
    for path in files - {f"src/{module}/py.typed"}:
        text = (package / path).read_text(encoding="utf-8")
        assert text.strip(), path
        assert "quux" not in text.lower(), path


PUBLIC = ("leyden", *(f"leyden.{n}" for n in (
    "accelerators", "callbacks", "loggers", "plugins", "profilers", "strategies", "utilities"
)))  # fmt: skip


@pytest.mark.parametrize("kind", new.KINDS)
def test_its_code_uses_public_names_and_says_what_it_is(packages, kind):
    """Modules, classes and functions have docstrings; from Leyden only modules for users are imported."""
    for path in (packages[kind] / "src").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef)):
                assert ast.get_docstring(node), path
            if isinstance(node, ast.ClassDef):
                methods = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name != "__init__"]
                assert all(ast.get_docstring(method) for method in methods), path
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "leyden":
                assert node.module in PUBLIC, path


def install(packages: dict[str, Path], site: Path) -> dict[str, str]:
    """Write the packages' metadata to a folder; return environment variables with which Python finds them."""
    for package in packages.values():
        described = project(package)
        info = site / f"{described['name'].replace('-', '_')}-{described['version']}.dist-info"
        info.mkdir(parents=True)
        needs = "".join(f"Requires-Dist: {need}\n" for need in described["dependencies"])
        header = f"Metadata-Version: 2.1\nName: {described['name']}\nVersion: {described['version']}\n"
        (info / "METADATA").write_text(header + needs, encoding="utf-8")
        points = "".join(f"{name} = {target}\n" for name, target in described["entry-points"]["leyden"].items())
        (info / "entry_points.txt").write_text(f"[leyden]\n{points}", encoding="utf-8")
    sources = [str(site), *(str(package / "src") for package in packages.values())]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sources), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_every_package_passes_its_own_tests(packages, tmp_path):
    """All tests run in one process, to start and import once; tests that need a missing device are skipped."""
    environment = install(packages, tmp_path / "site")
    settings = packages["logger"] / "pyproject.toml"  # all have the same
    tests = [str(package / "tests") for package in packages.values()]
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-c", str(settings), *tests]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ passed", done.stdout)
    assert "failed" not in done.stdout
    assert re.search(
        r"SKIPPED .* (no my_accelerator device|no device type 'my_accelerator') on this machine", done.stdout
    )


@pytest.mark.slow
def test_every_package_is_typed(packages, tmp_path):
    """By mypy's strict rules. PyTorch's types are left out, since they cost half a minute."""
    pytest.importorskip("mypy")
    settings = tmp_path / "mypy.ini"
    settings.write_text("[mypy]\nstrict = True\nwarn_return_any = False\n[mypy-torch.*]\nfollow_imports = skip\n")
    sources = [str(package / "src" / f"leyden_my_{kind}") for kind, package in packages.items()]
    command = [sys.executable, "-m", "mypy", "--config-file", str(settings), *sources]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout


# -- names and folders ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "name"),
    [("npu9", "npu9"), ("My-NPU", "my_npu"), ("leyden-my.npu", "my_npu"), (" my npu ", "my_npu"), ("a__b", "a_b")],
)
def test_a_name_becomes_an_identifier(given, name):
    assert new.checked_name(given) == name


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "can't be the name of a Python package"),
        ("9lives", "can't be the name of a Python package"),
        ("naïve", "can't be the name of a Python package"),
        ("../npu", "can't be the name of a Python package"),
        ("class", "can't be the name of a Python package"),
        ("json", "is the name of a module of Python itself"),
        ("torch", "is taken: torch is installed here"),
        ("import-linter", "is taken: import_linter is installed here"),
        ("cpu", "leyden-cpu is one of Leyden's own distributions"),
        ("wandb", "leyden-wandb is one of Leyden's own distributions"),
        ("core", "leyden-core is one of Leyden's own distributions"),
    ],
)
def test_a_name_that_can_not_be_taken_is_refused(tmp_path, capsys, given, said):
    assert main(["new", "logger", given, "--directory", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("leyden new: ")
    assert said in error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_left_alone(tmp_path, capsys):
    folder = tmp_path / "leyden-tape"
    folder.mkdir()
    (folder / "README.md").write_text("mine", encoding="utf-8")
    assert main(["new", "logger", "tape", "--directory", str(tmp_path)]) == 2
    assert f"{folder} exists already" in capsys.readouterr().err
    assert [path.read_text(encoding="utf-8") for path in folder.iterdir()] == ["mine"]


def test_a_folder_that_can_not_be_made_is_said(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    assert main(["new", "logger", "tape", "--directory", str(file)]) == 2
    assert "can't be written" in capsys.readouterr().err


def test_it_says_what_to_do_next(tmp_path, capsys):
    assert main(["new", "strategy", "my-ring", "--directory", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"cd {tmp_path / 'leyden-my-ring'}" in out
    assert 'pip install -e ".[test]"' in out
    source = (tmp_path / "leyden-my-ring/src/leyden_my_ring/strategy.py").read_text(encoding="utf-8")
    assert "class MyRingStrategy(Strategy):" in source


def test_a_kind_that_is_none_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["new", "gizmo", "x"])
    assert "invalid choice: 'gizmo'" in capsys.readouterr().err

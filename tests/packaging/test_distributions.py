"""The distributions of this repository agree: versions, bounds, entry points, layout, and what installs them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PLUGINS = sorted(path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml"))
DOCUMENTS = [
    path for place in (".", "core", "plugins/*", "examples/*/*") for path in sorted(ROOT.glob(f"{place}/README.md"))
] + [ROOT / "CONTRIBUTING.md"]
KIT = "testing"  # pytest's plugin, not Leyden's


def settings(folder: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))


def project(folder: str) -> dict[str, Any]:
    return settings(folder)["project"]


def bound(name: str) -> str:
    """The requirement on another distribution of this repository: the same minor version."""
    major, minor, _ = project("core")["version"].split(".")
    return f"{name}>={major}.{minor},<{major}.{int(minor) + 1}"


def own_requirements(folder: str) -> list[str]:
    return [need for need in project(folder)["dependencies"] if need.startswith("leyden")]


def test_the_requirements_file_lists_the_root_the_core_and_every_plugin() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    installed = [line.removeprefix("-e ") for line in lines if not line.startswith("#")]
    assert installed == [".", "core", *(f"plugins/{name}" for name in PLUGINS)]


def test_leyden_depends_on_the_core_and_on_plugins_of_this_repository() -> None:
    assert "leyden-core" in own_requirements(".")[0]
    here = {bound("leyden-core"), *(bound(f"leyden-{name}") for name in PLUGINS)}
    assert set(project(".")["dependencies"]) <= here


@pytest.mark.parametrize("folder", ["core", *(f"plugins/{name}" for name in PLUGINS)])
def test_versions_and_terms_are_those_of_the_root(folder: str) -> None:
    for key in ("version", "license", "requires-python", "readme"):
        assert project(folder)[key] == project(".")[key], key
    assert settings(folder)["build-system"] == settings(".")["build-system"]


def test_the_core_requires_nothing_of_this_repository() -> None:
    assert own_requirements("core") == []


@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin_is_named_after_its_folder_and_bounds_the_core(name: str) -> None:
    assert project(f"plugins/{name}")["name"] == f"leyden-{name}"
    assert bound("leyden-core") in project(f"plugins/{name}")["dependencies"]
    found_by = {"pytest11": "leyden-testing"} if name == KIT else {"leyden": name}
    expected = {group: {point: f"leyden_{name}.plugin"} for group, point in found_by.items()}
    assert project(f"plugins/{name}")["entry-points"] == expected


@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin_has_a_readme_tests_and_types(name: str) -> None:
    folder = ROOT / "plugins" / name
    assert (folder / "README.md").read_text(encoding="utf-8").startswith(f"# leyden-{name}\n")
    assert list(folder.glob("tests/test_*.py"))
    assert (folder / "src" / f"leyden_{name}" / "py.typed").is_file()


def test_no_conftest_changes_the_path() -> None:
    """What tests share is in the kit, or beside them and imported relatively."""
    folders = (ROOT, *(ROOT / name for name in ("core", "plugins", "tests", "examples")))
    files = {file for folder in folders for file in folder.glob("conftest.py" if folder == ROOT else "**/conftest.py")}
    assert ROOT / "conftest.py" in files
    assert [str(file) for file in files if "sys.path" in file.read_text(encoding="utf-8")] == []


def test_the_readme_has_a_row_for_every_plugin() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[`leyden-(\w+)`\]\(plugins/(\w+)/README\.md\)", readme, re.MULTILINE)
    assert sorted(rows) == [(name, name) for name in PLUGINS]


@pytest.mark.parametrize("document", [str(p.relative_to(ROOT)) for p in DOCUMENTS])
def test_links_lead_to_a_file_and_a_heading_of_it(document: str) -> None:
    path = ROOT / document
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", path.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), f"{document} leads to {link}, which is not there"
        headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        anchors = [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]
        assert not anchor or anchor in anchors, f"{document} leads to {link}, which has no such heading"


def test_the_import_contracts_know_every_plugin() -> None:
    linter = settings(".")["tool"]["importlinter"]
    packages = {f"leyden_{name}" for name in PLUGINS}
    by_type = {contract["type"]: contract for contract in linter["contracts"]}
    forbidden = {contract["name"]: contract for contract in linter["contracts"] if contract["type"] == "forbidden"}
    assert set(linter["root_packages"]) == {"leyden", *packages}
    assert set(forbidden["The core imports no plugin"]["forbidden_modules"]) == packages
    assert set(forbidden["A plugin imports from the core what is public"]["source_modules"]) == packages
    assert set(by_type["independence"]["modules"]) == packages
    assert set(by_type["acyclic_siblings"]["ancestors"]) == {"leyden", *packages}


def test_the_import_contracts_allow_one_plugin_another_only_where_it_depends_on_it() -> None:
    contracts = settings(".")["tool"]["importlinter"]["contracts"]
    allowed = next(contract for contract in contracts if contract["type"] == "independence").get("ignore_imports", [])
    depends = {
        f"leyden_{name}.** -> leyden_{other}.**"
        for name in PLUGINS
        for other in PLUGINS
        if bound(f"leyden-{other}") in own_requirements(f"plugins/{name}")
    }
    assert set(allowed) == depends


def test_discovering_the_plugins_imports_none_of_their_dependencies() -> None:
    script = (
        "import sys, importlib_metadata, packaging.requirements, leyden;"
        "from leyden.plugin_system.discovery import discover;"
        "before = set(sys.modules); assert len(discover().infos) > 1;"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "print(*[name for name in new if not name.startswith('leyden') and name not in sys.stdlib_module_names])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []

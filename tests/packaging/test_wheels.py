"""Built wheels in a clean environment: any plugin can be uninstalled, the others work, and what is missing is named.

pip installs and uninstalls the wheels for real.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden_testing.clean_environment import CleanEnvironment, run

ROOT = Path(__file__).parents[2]
KIT = "testing"  # pytest's plugin, which brings the Trainer nothing
DISTRIBUTIONS = sorted(path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml"))
PLUGINS = [name for name in DISTRIBUTIONS if name != KIT]
CATALOGUE = json.loads((ROOT / "core/src/leyden/plugin_system/catalogue.json").read_text(encoding="utf-8"))["published"]
# Several distributions bring these, so that one of them is not missed while another is there.
SHARED = {("accelerator", "gpu"), ("role", "accelerator"), ("role", "logger")}
EVERYTHING = sorted(["leyden-core", *(f"leyden-{name}" for name in PLUGINS)])

pytestmark = pytest.mark.slow


def ask(environment: CleanEnvironment, cwd: Path, wanted: dict[str, list[str]] | None = None) -> dict[str, Any]:
    """The answers of ``ask.py``, run in the environment."""
    script = ROOT / "tests" / "packaging" / "ask.py"
    output = run(environment.python, "-I", script, json.dumps(wanted or {}), cwd=cwd)
    answers: dict[str, Any] = json.loads(output.splitlines()[-1])
    return answers


def dependents(distribution: str) -> list[str]:
    """The plugins that need this one."""
    texts = {name: (ROOT / "plugins" / name / "pyproject.toml").read_text(encoding="utf-8") for name in PLUGINS}
    return [f"leyden-{name}" for name, text in texts.items() if f'"{distribution}>=' in text]


def brought_by(distribution: str) -> dict[str, list[str]]:
    """What the core's catalogue says that only this distribution brings, by kind."""
    return {
        kind: [name for name, brings in names.items() if brings == distribution and (kind, name) not in SHARED]
        for kind, names in CATALOGUE.items()
    }


def test_the_distribution_leyden_has_no_code(wheels: dict[str, Path]) -> None:
    with zipfile.ZipFile(wheels["leyden"]) as wheel:
        assert all(".dist-info/" in name for name in wheel.namelist())


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_wheel_has_the_package_its_types_and_no_tests(name: str, wheels: dict[str, Path]) -> None:
    with zipfile.ZipFile(wheels[f"leyden-{name}"]) as wheel:
        names = wheel.namelist()
    assert {f"leyden_{name}/plugin.py", f"leyden_{name}/py.typed"} <= set(names)
    assert all(entry.startswith((f"leyden_{name}/", f"leyden_{name}-")) for entry in names)


def test_everything_installed_is_consistent_and_trains(environment: CleanEnvironment, tmp_path: Path) -> None:
    assert "No broken requirements" in environment.pip("check")
    answers = ask(environment, tmp_path)
    assert answers["fit"] is None
    assert answers["distributions"] == EVERYTHING


@pytest.mark.parametrize("name", PLUGINS)
def test_without_one_plugin_the_others_work_and_what_is_missing_is_named(
    name: str, environment: CleanEnvironment, wheels: dict[str, Path], tmp_path: Path
) -> None:
    missing = f"leyden-{name}"
    gone = [missing, *dependents(missing)]
    with environment.without(wheels, *gone):
        answers = ask(environment, tmp_path, brought_by(missing))

    assert answers["set aside"] == []
    assert answers["distributions"] == [distribution for distribution in EVERYTHING if distribution not in gone]
    if name == "cpu" and not torch.accelerator.is_available():
        assert_names(answers["fit"], missing)
    else:
        assert answers["fit"] is None
    assert answers["asked"], f"the catalogue has nothing of {missing}"
    for said in answers["asked"].values():
        assert_names(said, missing)


def assert_names(said: str | None, distribution: str) -> None:
    """An error of one line that says what to install."""
    assert said is not None
    assert f"pip install {distribution}" in said
    assert "\n" not in said


def test_the_core_and_one_accelerator_are_the_smallest_trainer(
    environment: CleanEnvironment, wheels: dict[str, Path], tmp_path: Path
) -> None:
    others = {distribution for distribution in wheels if distribution not in ("leyden-core", "leyden-cpu")}
    wanted = {kind: [name for name in names if names[name] in others] for kind, names in CATALOGUE.items()}
    with environment.without(wheels, *others):
        answers = ask(environment, tmp_path, wanted)
    assert answers["distributions"] == ["leyden-core", "leyden-cpu"]
    assert answers["fit"] is None
    for asked, said in answers["asked"].items():
        kind, name = asked.split()
        assert_names(said, CATALOGUE[kind][name])


def test_the_core_alone_asks_for_an_accelerator(
    environment: CleanEnvironment, wheels: dict[str, Path], tmp_path: Path
) -> None:
    with environment.without(wheels, *(distribution for distribution in wheels if distribution != "leyden-core")):
        answers = ask(environment, tmp_path)
    assert answers["distributions"] == ["leyden-core"]
    assert_names(answers["fit"], "leyden-cpu")


def test_the_command_line_lists_every_plugin(environment: CleanEnvironment, tmp_path: Path) -> None:
    listed = run(environment.bin / "leyden", "plugins", cwd=tmp_path)
    assert all(distribution in listed for distribution in EVERYTHING)

"""``leyden doctor``: its report of an installation, the problems that it finds, and the command that fixes each."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import leyden as pl
from leyden.plugins import discover
from leyden_command import checks, distributions
from leyden_command.checks import Device, Problem
from leyden_command.main import main
from leyden_testing.fake_plugins import PluginSite, new_plugin_site


@pytest.fixture
def plugin_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PluginSite]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with new_plugin_site(tmp_path / "site") as site:
        yield site


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Return the exit status and the report that was printed as JSON."""
    status = main(["doctor", "--json", *arguments])
    return status, json.loads(capsys.readouterr().out)


def found(check: Any) -> list[Problem]:
    """Return the problems that one check finds."""
    return list(check(discover()))


def test_a_sound_installation(plugin_site: PluginSite, capsys):
    status, seen = report(capsys)
    assert (status, seen["problems"]) == (0, [])
    assert seen["versions"] == {"python": platform.python_version(), "torch": torch.__version__, "hooks": 1}
    assert seen["distributions"]["leyden-core"] == pl.__version__
    cpu = next(device for device in seen["devices"] if device["name"] == "cpu")
    assert (cpu["count"], cpu["error"]) == (1, "")
    assert {"32-true", "bf16-mixed"} <= set(cpu["precisions"])
    assert seen["order"]["leyden_default_logger"][-1] == "csv (trylast)"


def test_the_report_as_text(plugin_site: PluginSite, capsys):
    plugin_site.add("acme-broken", "raise RuntimeError('no flux capacitor.')", plugin="broken")
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"python {platform.python_version()}, torch {torch.__version__}")
    assert any(line.startswith("  cpu: 1 device: ") and "32-true" in line for line in lines)
    at = lines.index("Problems (1):")
    assert lines[at + 1] == (
        "  The plugin 'broken' of acme-broken 1.2.3 is set aside: RuntimeError: no flux capacitor."
    )
    assert lines[at + 2] == "    pip install --upgrade acme-broken"


def test_as_a_program_without_a_plugin_that_is_broken(plugin_site: PluginSite, tmp_path):
    plugin_site.add("acme-broken", "raise RuntimeError('no flux capacitor')", plugin="broken")
    environment = {"PYTHONPATH": str(plugin_site.path), "PATH": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-m", "leyden", "doctor", "-p", "no:broken"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("No problems were found.\n")


def test_a_plugin_for_another_core(plugin_site: PluginSite):
    plugin_site.add("acme-future", "", requires=["leyden-core>=99"])
    with pytest.warns(RuntimeWarning, match="set aside"):
        (problem,) = found(checks.set_aside)
    assert f"leyden-core>=99, and leyden-core is {pl.__version__}" in problem.description
    assert problem.fix == "pip install --upgrade leyden-core acme-future"
    (problem,) = found(checks.requirements)
    assert problem.fix == "pip install --upgrade leyden-core acme-future"


def test_requirements_that_are_not_met(plugin_site: PluginSite):
    plugin_site.add(
        "acme-needy",
        "",
        requires=["acme-nowhere>=2", "pluggy<1", "torch", "acme-nowhere ; extra == 'more'", "torch at least one"],
    )
    problems = found(checks.requirements)
    assert [problem.fix for problem in problems] == [
        'pip install "acme-nowhere>=2"',
        'pip install "pluggy<1"',
        "pip install --upgrade acme-needy",
    ]
    assert problems[0].description == "acme-needy 1.2.3 needs acme-nowhere>=2, but acme-nowhere is not installed"
    assert "but pluggy is 1." in problems[1].description


def test_leyden_s_own_distributions_are_of_one_version_and_have_their_entry_points(monkeypatch):
    assert (found(checks.versions), found(checks.entry_points)) == ([], [])
    name = distributions.published()[0]
    assert {name, "leyden-testing"} <= set(checks.installed_distributions(discover()))
    installed = {**checks.installed_distributions(discover()), name: "0.0.1"}
    monkeypatch.setattr(checks, "installed_distributions", lambda manager: installed)
    (problem,) = found(checks.versions)
    assert problem.description.startswith(f"{name} is 0.0.1, but leyden-core is {pl.__version__}")
    assert problem.fix == f'pip install --upgrade "{name}=={pl.__version__}"'

    infos = [info for info in discover().infos if info.distribution != name]
    monkeypatch.setattr(discover(), "infos", infos)
    (problem,) = found(checks.entry_points)
    assert problem.fix == f"pip install --force-reinstall --no-deps {name}"


def component(kind: str, name: str, target: str, options: str = "{}") -> str:
    """Return the source of a plugin with one component."""
    return f"""
    @hookimpl
    def leyden_components():
        yield Component({kind!r}, {name!r}, {target!r}, {options})
    """


def test_a_part_that_can_not_be_imported(plugin_site: PluginSite):
    plugin_site.add("acme-parts", component("logger", "tape", "acme_nowhere:Tape"))
    (problem,) = found(checks.parts)
    assert problem.description == (
        "The logger 'tape' of the plugin 'acme' of acme-parts 1.2.3 can't be imported: "
        "ModuleNotFoundError: No module named 'acme_nowhere'"
    )
    assert problem.fix == "pip install --upgrade acme-parts"


def test_two_plugins_with_the_same_parts(plugin_site: PluginSite):
    for name in ("one", "two"):
        options = "{'aliases': ['Tape']}"
        plugin_site.add(f"acme-{name}", component("logger", "tape", f"acme_{name}:Tape", options), plugin=name)
    (problem,) = found(checks.clashes)
    assert problem.description == (
        "The plugin 'one' of acme-one 1.2.3 and the plugin 'two' of acme-two 1.2.3 have the same logger 'tape', "
        "logger 'Tape'"
    )
    assert problem.fix == "export LEYDEN_PLUGINS_DISABLED=two"


def test_two_plugins_with_the_same_name(plugin_site: PluginSite):
    for name in ("one", "two"):
        plugin_site.add(f"acme-{name}", "", plugin="twin")
    with pytest.warns(RuntimeWarning, match="acme-one has a plugin of that name"):
        (problem,) = found(checks.set_aside)
    assert problem.fix == "pip uninstall acme-two"


DEFAULT_LOGGER = """
    @hookimpl
    def leyden_default_logger(trainer):
        return None
"""


def test_several_default_loggers(plugin_site: PluginSite):
    assert found(checks.equal_defaults) == []
    discover.cache_clear()
    plugin_site.add("acme-zzz", DEFAULT_LOGGER, plugin="zzz")
    (problem,) = found(checks.equal_defaults)
    assert problem.description.startswith("The plugins 'zzz', ")
    assert problem.description.endswith("all have a default logger; 'zzz' is used")
    assert problem.fix.startswith("export LEYDEN_PLUGINS_DISABLED=")
    assert "zzz" not in problem.fix


ACCELERATOR = """
    from leyden.accelerators import CPUAccelerator

    class NPU(CPUAccelerator):
        @classmethod
        def name(cls):
            return "npu"

    class Broken(CPUAccelerator):
        @classmethod
        def is_available(cls):
            raise OSError("the driver is asleep")
"""


def test_accelerators(plugin_site: PluginSite, capsys):
    plugin_site.module("acme_device", ACCELERATOR)
    plugin_site.add("acme-npu", component("accelerator", "npu", "acme_device:NPU", "{'priority': 0}"))
    plugin_site.add("acme-old", component("accelerator", "old", "acme_device:Broken"), plugin="old")
    _, seen = report(capsys)
    devices = {device["name"]: device for device in seen["devices"]}
    assert devices["npu"]["count"] == 1
    assert devices["old"] == {"name": "old", "count": 0, "precisions": [], "error": "OSError: the driver is asleep"}
    broken, equal = found(checks.accelerators)
    assert broken == Problem(
        "The accelerator 'old' raises an error: OSError: the driver is asleep", "pip install --upgrade acme-old"
    )
    assert equal.description == "accelerator='auto' could be any of npu, cpu, which have the same priority"
    assert main(["doctor"]) == 1
    assert "  old: OSError: the driver is asleep" in capsys.readouterr().out


def test_no_device_at_all(monkeypatch):
    monkeypatch.setattr(checks, "devices", lambda manager: [])
    (problem,) = found(checks.accelerators)
    assert problem == Problem("No installed accelerator has a device", "pip install leyden-cpu")
    assert found(checks.roles) == []


def test_defaults_that_nobody_brings(plugin_site: PluginSite, monkeypatch):
    monkeypatch.setenv("LEYDEN_PLUGINS_AUTOLOAD", "0")
    monkeypatch.setenv("LEYDEN_PLUGINS", "cpu")
    monkeypatch.setattr(checks, "devices", lambda manager: [Device("cpu", 2, ["32-true"])])
    assert {problem.fix for problem in found(checks.roles)} == {"unset LEYDEN_PLUGINS_AUTOLOAD"}
    discover().infos[:] = discover().active  # as if the others were not installed
    fixes = {problem.description.rpartition("default ")[2]: problem.fix for problem in found(checks.roles)}
    assert fixes == {
        "checkpoint": "pip install leyden-callbacks",
        "progress bar": "pip install leyden-progress",
        "model summary": "pip install leyden-progress",
        "logger": "pip install leyden-tensorboard",
        "strategy for several devices": "pip install leyden-ddp",
    }


def test_a_default_that_is_disabled(plugin_site: PluginSite, monkeypatch):
    monkeypatch.setenv("LEYDEN_PLUGINS_DISABLED", "leyden-callbacks,csv")
    (problem,) = found(checks.roles)
    assert problem == Problem("No plugin provides a default checkpoint", "export LEYDEN_PLUGINS_DISABLED=csv")


def test_a_plugin_that_refuses_every_trainer(plugin_site: PluginSite):
    plugin_site.add("acme-no", "@hookimpl\ndef leyden_configure(trainer):\n    raise ValueError('I do not like it')")
    (problem,) = found(checks.roles)
    assert problem.description == "A Trainer without arguments can't be made: ValueError: I do not like it"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the mode of a directory means something else here")
def test_a_working_directory_that_can_not_be_written_to(tmp_path, monkeypatch):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert found(checks.root_directory) == []
    shutil.rmtree(folder)  # root may write anywhere, but not into a directory that does not exist
    monkeypatch.setattr(checks.Path, "cwd", lambda: folder)
    (problem,) = found(checks.root_directory)
    assert str(folder) in problem.description
    assert problem.fix == 'cd "$HOME"'


@pytest.mark.parametrize(("value", "said"), [("many", "not a number of threads"), ("0", "not a number"), ("2,1", "")])
def test_the_variable_of_threads(monkeypatch, value, said):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert [said in problem.description for problem in found(checks.threads)] == ([True] if said else [])


def test_more_threads_than_processors(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1000)
    allowed = checks.usable_processors()
    assert 1 <= allowed <= (os.cpu_count() or 1)
    assert found(checks.threads) == [
        Problem(
            f"PyTorch uses 1000 threads, but this process has {allowed} processors",
            f"export OMP_NUM_THREADS={allowed}",
        )
    ]


def test_variables_that_name_nothing(plugin_site: PluginSite, monkeypatch):
    plugin_site.add("acme-sound", "", plugin="sound")
    monkeypatch.setenv("LEYDEN_PLUGINS_DISABLED", "sond,acme-sound")
    monkeypatch.setenv("LEYDEN_PLUGINS_AUTOLOAD", "yes")
    assert [problem.fix for problem in found(checks.variables)] == [
        "export LEYDEN_PLUGINS_DISABLED=acme-sound",
        "unset LEYDEN_PLUGINS_AUTOLOAD",
    ]

"""Every check of the kit finds an error: for each there is a broken part, and the check's text says what is broken."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from torch import nn

import leyden_testing
from leyden.plugins import discover
from leyden_testing import traces
from leyden_testing.training import Host

from . import (
    twins_of_accelerators,
    twins_of_callbacks,
    twins_of_checkpoint_ios,
    twins_of_environments,
    twins_of_loggers,
    twins_of_parts,
    twins_of_precisions,
    twins_of_profilers,
    twins_of_records,
    twins_of_strategies,
)
from .twins import CLASSES as CLASSES_TO_RUN
from .twins import TWINS, Twin

MODULES = [
    twins_of_accelerators, twins_of_callbacks, twins_of_checkpoint_ios, twins_of_environments, twins_of_loggers,
    twins_of_parts, twins_of_precisions, twins_of_profilers, twins_of_records, twins_of_strategies,
]  # fmt: skip
CLASSES = [getattr(leyden_testing, name) for name in leyden_testing.__all__]

# Its list has the twin whose component is found now; in another process it has none.
PLUGIN = """
from leyden import hookimpl

PRESENT = []

@hookimpl
def leyden_components():
    yield from (twin.component for twin in PRESENT)
"""
# Broken plugins (not parts): the name, the version of the distribution, and the source of the plugin's module.
ONE = """
from leyden import Component, hookimpl

@hookimpl
def leyden_components():
    yield Component("accelerator", "{name}", "{target}")
"""
DISTRIBUTIONS = {
    "versionless": ("", ONE, "leyden_testing.training:Host"),
    "heavy": ("1.0", "import heavy_part, yaml\n" + ONE, "heavy_part:Heavy"),
    "undying": ("1.0", ONE, "leyden_testing.training:Host"),
    "leaning": ("1.0", ONE, "leyden_testing.training:Host"),
}
MORE = {
    "heavy_part": "from leyden_testing.training import Host\n\n\nclass Heavy(Host):\n    pass\n",
    # has the component of "undying" too, if that plugin is disabled
    "undying_double": """
        import os
        from leyden import Component, hookimpl

        @hookimpl
        def leyden_components():
            if "undying" in os.environ.get("LEYDEN_PLUGINS_DISABLED", ""):
                yield Component("accelerator", "undying", "leyden_testing.training:Host")
    """,
    # can't be imported if "leaning" can't be
    "leaning_other": """
        import leaning_plugin
        from leyden import hookimpl

        @hookimpl
        def leyden_components():
            return []
    """,
}
A = leyden_testing.AcceleratorConformance
OF_PLUGINS = [
    Twin(A, "test_a_distribution_brings_it", Host, "versionless", "has no version"),
    Twin(A, "test_discovering_it_imports_none_of_its_parts", Host, "heavy", "discovery imports heavy_part"),
    Twin(A, "test_disabled_it_is_unknown_and_the_others_work", Host, "undying", "is still there"),
    Twin(A, "test_broken_it_is_unknown_and_the_others_work", Host, "leaning", "more than one plugin is set aside"),
]
ALL = [*TWINS, *OF_PLUGINS]


def checks(conformance: type) -> dict[str, Any]:
    """Return every check of a class by name."""
    return {name: f for name, f in inspect.getmembers(conformance, inspect.isfunction) if name.startswith("test_")}


def test_every_check_has_a_broken_twin():
    covered = {checks(twin.conformance)[twin.check] for twin in ALL}
    missing = {f"{cls.__name__}.{name}" for cls in CLASSES for name, f in checks(cls).items() if f not in covered}
    assert missing == set()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory on ``sys.path`` with the distributions of all broken parts."""
    root = tmp_path_factory.mktemp("site")
    points = {"twins": ("1.0", {"twins": "twins_plugin"})}
    (root / "twins_plugin.py").write_text(PLUGIN)
    for name, (version, source, target) in DISTRIBUTIONS.items():
        (root / f"{name}_plugin.py").write_text(source.format(name=name, target=target))
        points[name] = version, {name: f"{name}_plugin"}
    for name, source in MORE.items():
        (root / f"{name}.py").write_text(dedent(source))
    points["undying"][1]["undying_double"] = "undying_double"
    points["leaning"][1]["leaning_other"] = "leaning_other"
    for name, (version, entries) in points.items():
        info = root / f"leyden_{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: leyden-{name}\nVersion: {version}\n")
        lines = [f"{point} = {module}" for point, module in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(["[leyden]", *lines, ""]))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root)
        discover.cache_clear()
        yield root
    discover.cache_clear()
    for name in [n for n, m in sys.modules.items() if str(getattr(m, "__file__", "")).startswith(str(root))]:
        del sys.modules[name]


class Outcomes:
    """A pytest plugin that runs, for each broken part, only the check that must fail, and keeps its text."""

    def __init__(self) -> None:
        self.said: dict[str, list[str]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.function.__name__ == item.cls.twin.check]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        twin = item.cls.twin
        importlib.import_module("twins_plugin").PRESENT[:] = [] if twin in OF_PLUGINS else [twin]
        discover.cache_clear()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        replaced = torch.manual_seed, nn.utils.clip_grad_norm_
        hooks = nn.modules.module._global_forward_hooks
        yield
        torch.manual_seed, nn.utils.clip_grad_norm_ = replaced
        hooks.clear()
        torch.set_default_dtype(torch.float32)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcomes = self.said.setdefault(report.nodeid.split("::")[1], [])
        if report.failed:
            outcomes.append(f"{report.when}: {report.longreprtext}")


@pytest.mark.slow
@pytest.mark.parametrize("conformance", CLASSES, ids=lambda cls: cls.__name__)
def test_each_check_catches_its_broken_twin(
    conformance: type, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "PATIENCE", 1.0)  # which the twins that leave something behind wait in vain
    twins = [twin for twin in ALL if twin.conformance is conformance]
    module = tmp_path / f"test_broken_{conformance.kind}.py"
    module.write_text(f"from {Twin.__module__} import CLASSES\nglobals().update(CLASSES)\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    outcomes = Outcomes()
    CLASSES_TO_RUN.clear()
    CLASSES_TO_RUN.update({f"Test_{twin.name}": twin.test_class() for twin in twins})
    options = [
        "-q",
        "--no-summary",
        "-W",
        "error",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-c",
        str(tmp_path / "pytest.ini"),
    ]
    pytest.main([*options, "--import-mode=importlib", "--basetemp", str(tmp_path / "base"), str(module)], [outcomes])
    wrong = {}
    for twin in twins:
        said = outcomes.said.get(f"Test_{twin.name}", ["it was not run"])
        if not any(text.startswith("call: ") and twin.message in text for text in said):
            wrong[f"{twin.name} for {twin.check}"] = said or ["it passed"]
    assert not wrong, "\n\n".join(f"{name}: {'; '.join(said)[-1500:]}" for name, said in wrong.items())

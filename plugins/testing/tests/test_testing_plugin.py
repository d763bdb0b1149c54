"""The kit as a pytest plugin: it imports little, and tells an author which fixture is missing."""

import subprocess
import sys

import pytest

import leyden_testing


def test_loading_it_with_pytest_imports_neither_leyden_nor_torch():
    script = "import sys, pytest, leyden_testing.plugin; print(*{'leyden', 'torch'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


class Reports:
    """Keeps the error texts of a run's failed checks."""

    def __init__(self):
        self.said = []

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.said.append(report.longreprtext)


FORGOTTEN = {
    "Profiler": ("all_its_names", "`name` with the name of a profiler."),
    "Record": ("a_value_of_another_type", "`make` with a function that makes an object."),
}


@pytest.mark.parametrize("kind", FORGOTTEN)
def test_an_author_who_forgets_what_has_no_default_is_told(tmp_path, kind):
    check, said = FORGOTTEN[kind]
    lines = [f"from leyden_testing import {kind}Conformance as C", "class TestMine(C): pass", ""]
    file = tmp_path / f"test_my_{kind.lower()}.py"  # imported once in a process, by its name
    file.write_text("\n".join(lines))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    reports = Reports()
    options = [
        "-q",
        "--no-summary",
        "-p",
        "no:cacheprovider",
        "-c",
        str(tmp_path / "pytest.ini"),
        "-k",
        check,
    ]
    pytest.main([*options, "--import-mode=importlib", str(file)], [reports])
    assert len(reports.said) == 1
    assert f"TestMine must override the fixture {said}" in reports.said[0]


@pytest.mark.parametrize("name", leyden_testing.__all__)
def test_each_class_of_checks_is_found_by_name(name):
    assert getattr(leyden_testing, name).__name__ == name
    assert name in dir(leyden_testing)


def test_what_is_not_in_it_is_said():
    with pytest.raises(AttributeError, match="no attribute 'AcceleratorConformity'; it has AcceleratorConformance"):
        leyden_testing.AcceleratorConformity

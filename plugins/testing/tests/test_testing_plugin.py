"""The kit as pytest loads it: light, with a sentence for an author who forgets the name."""

import subprocess
import sys

import pytest

import leyden_testing


def test_loading_it_with_pytest_imports_neither_leyden_nor_torch():
    script = "import sys, pytest, leyden_testing.plugin; print(*{'leyden', 'torch'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


@pytest.mark.parametrize("name", leyden_testing.__all__)
def test_each_class_of_checks_is_found_by_name(name):
    assert getattr(leyden_testing, name).__name__ == name
    assert name in dir(leyden_testing)


def test_what_is_not_in_it_is_said():
    with pytest.raises(AttributeError, match="no attribute 'AcceleratorConformity'; it has AcceleratorConformance"):
        leyden_testing.AcceleratorConformity

"""Built wheels in a clean environment: each alone, with what it needs, passes its checks of the conformance kit."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from leyden_testing.clean_environment import CleanEnvironment, run

ROOT = Path(__file__).parents[2]
CONFORMANCE = {
    path.parent.name: sorted((path.parent / "tests").glob("test_*conformance.py"))
    for path in sorted(ROOT.glob("plugins/*/pyproject.toml"))
    if path.parent.name != "testing"  # the kit itself
}

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", [name for name, files in CONFORMANCE.items() if files])
def test_a_wheel_alone_passes_the_conformance_kit(
    name: str, environment: CleanEnvironment, wheels: dict[str, Path], tmp_path: Path
) -> None:
    """With what it needs, the kit, and the host's processor to train on."""
    text = (ROOT / "plugins" / name / "pyproject.toml").read_text(encoding="utf-8")
    there = {f"leyden-{name}", "leyden-core", "leyden-cpu", "leyden-testing", *re.findall(r'"(leyden-\w+)>=', text)}
    for file in CONFORMANCE[name]:
        shutil.copy(file, tmp_path)
    with environment.without(wheels, *(distribution for distribution in wheels if distribution not in there)):
        printed = run(environment.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path)
    assert re.search(r"^\d+ (passed|skipped)", printed, re.MULTILINE), printed

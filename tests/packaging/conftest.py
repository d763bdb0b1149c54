"""The wheels of this repository, and a clean environment in which they are installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from leyden_testing.clean_environment import CleanEnvironment, build_wheels

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel of every distribution of this repository, by the distribution's name."""
    plugins = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
    return build_wheels(tmp_path_factory.mktemp("wheels"), ROOT, ROOT / "core", *plugins)


@pytest.fixture(scope="module")
def environment(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> CleanEnvironment:
    environment = CleanEnvironment(tmp_path_factory.mktemp("environment"))
    environment.install(*wheels.values())
    return environment

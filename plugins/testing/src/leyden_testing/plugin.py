"""The pytest plugin: makes pytest show the values in the kit's assertions. It does not import Leyden."""

from __future__ import annotations

from importlib.resources import files

import pytest

# registered by name, since pytest does not find the modules of an editable installation itself
pytest.register_assert_rewrite(
    *(
        f"leyden_testing.{entry.name.removesuffix('.py')}"
        for entry in files("leyden_testing").iterdir()
        if entry.name.endswith(".py") and entry.name not in ("__init__.py", "plugin.py")
    )
)


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark "slow" of checks that start processes, for projects with strict markers."""
    config.addinivalue_line("markers", "slow: takes more than a few seconds")

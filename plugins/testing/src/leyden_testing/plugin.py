"""What pytest loads: assertions of the kit show their values, as an author's own do. Imports nothing of Leyden."""

from __future__ import annotations

from importlib.resources import files

import pytest

# by name, as pytest finds the files of an installed distribution, but not those of an editable one
pytest.register_assert_rewrite(
    *(
        f"leyden_testing.{entry.name.removesuffix('.py')}"
        for entry in files("leyden_testing").iterdir()
        if entry.name.endswith(".py") and entry.name not in ("__init__.py", "plugin.py")
    )
)


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark of the checks that start processes, for projects with strict markers."""
    config.addinivalue_line("markers", "slow: takes more than a few seconds")

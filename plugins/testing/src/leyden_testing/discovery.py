"""Finds the modules that the discovery of plugins imports, in a new process, once for all checks of a session."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache

_SCRIPT = """
import sys, json, importlib_metadata, packaging.requirements, leyden
from importlib_metadata import entry_points
found = {}
for point in sorted(entry_points(group="leyden"), key=lambda point: point.name):
    before = set(sys.modules)
    try:
        module = point.load()
        for part in module.leyden_components() if hasattr(module, "leyden_components") else ():
            pass
    except Exception:
        pass
    found[point.name] = sorted(set(sys.modules) - before)
print(json.dumps(found))
"""


def imported_by(plugin: str) -> list[str]:
    """Return the modules that a new process imports when it discovers a plugin.

    Args:
        plugin: The name of the plugin's entry point.
    """
    return _imported(tuple(sys.path), os.environ.get("PYTHONPATH", ""))[plugin]


@cache
def _imported(path: tuple[str, ...], variable: str) -> dict[str, list[str]]:
    """Return, for every plugin, the modules that its discovery imports with this ``sys.path``."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in path if entry)}
    result = subprocess.run(
        [sys.executable, "-c", _SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"a new process can't discover the plugins:\n{result.stderr}"
    found: dict[str, list[str]] = json.loads(result.stdout.splitlines()[-1])
    return found


def foreign(modules: list[str], own: str) -> list[str]:
    """Return the modules that belong neither to Python, nor to Leyden's core, nor to the plugin's own package."""
    allowed = {*sys.stdlib_module_names, "leyden", own}
    return [name for name in modules if name.partition(".")[0] not in allowed]

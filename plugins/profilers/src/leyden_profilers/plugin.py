"""The plugin's hooks: the profilers."""

from __future__ import annotations

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide the simple profiler."""
    options = {"aliases": ["SimpleProfiler"]}
    yield Component("profiler", "simple", "leyden_profilers.simple:SimpleProfiler", options)

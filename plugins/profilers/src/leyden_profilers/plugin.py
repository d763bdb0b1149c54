"""What leyden-profilers brings to Leyden."""

from __future__ import annotations

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """The profilers, each in its own file."""
    options = {"aliases": ["SimpleProfiler"]}
    yield Component("profiler", "simple", "leyden_profilers.simple:SimpleProfiler", options)

"""Broken twins: a part that does one thing wrong, the check that has to catch it, and what the check then says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from leyden import Component


@dataclass(frozen=True)
class Twin:
    """A broken part, and what is expected of it.

    Args:
        conformance: The class of checks.
        check: The name of the check that it fails.
        part: Its class.
        name: The component's name.
        saying: A part of what the failed check says.
        fixtures: Values for fixtures of the class.
        options: Of the component.
    """

    conformance: type
    check: str
    part: Any
    name: str
    saying: str
    fixtures: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def component(self) -> Component:
        """The component that brings it."""
        target = f"{self.part.__module__}:{self.part.__qualname__}"
        return Component(self.conformance.kind, self.name, target, self.options)

    def test_class(self) -> type:
        """The class of checks for it, as an author would write it."""
        values = {"name": self.name, **self.fixtures}
        fixtures = {name: _fixture(value) for name, value in values.items()}
        return type(f"Test_{self.name}", (self.conformance,), {**fixtures, "twin": self})


def _fixture(value: Any) -> Any:
    return pytest.fixture(lambda self: value)


TWINS: list[Twin] = []
CLASSES: dict[str, type] = {}  # those that the run within a test collects


def breaks(
    conformance: type, check: str, saying: str, options: dict[str, Any] | None = None, **fixtures: Any
) -> Callable[[Any], Any]:
    """Mark a class as the broken twin of a check; a class may be that of several.

    Args:
        conformance: The class of checks.
        check: The check's name, without ``test_``.
        saying: A part of what it says.
        options: Of the component.
        fixtures: Values of fixtures.
    """

    def mark(part: Any) -> Any:
        number = sum(twin.part is part for twin in TWINS)
        name = part.__name__.lower() + ("" if number == 0 else f"_{number}")
        TWINS.append(Twin(conformance, f"test_{check}", part, name, saying, fixtures, options or {}))
        return part

    return mark

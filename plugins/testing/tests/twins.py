"""Broken parts ("twins"): each does one thing wrong, and names the check that must fail and the text of its error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from leyden import Component


@dataclass(frozen=True)
class Twin:
    """A broken part, and the check that must fail for it.

    Args:
        conformance: The class of checks.
        check: The name of the check that must fail.
        part: The class of the broken part.
        name: The component's name.
        message: A piece of the failed check's text.
        fixtures: Values for fixtures of the class of checks.
        options: Options of the component.
    """

    conformance: type
    check: str
    part: Any
    name: str
    message: str
    fixtures: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def component(self) -> Component:
        """The component for the part."""
        target = f"{self.part.__module__}:{self.part.__qualname__}"
        return Component(self.conformance.kind, self.name, target, self.options)

    def test_class(self) -> type:
        """The subclass of the checks for the part, as an author would write it."""
        values = {"name": self.name, **self.fixtures}
        fixtures = {name: _fixture(value) for name, value in values.items()}
        return type(f"Test_{self.name}", (self.conformance,), {**fixtures, "twin": self})


def _fixture(value: Any) -> Any:
    return pytest.fixture(lambda self: value)


TWINS: list[Twin] = []
CLASSES: dict[str, type] = {}  # the classes that pytest collects in the run within the test


def breaks(
    conformance: type, check: str, message: str, options: dict[str, Any] | None = None, **fixtures: Any
) -> Callable[[Any], Any]:
    """Mark a class as a broken part for a check; a class may be marked for several checks.

    Args:
        conformance: The class of checks.
        check: The check's name, without ``test_``.
        message: A piece of the failed check's text.
        options: Options of the component.
        fixtures: Values for fixtures of the class of checks.
    """

    def mark(part: Any) -> Any:
        number = sum(twin.part is part for twin in TWINS)
        name = part.__name__.lower() + ("" if number == 0 else f"_{number}")
        TWINS.append(Twin(conformance, f"test_{check}", part, name, message, fixtures, options or {}))
        return part

    return mark

"""A component: a named part that a plugin brings, imported only when somebody asks for its name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from leyden.utilities.exceptions import MisconfigurationException


@dataclass(frozen=True)
class Component:
    """One named part of a plugin.

    Args:
        kind: What it is: "accelerator", "strategy", "precision", "environment", "logger", "profiler",
            "callback", "checkpoint_io", "exporter", "record", "module_paths", or a kind of a third party's own.
        name: The name that users write, as in ``Trainer(accelerator="npu")``; for callbacks and other
            classes that users import, the class's name; for records, the name of the class that they log.
        target: ``"module:attribute"``, imported on first use.
        options: What the component's kind understands. Every kind: ``aliases`` (other names for the
            same part), ``arguments`` (keyword arguments when it is built by name). Accelerators:
            ``priority`` (the highest available one is ``"auto"``; the host processor has 0).
    """

    kind: str
    name: str
    target: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The name and its aliases."""
        return (self.name, *self.options.get("aliases", ()))

    def load(self) -> Any:
        """Import and return the target (usually a class).

        Raises:
            MisconfigurationException: The module has no such attribute.
        """
        module, _, attribute = self.target.partition(":")
        target = importlib.import_module(module)
        try:
            return attrgetter(attribute)(target)
        except AttributeError as error:
            raise MisconfigurationException(
                f"The {self.kind} {self.name!r} should be {self.target!r}, but {error}; install another version of its "
                "plugin, or disable it."
            ) from error

    def build(self, **arguments: Any) -> Any:
        """Import the target and call it with the component's ``arguments``, overridden by the given ones."""
        return self.load()(**{**self.options.get("arguments", {}), **arguments})

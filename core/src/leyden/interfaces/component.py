"""A component: a named part that a plugin brings, imported only when somebody asks for its name."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from leyden.utilities import MisconfigurationException


@dataclass(frozen=True)
class Component:
    """One named part of a plugin.

    Args:
        kind: "accelerator", "strategy", "precision", "environment", "logger", "profiler", "callback",
            "checkpoint_io", "checkpoint_loader", "exporter", "record", "module_paths", or a kind that a third party has
            made up.
        name: The name that users write, as in ``Trainer(accelerator="npu")``. For callbacks and other classes that
            users import, it is the name of the class; for records, the name of the class whose objects they log.
        target: Where the part is, as ``"module:attribute"``; it is imported on first use.
        options: Settings that depend on the kind. Every kind has ``aliases`` (other names for the same part) and
            ``arguments`` (keyword arguments with which the part is built by name). Accelerators and environments have
            ``priority``: "auto" means the available one with the highest. The host processor has 0.
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

"""The hooks of the group Observation as methods of a module or data module, without ``trainer`` and ``pl_module``.

They are made from :mod:`leyden.plugin_system.hooks`, and do nothing. Editors and type checkers read them in the stub
beside this file, which ``core/docs.py`` writes.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from leyden.plugin_system.hooks import OBSERVATION, RUN_ARGUMENTS, Observation

WITH_DATA = ("setup", "teardown", "on_exception")
IN_CHECKPOINTS = ("on_save_checkpoint", "on_load_checkpoint")


def _has(names: Sequence[str]) -> Callable[[type], type]:
    def add(cls: type) -> type:
        for name in names:
            setattr(cls, name, _method(cls, name))
        return cls

    return add


def _method(cls: type, name: str) -> Callable[..., None]:
    def method(self: Any, *values: Any, **named: Any) -> None:
        """Do nothing."""

    declared: Any = getattr(Observation, name)
    signature = inspect.signature(declared)
    kept = [parameter for parameter in signature.parameters.values() if parameter.name not in RUN_ARGUMENTS]
    method.__name__, method.__qualname__, method.__doc__ = name, f"{cls.__qualname__}.{name}", declared.__doc__
    method.__dict__["__signature__"] = signature.replace(parameters=kept)
    return method


@_has(WITH_DATA)
class DataObservations:
    """What happens in a run, for modules and data modules."""


@_has(IN_CHECKPOINTS)
class CheckpointHooks:
    """What a module adds to checkpoints, and takes back from them."""


@_has([name for name in OBSERVATION if name not in (*WITH_DATA, *IN_CHECKPOINTS)])
class ModelObservations:
    """What happens in a run, for modules alone."""

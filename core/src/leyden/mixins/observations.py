"""The hooks of the group Observation as methods of a module or data module, without ``trainer`` and ``pl_module``.

They are made from :mod:`leyden.plugin_system.hooks`, and do nothing. Editors and type checkers read them in the stub
beside this file, which ``core/docs.py`` writes.
"""

import inspect
from collections.abc import Callable
from typing import Any

from leyden.plugin_system.hooks import OBSERVATION, RUN_ARGUMENTS, Observation


class DataObservations:
    """What happens in a run, for modules and data modules."""


class CheckpointHooks:
    """What a module adds to checkpoints, and takes back from them."""


class ModelObservations:
    """What happens in a run, for modules alone."""


def _method(cls: type, name: str) -> Callable[..., None]:
    def method(self: Any, *values: Any, **named: Any) -> None:
        """Do nothing."""

    declared: Any = getattr(Observation, name)
    signature = inspect.signature(declared)
    kept = [parameter for parameter in signature.parameters.values() if parameter.name not in RUN_ARGUMENTS]
    method.__name__, method.__qualname__, method.__doc__ = name, f"{cls.__qualname__}.{name}", declared.__doc__
    method.__dict__["__signature__"] = signature.replace(parameters=kept)
    return method


_OWNERS = {
    **dict.fromkeys(("setup", "teardown", "on_exception"), DataObservations),
    **dict.fromkeys(("on_save_checkpoint", "on_load_checkpoint"), CheckpointHooks),
}
for _name in OBSERVATION:
    _owner = _OWNERS.get(_name, ModelObservations)
    setattr(_owner, _name, _method(_owner, _name))

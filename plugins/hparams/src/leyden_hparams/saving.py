"""What ``save_hyperparameters`` does: finds the arguments of ``__init__``, and keeps those that are asked for."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import Any

from leyden.utilities import AttributeDict


class Initial(AttributeDict):
    """Hyperparameters of which a deep copy can always be made: values that can't be copied are shared."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Initial:
        copied = Initial()
        for key, value in self.items():
            try:
                copied[key] = copy.deepcopy(value, memo)
            except Exception:  # any error of a user's __deepcopy__ or of an open handle
                copied[key] = value
        return copied


def save(instance: Any, chosen: tuple[Any, ...], ignore: str | Iterable[str] | None, frame: FrameType | None) -> None:
    """Keep arguments of ``__init__`` in ``instance.hparams``.

    Args:
        instance: The module or data module.
        chosen: Names of arguments, or one object that holds the hyperparameters; all arguments if it is empty.
        ignore: Names of arguments to leave out.
        frame: The frame of the ``__init__``.

    Raises:
        ValueError: The one object is neither a mapping nor has attributes.
    """
    instance._hparams_name, instance._hparams_source = "kwargs", None
    ignored = {ignore} if isinstance(ignore, str) else set(ignore or ())
    arguments = {name: value for name, value in _init_arguments(instance, frame).items() if name not in ignored}
    kept: Any = arguments
    if chosen and all(isinstance(one, str) for one in chosen):
        kept = {name: arguments[name] for name in chosen if name in arguments}
    elif chosen:
        kept = instance._hparams_source = chosen[0]
        instance._hparams_name = next((name for name, value in arguments.items() if value is kept), "kwargs")
    # a base class's __init__ may have kept some already
    instance.hparams.update((name, value) for name, value in _as_mapping(kept).items() if name not in ignored)
    instance._hparams_initial = copy.deepcopy(Initial(instance.hparams))


def _as_mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) and not hasattr(value, "__dict__"):
        raise ValueError(
            f"save_hyperparameters got {value!r}; give names of arguments, or one mapping, Namespace or dataclass."
        )
    return value if isinstance(value, Mapping) else vars(value)


def _init_arguments(instance: Any, frame: FrameType | None) -> dict[str, Any]:
    """Return the arguments of every ``__init__`` of ``instance`` on the stack; the most derived class has priority."""
    collected: dict[str, Any] = {}
    while frame is not None:
        names, _, keywords, values = inspect.getargvalues(frame)
        if frame.f_code.co_name == "__init__" and names and values.get(names[0]) is instance:
            collected.update((name, values[name]) for name in names[1:] if name in values)
            collected.update(values.get(keywords, {}) if keywords else {})
        elif collected:
            break
        frame = frame.f_back
    return collected

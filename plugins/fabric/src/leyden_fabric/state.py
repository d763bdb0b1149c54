"""The dicts of modules, optimizers and plain values that ``Fabric.save`` writes and ``Fabric.load`` restores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.nn import Module
from torch.optim import Optimizer

from leyden.strategies import Strategy
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.plain import to_plain
from leyden.utilities.rank_zero import rank_zero_warn
from leyden_fabric.wrappers import unwrapped

Filters = dict[str, Callable[[str, Any], bool]]


def collect(fabric: Any, strategy: Strategy, state: dict[str, Any], filters: Filters | None) -> dict[str, Any]:
    """Make a checkpoint of plain data from the objects of a state.

    Args:
        fabric: The Fabric that saves.
        strategy: Collects the state of objects that were not set up; of others, the strategy that has set them up does.
        state: Name to object.
        filters: Name to a function of a key and a value, which returns whether to keep the value.

    Returns:
        The checkpoint.

    Raises:
        MisconfigurationException: A filter can't be called, or its name is not in ``state``.
    """
    for name, keep in (filters or {}).items():
        if name not in state or not callable(keep):
            raise MisconfigurationException(
                f"filter={{{name!r}: {keep!r}}}: write functions (key, value) -> bool, for names of the state: "
                f"{', '.join(map(str, state))}."
            )
    checkpoint = {name: _state_of(*unwrapped(obj, strategy)) for name, obj in state.items()}
    for name, keep in (filters or {}).items():
        checkpoint[name] = {key: value for key, value in checkpoint[name].items() if keep(key, value)}
    dropped: list[str] = []
    plain: dict[str, Any] = to_plain(checkpoint, dropped=dropped)
    strategy.plugin_manager.hook.leyden_seal(owner=fabric, checkpoint=checkpoint, plain=plain, dropped=dropped)
    if dropped:
        rank_zero_warn(
            f"These are no plain data and are left out of the checkpoint: {', '.join(dropped)}. Save plain values, "
            "tensors, and objects with state_dict and load_state_dict."
        )
    return plain


def _state_of(obj: Any, strategy: Strategy) -> Any:
    if isinstance(obj, Module):
        return strategy.module_state_dict(obj)
    if isinstance(obj, Optimizer):
        return strategy.optimizer_state_dict(obj)
    return obj.state_dict() if _is_stateful(obj) else obj


def restore(strategy: Strategy, state: dict[str, Any], checkpoint: dict[str, Any], strict: bool) -> None:
    """Load a checkpoint into the objects of ``state``, and replace the plain values in it.

    Args:
        strategy: Loads objects that were not set up; others are loaded by the strategy that has set them up.
        state: A dict as it was saved.
        checkpoint: The checkpoint; everything that is loaded is removed from it.
        strict: Whether the checkpoint must hold everything in ``state``, and exactly the keys of each module.

    Raises:
        KeyError: The checkpoint lacks something, and ``strict`` is True.
    """
    missing = [name for name in state if name not in checkpoint]
    if missing and strict:
        raise KeyError(
            f"The checkpoint has no {missing[0]!r}; it has {', '.join(map(str, checkpoint))}. Ask for those, or pass "
            "strict=False."
        )
    for name in [name for name in state if name in checkpoint]:
        value = checkpoint.pop(name)
        if not put(strategy, state[name], value, strict):
            state[name] = value


def modules_of(strategy: Strategy, state: dict[str, Any]) -> dict[str, Module]:
    """The user's modules in a state, by name."""
    found = {name: unwrapped(obj, strategy)[0] for name, obj in state.items()}
    return {name: obj for name, obj in found.items() if isinstance(obj, Module)}


def put(strategy: Strategy, obj: Any, value: Any, strict: bool) -> bool:
    """Load a state into a module, an optimizer or another object with ``load_state_dict``.

    Args:
        strategy: Loads objects that were not set up.
        obj: The object.
        value: The state.
        strict: Whether a module must have exactly the keys of the state.

    Returns:
        Whether the object could be loaded; False for a plain value.
    """
    obj, strategy = unwrapped(obj, strategy)
    if isinstance(obj, Module):
        strategy.load_module_state_dict(obj, value, strict)
    elif isinstance(obj, Optimizer):
        strategy.load_optimizer_state_dict(obj, value)
    elif _is_stateful(obj):
        obj.load_state_dict(value)
    else:
        return False
    return True


def _is_stateful(obj: Any) -> bool:
    return callable(getattr(obj, "state_dict", None)) and callable(getattr(obj, "load_state_dict", None))

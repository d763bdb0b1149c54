"""What ``Fabric.save`` writes and ``Fabric.load`` puts back: a dict of modules, optimizers and plain values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.nn import Module
from torch.optim import Optimizer

from leyden.interfaces.strategy import Strategy
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.plain import to_plain
from leyden.utilities.rank_zero import rank_zero_warn
from leyden_fabric.wrappers import unwrapped

Filters = dict[str, Callable[[str, Any], bool]]


def collect(strategy: Strategy, state: dict[str, Any], filters: Filters | None) -> dict[str, Any]:
    """The checkpoint of a state: what its objects keep, and nothing but data.

    Args:
        strategy: Gathers what the processes have parts of, where no other has set it up.
        state: Name to object.
        filters: Name to a function that says of a key and a value whether it is kept.

    Raises:
        MisconfigurationException: A filter can't be called, or is for something that the state does not have.
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
    if dropped:
        rank_zero_warn(
            f"These are no data and are left out of the checkpoint: {', '.join(dropped)}. Save plain values, tensors, "
            "and objects with state_dict and load_state_dict."
        )
    return plain


def _state_of(obj: Any, strategy: Strategy) -> Any:
    if isinstance(obj, Module):
        return strategy.module_state_dict(obj)
    if isinstance(obj, Optimizer):
        return strategy.optimizer_state_dict(obj)
    return obj.state_dict() if _is_stateful(obj) else obj


def restore(strategy: Strategy, state: dict[str, Any], checkpoint: dict[str, Any], strict: bool) -> None:
    """Put into the objects of ``state`` what they saved, and replace its plain values; both leave the checkpoint.

    Args:
        strategy: Gives each process its part, where no other has set it up.
        state: As it was saved.
        checkpoint: What was read; afterwards what nobody asked for.
        strict: Whether everything in ``state`` must be in the checkpoint, and with all keys.

    Raises:
        KeyError: Something is not.
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


def put(strategy: Strategy, obj: Any, value: Any, strict: bool) -> bool:
    """Load a state into a module, an optimizer or whatever else keeps one; returns whether ``obj`` does."""
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

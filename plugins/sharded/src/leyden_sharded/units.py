"""Which submodules are units, whose parameters are gathered together: chosen by class, by size or by a function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeAlias

from torch import nn
from torch.distributed.fsdp.wrap import ModuleWrapPolicy, size_based_auto_wrap_policy
from torch.nn import Module

from leyden.utilities.exceptions import MisconfigurationException

Policy: TypeAlias = "Iterable[type[Module]] | type[Module] | int | Callable[..., bool] | None"

# Classes whose forward reads the parameters of children without calling the children.
_WHOLE = {nn.MultiheadAttention, nn.TransformerEncoderLayer}


def units(module: Module, policy: Policy, argument: str) -> list[Module]:
    """The submodules that a policy chooses, inner ones before outer ones; never ``module`` itself.

    A submodule that shares a parameter with a module outside of it is left out, because two units can't share one.

    Args:
        module: The module whose submodules are chosen.
        policy: Classes; the least number of parameters of a unit; or a function of ``module``, ``recurse`` and
            ``nonwrapped_numel`` as in ``torch.distributed.fsdp.wrap``. None chooses none.
        argument: The user's name for the policy, for error messages.

    Raises:
        MisconfigurationException: The policy is none of these.
    """
    decide = _function(policy, argument)
    if decide is None:
        return []
    uses = Counter(id(p) for part in module.modules() for p in part.parameters(recurse=False))
    found: list[Module] = []
    _visit(module, decide, uses, found, is_root=True)
    return found


def _function(policy: Policy, argument: str) -> Callable[..., bool] | None:
    if policy is None:
        return None
    if isinstance(policy, type) and issubclass(policy, Module):
        policy = {policy}
    if isinstance(policy, int) and not isinstance(policy, bool) and policy > 0:
        return partial(size_based_auto_wrap_policy, min_num_params=policy, force_leaf_modules=_WHOLE)
    if isinstance(policy, (set, frozenset, list, tuple)) and all(_is_module_class(cls) for cls in policy):
        return ModuleWrapPolicy(policy)
    if callable(policy) and not isinstance(policy, type):
        return policy
    raise MisconfigurationException(
        f"{argument}={policy!r} is no policy; write a set of module classes, {{torch.nn.TransformerEncoderLayer}} say, "
        "the least number of parameters of a unit, or a function (module, recurse, nonwrapped_numel) -> bool."
    )


def _is_module_class(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Module)


def _visit(
    module: Module, decide: Callable[..., bool], uses: Counter[int], found: list[Module], is_root: bool = False
) -> int:
    """Collect the units within ``module``; returns the number of its parameters that belong to a unit."""
    count = sum(parameter.numel() for parameter in module.parameters())
    if not decide(module=module, recurse=True, nonwrapped_numel=count):
        inside = 0
    else:
        inside = sum(_visit(child, decide, uses, found) for child in module.children() if child not in found)
    if is_root or not count or not decide(module=module, recurse=False, nonwrapped_numel=count - inside):
        return inside
    own = Counter(id(p) for part in module.modules() for p in part.parameters(recurse=False))
    if any(uses[parameter] > times for parameter, times in own.items()):
        return inside
    found.append(module)
    return count

"""Parameters that several parts of a module share, as a decoder may its encoder's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from torch.nn import Module


def find_shared_parameters(module: Module) -> list[list[str]]:
    """The names under which one parameter is found in several places.

    Args:
        module: Where to look.

    Returns:
        A list of names for each parameter that has more than one, e.g. ``[["encoder.weight", "decoder.weight"]]``.
    """
    names = defaultdict(list)
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names[parameter].append(name)
    return [shared for shared in names.values() if len(shared) > 1]


def set_shared_parameters(module: Module, shared_params: Sequence[Sequence[str]]) -> Module:
    """Share parameters again that were shared before; the first of the names in each list is the one that stays.

    Args:
        module: What to change.
        shared_params: As :func:`find_shared_parameters` returned it.

    Returns:
        The module.
    """
    for first, *others in shared_params:
        parameter = module.get_parameter(first)
        for name in others:
            path, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(path), attribute, parameter)
    return module

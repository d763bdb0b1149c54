"""Parameters that several parts of a module share, such as an embedding that a decoder shares with its encoder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from torch.nn import Module


def find_shared_parameters(module: Module) -> list[list[str]]:
    """Find parameters that have several names.

    Args:
        module: The module to search.

    Returns:
        A list of names for each such parameter, e.g. ``[["encoder.weight", "decoder.weight"]]``.
    """
    names = defaultdict(list)
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names[parameter].append(name)
    return [shared for shared in names.values() if len(shared) > 1]


def set_shared_parameters(module: Module, shared_params: Sequence[Sequence[str]]) -> Module:
    """Share parameters again that were shared before; the parameter of the first name in each list is kept.

    Args:
        module: The module to change.
        shared_params: The names, as :func:`find_shared_parameters` returned them.

    Returns:
        The module.
    """
    for first, *others in shared_params:
        parameter = module.get_parameter(first)
        for name in others:
            path, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(path), attribute, parameter)
    return module

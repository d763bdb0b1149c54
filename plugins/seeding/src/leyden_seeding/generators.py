"""The random generators that a loader, its samplers, its dataset and its transforms have of their own."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import islice
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from leyden import LightningModule, Trainer
from leyden.strategies import Strategy

_OF_THE_PROCESS = (random._inst, numpy.random.mtrand._rand, torch.default_generator)
_KINDS = (torch.Generator, random.Random, numpy.random.Generator, numpy.random.RandomState)
_LEAVES = (str, bytes, int, float, Tensor, numpy.ndarray, type, ModuleType, Trainer, LightningModule, Strategy)
_MOST = 5_000  # objects that are looked at, so that a large dataset costs no time
_MEMBERS = 100  # of one collection


def generators_in(*roots: Any) -> list[Any]:
    """The generators that can be reached from some objects, in a fixed order, without those of the process.

    Attributes, members of collections, and what functions and methods name are followed. Of a collection the first
    hundred members are.
    """
    found, seen, ahead = [], {id(one): one for one in _OF_THE_PROCESS}, [*reversed(roots)]
    while ahead and len(seen) < _MOST:
        value = ahead.pop()
        if isinstance(value, _LEAVES) or id(value) in seen:
            continue
        seen[id(value)] = value
        if isinstance(value, _KINDS):
            found.append(value)
        else:
            ahead += reversed(list(_members(value)))
    return found


def _members(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return islice(value.values(), _MEMBERS)
    if isinstance(value, (list, tuple)):
        return islice(value, _MEMBERS)
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, FunctionType):
        named = [value.__globals__.get(name) for name in value.__code__.co_names]
        return [*named, *(cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell))]
    if type(value).__module__ in ("builtins", "_thread"):
        return ()
    methods = [one for kind in type(value).__mro__ if _is_users(kind) for one in vars(kind).values()]
    return [*getattr(value, "__dict__", {}).values(), *(one for one in methods if isinstance(one, FunctionType))]


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _is_users(kind: type) -> bool:
    return kind.__module__.partition(".")[0] not in ("builtins", "torch", "numpy", "leyden", "typing", "abc")


def state_of(generator: Any) -> Any:
    """A generator's state as data; None where it has none, such as one of the system's."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return None if isinstance(generator, random.SystemRandom) else generator.getstate()
    if isinstance(generator, numpy.random.Generator):
        return _tensors(generator.bit_generator.state)
    return _tensors(generator.get_state(legacy=False))


def restore(generator: Any, state: Any) -> None:
    """Put back what :func:`state_of` returned."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        if state is not None:
            version, numbers, gauss = state
            generator.setstate((version, tuple(numbers), gauss))
    elif isinstance(generator, numpy.random.Generator):
        generator.bit_generator.state = _arrays(state)
    else:
        generator.set_state(_arrays(state))


def _tensors(state: Any) -> Any:
    return tree_map_only(numpy.ndarray, lambda array: torch.from_numpy(array.copy()), state)


def _arrays(state: Any) -> Any:
    return tree_map_only(Tensor, Tensor.numpy, state)

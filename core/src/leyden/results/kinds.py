"""Which record keeps a logged value: the core's those of numbers, a plugin's those of a library's objects."""

from __future__ import annotations

from numbers import Number
from typing import TYPE_CHECKING, Any

from torch import Tensor

from leyden.registry import Registry
from leyden.results.options import LogOptions
from leyden.results.record import Record, TensorRecord

if TYPE_CHECKING:
    from torch.nn import Module

    from leyden.interfaces.strategy import Strategy


def kind_of(value: Any, strategy: Strategy) -> str | None:
    """The name of the component that keeps a value; None where the core does, or says that it can't.

    Raises:
        UnknownComponentError: A plugin that is not there has one for objects of that class.
    """
    if isinstance(value, (Tensor, Number)):
        return None
    component = Registry(strategy.plugin_manager).of_class("record", type(value))
    return None if component is None else component.name


def new_record(
    kind: str | None,
    name: str,
    asked: LogOptions | None,
    options: LogOptions,
    dataloader_idx: int | None,
    strategy: Strategy,
    module: Module,
) -> Record:
    """A record without values.

    Args:
        kind: The name of its component; None for numbers.
        name: See :class:`Record`, as for the others.
        asked: The arguments of the call.
        options: The arguments with defaults filled in.
        dataloader_idx: The loader, where there are several.
        strategy: Whose plugins bring the component.
        module: The module that is run.

    Raises:
        UnknownComponentError: No plugin brings a component of that name.
    """
    cls = TensorRecord if kind is None else Registry(strategy.plugin_manager).get("record", kind).load()
    record: Record = cls(name, asked, options, dataloader_idx, strategy, module)
    record.kind = kind
    return record

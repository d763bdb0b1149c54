"""What Fabric does to modules, optimizers and loaders in addition to the strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from leyden.plugins import copy_with
from leyden_fabric.wrappers import FabricDataLoader, is_wrapped

if TYPE_CHECKING:
    from leyden_fabric.fabric import Fabric


def refuse_wrapped(name: str, kind: str, given: tuple[Any, ...]) -> None:
    """Raise a ValueError if an object was set up already.

    Args:
        name: The method that was called.
        kind: "module", "optimizer" or "loader".
        given: The objects.
    """
    if any(is_wrapped(obj) for obj in given):
        raise ValueError(f"{name}() was given {kind}s, one of which was set up already; set each up once.")


def compile_in_place(module: Any, compiled: Any) -> None:
    """Compile a module with the settings of ``compiled``, so that every call of it runs compiled code.

    Args:
        module: The module that ``torch.compile`` was given, perhaps wrapped by a strategy since.
        compiled: What ``torch.compile`` returned.
    """
    own_code = not type(module).__module__.startswith("torch.")  # the compiler skips functions of PyTorch itself
    call = module._call_impl if own_code else lambda *args, **kwargs: module._call_impl(*args, **kwargs)
    module._compiled_call_impl = compiled.dynamo_ctx(call)


def follow_parameters(optimizers: tuple[Any, ...], before: dict[str, Any], after: dict[str, Any]) -> None:
    """Give optimizers the parameters by which a strategy has replaced those that they were made for.

    Args:
        optimizers: The optimizers.
        before: The parameters before, by name.
        after: The parameters now, by name.
    """
    replaced = {id(p): after[name] for name, p in before.items() if name in after and after[name] is not p}
    for optimizer in optimizers if replaced else ():
        for group in optimizer.param_groups:
            group["params"] = [replaced.get(id(p), p) for p in group["params"]]


def prepare_loader(fabric: Fabric, loader: Any, divide: bool, move: bool) -> FabricDataLoader:
    """Make a loader of this process's part of the data, as installed plugins prepare it.

    Args:
        fabric: The Fabric.
        loader: The user's DataLoader, which is not changed.
        divide: Whether the data are divided among the processes.
        move: Whether batches are moved to the device.
    """
    if divide:
        loader = fabric.strategy.divide(loader, training=True)
    loader = copy_with(loader)  # because the user's own must not change
    loader = fabric.plugin_manager.hook.leyden_prepare_loader(owner=fabric, loader=loader, training=True)
    to_device = fabric.strategy.batch_to_device if move else None
    return FabricDataLoader(loader, to_device, fabric.device if move else None)

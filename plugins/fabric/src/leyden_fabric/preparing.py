"""What is done to modules, optimizers and loaders beside what the strategy does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from leyden.data.samplers import copy_with
from leyden_fabric.wrappers import FabricDataLoader, is_wrapped

if TYPE_CHECKING:
    from leyden_fabric.fabric import Fabric


def refuse_wrapped(name: str, kind: str, given: tuple[Any, ...]) -> None:
    """Raise a ValueError if something is set up a second time."""
    if any(is_wrapped(obj) for obj in given):
        raise ValueError(f"{name}() was given {kind}s, one of which was set up already; set each up once.")


def compile_in_place(module: Any, compiled: Any) -> None:
    """Compile a module with the settings of ``compiled``, so that whatever calls it, in a strategy too, runs that."""
    own_code = not type(module).__module__.startswith("torch.")  # the compiler passes over PyTorch's own frames
    call = module._call_impl if own_code else lambda *args, **kwargs: module._call_impl(*args, **kwargs)
    module._compiled_call_impl = compiled.dynamo_ctx(call)


def follow_parameters(optimizers: tuple[Any, ...], before: dict[str, Any], after: dict[str, Any]) -> None:
    """Have optimizers go on with the parameters that a strategy put in the place of those that they were made for."""
    replaced = {id(p): after[name] for name, p in before.items() if name in after and after[name] is not p}
    for optimizer in optimizers if replaced else ():
        for group in optimizer.param_groups:
            group["params"] = [replaced.get(id(p), p) for p in group["params"]]


def prepare_loader(fabric: Fabric, loader: Any, divide: bool, move: bool) -> FabricDataLoader:
    """A loader of this process's part of the data, as plugins want it."""
    if divide:
        loader = fabric.strategy.divide(loader, training=True)
    loader = copy_with(loader)  # as the user's own stays as it is
    loader = fabric.plugin_manager.hook.leyden_prepare_loader(owner=fabric, loader=loader, training=True)
    to_device = fabric.strategy.batch_to_device if move else None
    return FabricDataLoader(loader, to_device, fabric.device if move else None)

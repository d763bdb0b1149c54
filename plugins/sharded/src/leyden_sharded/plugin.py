"""The plugin leyden-sharded: strategies that divide the state of a model among the processes."""

from collections.abc import Iterator
from typing import Any

from leyden import Component, hookimpl

FSDP = "leyden_sharded.fsdp:FSDPStrategy"
MODERATE = 1_000_000  # the least number of parameters of a unit under zero_2 and zero_3

STRATEGIES: dict[str, tuple[str, dict[str, Any]]] = {
    "zero_1": ("leyden_sharded.zero_1:ZeRO1Strategy", {}),
    "zero_2": (FSDP, {"sharding_strategy": "SHARD_GRAD_OP", "auto_wrap_policy": MODERATE}),
    "zero_3": (FSDP, {"sharding_strategy": "FULL_SHARD", "auto_wrap_policy": MODERATE}),
    "zero_3_offload": (FSDP, {"sharding_strategy": "FULL_SHARD", "auto_wrap_policy": MODERATE, "cpu_offload": True}),
    "fsdp": (FSDP, {}),
    "fsdp_cpu_offload": (FSDP, {"cpu_offload": True}),
    "model_parallel": ("leyden_sharded.model_parallel:ModelParallelStrategy", {}),
}
CLASSES = {"zero_1": "ZeRO1Strategy", "fsdp": "FSDPStrategy", "model_parallel": "ModelParallelStrategy"}


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Each strategy by its name, which runs the script again for each process, and as ``NAME_spawn`` if it can."""
    for name, (target, arguments) in STRATEGIES.items():
        aliases = [CLASSES[name]] if name in CLASSES else []
        yield Component("strategy", name, target, {"aliases": aliases, "arguments": arguments})
        if name != "model_parallel":
            spawned = {"arguments": {**arguments, "start_method": "spawn"}}
            yield Component("strategy", f"{name}_spawn", target, spawned)


@hookimpl
def leyden_describe_checkpoint(path: str) -> str | None:
    """Say what a sharded checkpoint is where a file is needed."""
    from leyden_sharded import directory

    return directory.describe(path)

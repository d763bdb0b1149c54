"""The plugin leyden-deepspeed: DeepSpeed's ZeRO stages as strategies."""

import sys
from collections.abc import Iterator
from typing import Any

from leyden import Component, hookimpl

STRATEGIES: dict[str, dict[str, Any]] = {
    "deepspeed": {},
    "deepspeed_stage_1": {"stage": 1},
    "deepspeed_stage_1_offload": {"stage": 1, "offload_optimizer": True},
    "deepspeed_stage_2": {"stage": 2},
    "deepspeed_stage_2_offload": {"stage": 2, "offload_optimizer": True},
    "deepspeed_stage_3": {"stage": 3},
    "deepspeed_stage_3_offload": {"stage": 3, "offload_optimizer": True, "offload_parameters": True},
}
TARGET = "leyden_deepspeed.strategy:DeepSpeedStrategy"


@hookimpl
def leyden_components() -> Iterator[Component]:
    """The stages by name, and the class by its own name."""
    for name, arguments in STRATEGIES.items():
        aliases = ["DeepSpeedStrategy"] if name == "deepspeed" else []
        yield Component("strategy", name, TARGET, {"aliases": aliases, "arguments": arguments})


@hookimpl
def leyden_configure(trainer: Any) -> None:
    """Compare the Trainer with DeepSpeed's configuration before processes are started."""
    module = sys.modules.get(TARGET.partition(":")[0])  # None: not imported, so no Trainer uses it
    if module is not None and isinstance(trainer.strategy, module.DeepSpeedStrategy):
        trainer.strategy.complete_config(trainer)


@hookimpl
def leyden_describe_checkpoint(path: str) -> str | None:
    """Say what a checkpoint of DeepSpeed's is where a file is needed."""
    from leyden_deepspeed import checkpoints

    return checkpoints.describe(path)

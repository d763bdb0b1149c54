"""DeepSpeed's configuration: made from arguments or read from a file or dict, and completed from the Trainer."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from leyden.utilities.exceptions import MisconfigurationException

VARIABLE = "PL_DEEPSPEED_CONFIG_PATH"  # Lightning's name
AUTO = "auto"  # the value in a configuration for "the program decides"

# The arguments of the strategy from which a configuration is made, by section, with their defaults.
ZERO = {
    "contiguous_gradients": True, "overlap_comm": True, "allgather_partitions": True, "reduce_scatter": True,
    "allgather_bucket_size": 200_000_000, "reduce_bucket_size": 200_000_000, "sub_group_size": 1_000_000_000_000,
}  # fmt: skip
ACTIVATIONS = dict.fromkeys(
    ("partition_activations", "cpu_checkpointing", "contiguous_memory_optimization", "synchronize_checkpoint_boundary"),
    False,
)
NVME = {"block_size": 1_048_576, "queue_depth": 8, "single_submit": False, "overlap_events": True, "thread_count": 1}
OTHERS = {
    "zero_optimization": True, "stage": 2, "zero_allow_untested_optimizer": True, "logging_batch_size_per_gpu": AUTO,
    "offload_optimizer": False, "offload_optimizer_device": "cpu", "optimizer_buffer_count": 4,
    "offload_parameters": False, "offload_params_device": "cpu", "params_buffer_count": 5,
    "params_buffer_size": 100_000_000, "max_in_cpu": 1_000_000_000, "nvme_path": "/local_nvme", "pin_memory": False,
}  # fmt: skip
LOSS_SCALING = {
    "loss_scale": 0, "initial_scale_power": 16, "loss_scale_window": 1000, "hysteresis": 2, "min_loss_scale": 1,
}  # fmt: skip
OPTIONS: dict[str, Any] = {**ZERO, **ACTIVATIONS, **NVME, **OTHERS, **LOSS_SCALING}

FORMATS = {"32-true": None, "bf16-mixed": "bf16", "bf16-true": "bf16", "16-mixed": "fp16", "16-true": "fp16"}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def read(given: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without the values that come from the Trainer.

    Args:
        given: A dict in DeepSpeed's format, the path of a JSON file in that format, or None.
        options: Arguments of the strategy, from which the configuration is made if none is given.

    Raises:
        MisconfigurationException: An option is not known or would not be used, or the file can't be read.
    """
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise MisconfigurationException(
            f"DeepSpeedStrategy has no argument {unknown[0]!r}; write config=, a dict or a file in DeepSpeed's format, "
            "for settings that have no argument."
        )
    if given is None and VARIABLE in os.environ:
        given = os.environ[VARIABLE]
    if given is None:
        return _from_options({**OPTIONS, **options})
    if unused := sorted(set(options) - set(LOSS_SCALING)):
        raise MisconfigurationException(
            f"{unused[0]}={options[unused[0]]!r} would not be used, because there is a configuration in DeepSpeed's "
            f"format ({given!r}); write it there."
        )
    if isinstance(given, Mapping):
        return copy.deepcopy(dict(given))
    return _from_file(Path(given))


def _from_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MisconfigurationException(f"There is no DeepSpeed configuration at {str(path)!r}.")
    try:
        read = json.loads(path.read_text())
    except ValueError as error:
        raise MisconfigurationException(f"The DeepSpeed configuration {str(path)!r} is no JSON: {error}.") from error
    if not isinstance(read, dict):
        raise MisconfigurationException(
            f"The DeepSpeed configuration {str(path)!r} must be a JSON object, and is {read!r}."
        )
    return read


def _from_options(o: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if any(o[name] for name in ACTIVATIONS):
        config["activation_checkpointing"] = {name: o[name] for name in ACTIVATIONS}
    if "nvme" in (o["offload_optimizer_device"], o["offload_params_device"]):
        config["aio"] = {name: o[name] for name in NVME}
    if o["logging_batch_size_per_gpu"] != AUTO:
        config["train_micro_batch_size_per_gpu"] = o["logging_batch_size_per_gpu"]
    if not o["zero_optimization"]:
        return config
    if o["offload_parameters"] and o["stage"] != 3:
        raise MisconfigurationException(
            f"offload_parameters=True needs stage=3, which divides parameters, and stage is {o['stage']!r}."
        )
    zero = {"stage": o["stage"], **{name: o[name] for name in ZERO}}
    place = {"nvme_path": o["nvme_path"], "pin_memory": o["pin_memory"]}
    if o["offload_optimizer"]:
        zero["offload_optimizer"] = {
            "device": o["offload_optimizer_device"], "buffer_count": o["optimizer_buffer_count"], **place,
        }  # fmt: skip
        config["zero_force_ds_cpu_optimizer"] = False  # any optimizer of the user's may be offloaded
    if o["offload_parameters"]:
        zero["offload_param"] = {
            "device": o["offload_params_device"], "buffer_count": o["params_buffer_count"],
            "buffer_size": o["params_buffer_size"], "max_in_cpu": o["max_in_cpu"], **place,
        }  # fmt: skip
    return {**config, "zero_optimization": zero, "zero_allow_untested_optimizer": o["zero_allow_untested_optimizer"]}


def stage(config: Mapping[str, Any]) -> int:
    """The stage of ZeRO in a configuration; 0 without ZeRO."""
    return int(config.get("zero_optimization", {}).get("stage", 0))


def dtype(config: Mapping[str, Any]) -> torch.dtype | None:
    """The 16-bit format in which DeepSpeed keeps the parameters; None for 32 bits."""
    for section, dtype in DTYPES.items():
        if config.get(section, {}).get("enabled") is True:
            return dtype
    return None


def complete(
    config: Mapping[str, Any],
    *,
    accumulate_grad_batches: int,
    gradient_clip_val: float | None,
    precision: str,
    batch_size: int | None,
    world_size: int,
    loss_scaling: Mapping[str, Any],
) -> dict[str, Any]:
    """A copy of a configuration in which values that are missing or "auto" come from the Trainer.

    Args:
        config: The configuration.
        accumulate_grad_batches: The Trainer's argument.
        gradient_clip_val: The Trainer's argument; None leaves the value to the configuration.
        precision: The name of the Trainer's precision.
        batch_size: The number of samples in a batch of one process; None if it is not known.
        world_size: The number of processes.
        loss_scaling: Settings of the loss scaling for float16 that replace the defaults.

    Raises:
        MisconfigurationException: The Trainer and the configuration contradict each other.
    """
    complete = copy.deepcopy(dict(config))
    if complete.get("managed_gradient_accumulation") is False:
        raise MisconfigurationException(
            "DeepSpeed's config says managed_gradient_accumulation=false, but the Trainer decides which batch ends an "
            "accumulation; leave it out."
        )
    _fill_in(complete, "gradient_accumulation_steps", accumulate_grad_batches, "accumulate_grad_batches", True)
    clip = gradient_clip_val or 0.0
    _fill_in(complete, "gradient_clipping", clip, "gradient_clip_val", gradient_clip_val is not None)
    _fill_in(complete, "train_micro_batch_size_per_gpu", batch_size or 1, "the loader's batch_size", bool(batch_size))
    micro, steps = complete["train_micro_batch_size_per_gpu"], complete["gradient_accumulation_steps"]
    whole = micro * steps * world_size
    if complete.get("train_batch_size") == AUTO:
        del complete["train_batch_size"]
    if batch_size and complete.get("train_batch_size", whole) != whole:
        raise MisconfigurationException(
            f"DeepSpeed's config says train_batch_size={complete['train_batch_size']!r}, but {world_size} processes "
            f"with batches of {micro} and accumulate_grad_batches={steps} make {whole}; leave it out."
        )
    if not batch_size:
        complete.pop("train_batch_size", None)
    _fill_in_format(complete, precision, {**LOSS_SCALING, **loss_scaling})
    return complete


def _fill_in(config: dict[str, Any], key: str, value: Any, argument: str, is_given: bool) -> None:
    found = config.get(key, AUTO)
    if found == AUTO:
        config[key] = value
    elif is_given and found != value:
        raise MisconfigurationException(
            f"DeepSpeed's config says {key}={found!r}, but {argument} is {value!r}; leave it out of the config."
        )


def _fill_in_format(config: dict[str, Any], precision: str, loss_scaling: Mapping[str, Any]) -> None:
    if precision not in FORMATS:
        raise MisconfigurationException(
            f"precision={precision!r} is not supported by DeepSpeed; write one of {', '.join(FORMATS)}."
        )
    wanted = FORMATS[precision]
    for section in DTYPES:
        found = config.get(section, {}).get("enabled", AUTO)
        if found != AUTO and bool(found) != (section == wanted):
            raise MisconfigurationException(
                f"DeepSpeed's config says {section}.enabled={found!r}, but the Trainer's precision is {precision!r}; "
                "leave it out of the config."
            )
        if section == wanted:
            defaults = loss_scaling if section == "fp16" else {}
            config[section] = {**defaults, **config.get(section, {}), "enabled": True}
        elif found == AUTO:
            config.pop(section, None)

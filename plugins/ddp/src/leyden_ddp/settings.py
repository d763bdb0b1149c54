"""Ranks that are set up differently are refused when they have met: they would wait for each other, or drift apart.

Compared is what all ranks must have in common: the call, the Trainer's arguments, and the callbacks that decide
something. What only shows, logs or measures may differ, so that rank 0 alone may have a logger or a progress bar.
"""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from leyden import Callback, Trainer
from leyden.utilities.exceptions import MisconfigurationException

if TYPE_CHECKING:
    from leyden_ddp.parallel import ParallelStrategy

# Arguments that may differ, and those that name parts, of which the parts themselves are compared.
_FREE = {"default_root_dir", "enable_progress_bar", "enable_model_summary", "enable_checkpointing", "log_every_n_steps",
         "detect_anomaly", "benchmark", "enable_autolog_hparams", "max_time", "inference_mode"}  # fmt: skip
_PARTS = {"accelerator", "strategy", "devices", "precision", "logger", "callbacks", "profiler", "plugins"}
_FREE_OF_CALLBACKS = {"dirpath", "filename", "verbose", "log_rank_zero_only"}
_SHOWING = (None, "progress_bar", "model_summary")  # the roles of callbacks that decide nothing
_PLAIN = (bool, int, float, str, timedelta, type(None))
_SHOWN = 3  # differences in one message


def compare_settings(trainer: Trainer, strategy: ParallelStrategy) -> None:
    """Refuse a run whose ranks are set up differently; all ranks call this together.

    Args:
        trainer: The Trainer of this rank, whose run has begun.
        strategy: Its strategy.

    Raises:
        MisconfigurationException: They differ; the message has the setting, its values and their ranks.
    """
    ranks = strategy.all_gather_object(_settings_of(trainer))
    names = dict.fromkeys(name for settings in ranks for name in settings)
    differing = [name for name in names if len({settings.get(name, "absent") for settings in ranks}) > 1]
    if not differing:
        return
    told = "; ".join(_tell(name, [settings.get(name, "absent") for settings in ranks]) for name in differing[:_SHOWN])
    more = f" (and {len(differing) - _SHOWN} more)" if len(differing) > _SHOWN else ""
    raise MisconfigurationException(f"The ranks are set up differently: {told}{more}. Give all ranks the same.")


def _tell(name: str, values: list[str]) -> str:
    """One setting, with its values and the ranks that have them."""
    by_value = {
        value: ", ".join(str(rank) for rank, other in enumerate(values) if other == value)
        for value in dict.fromkeys(values)
    }
    return f"{name} is {' and '.join(f'{value} on rank {ranks}' for value, ranks in by_value.items())}"


def _settings_of(trainer: Trainer) -> dict[str, str]:
    """What must be the same on all ranks, as text by name."""
    strategy = trainer.strategy
    arguments = [name for name in inspect.signature(Trainer).parameters if name not in _FREE | _PARTS]
    settings = {
        "the call": str(trainer.state.fn),
        "strategy": type(strategy).__name__,
        "accelerator": type(trainer.accelerator).__name__,
        "precision": f"{type(strategy.precision).__name__}({strategy.precision.precision})",
        **{name: repr(getattr(trainer, name, None)) for name in arguments},
    }
    for callback in trainer.callbacks:
        if callback.role not in _SHOWING:
            name = f"the callback {type(callback).__name__}"
            count = sum(known.startswith(name) for known in settings)
            settings[f"{name} (no. {count + 1})" if count else name] = _arguments_of(callback)
    return settings


def _arguments_of(callback: Callback) -> str:
    """The plain arguments of a callback that are not the defaults, as far as it keeps them under their names."""
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(callback)).parameters.items():
        value = getattr(callback, name, getattr(callback, f"_{name}", None))
        if name not in _FREE_OF_CALLBACKS and isinstance(value, _PLAIN) and value != parameter.default:
            found[name] = value
    return f"({', '.join(f'{name}={value!r}' for name, value in found.items())})"

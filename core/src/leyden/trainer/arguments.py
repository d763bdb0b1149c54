"""The Trainer's plain arguments: checked, and settled where one decides about others."""

from __future__ import annotations

import os
from datetime import timedelta
from numbers import Integral, Real
from typing import Any

from leyden.utilities.durations import parse_duration
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.rank_zero import rank_zero_info

# What the Trainer has of these is chosen or built from what was written.
PARTS = ("accelerator", "strategy", "devices", "precision", "plugins", "profiler", "logger", "callbacks")
LIMITS = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches")
# The documented defaults of arguments whose default is None.
DEFAULTS = {
    **dict.fromkeys(LIMITS, 1.0),
    "val_check_interval": 1.0,
    "num_sanity_val_steps": 2,
    "log_every_n_steps": 50,
}
COUNTS = {
    "accumulate_grad_batches": 1, "log_every_n_steps": 0, "reload_dataloaders_every_n_epochs": 0,
    "num_sanity_val_steps": -1, "max_steps": -1, "num_nodes": 1,
}  # fmt: skip
OPTIONAL_COUNTS = {"max_epochs": -1, "min_epochs": 0, "min_steps": 0, "check_val_every_n_epoch": 1}
FLAGS = ("enable_checkpointing", "enable_progress_bar", "enable_model_summary")
SWITCHES = (
    *FLAGS, "benchmark", "inference_mode", "use_distributed_sampler", "detect_anomaly", "barebones", "sync_batchnorm",
    "enable_autolog_hparams",
)  # fmt: skip


def settle(given: dict[str, Any]) -> dict[str, Any]:
    """Check the arguments and let ``barebones``, ``fast_dev_run`` and ``overfit_batches`` decide about others.

    Raises:
        MisconfigurationException: A value can't work; the sentence says which and why.
        ValueError: ``barebones`` was asked for together with something that it turns off.
    """
    values = dict(given)
    for name in SWITCHES:
        values[name] = _check_switch(name, values[name])
    _settle_barebones(values)
    values.update({name: default for name, default in DEFAULTS.items() if values[name] is None})
    for name, least in COUNTS.items():
        values[name] = _check_count(name, values[name], least)
    for name, least in OPTIONAL_COUNTS.items():
        if values[name] is not None:
            values[name] = _check_count(name, values[name], least)
    for name in (*LIMITS, "overfit_batches"):
        values[name] = _check_share(name, values[name])
    values["val_check_interval"] = _check_interval(values["val_check_interval"], values["check_val_every_n_epoch"])
    values["max_time"] = parse_duration(values["max_time"], "max_time")
    _check_clipping(values["gradient_clip_val"], values["gradient_clip_algorithm"])
    if values["deterministic"] not in (True, False, None, "warn"):
        raise MisconfigurationException(f'deterministic={values["deterministic"]!r}: write True, False or "warn".')
    if values["overfit_batches"] > 0:
        values["limit_train_batches"] = values["limit_val_batches"] = values["overfit_batches"]
    _settle_fast_dev_run(values)
    if values["num_sanity_val_steps"] == -1:
        values["num_sanity_val_steps"] = float("inf")
    values["default_root_dir"] = _check_directory(values["default_root_dir"])
    return values


def _settle_barebones(values: dict[str, Any]) -> None:
    if not values["barebones"]:
        return
    off = (*FLAGS, "logger", "profiler", "fast_dev_run", "detect_anomaly", "num_sanity_val_steps", "log_every_n_steps")
    if on := [f"{name}={values[name]!r}" for name in off if values[name]]:
        raise ValueError(
            f"Trainer(barebones=True) turns off what costs time, but was given {', '.join(on)}; leave it out."
        )
    values.update(dict.fromkeys((*FLAGS, "logger"), False), num_sanity_val_steps=0, log_every_n_steps=0, profiler=None)


def _check_switch(name: str, value: Any) -> bool | None:
    if value is not None and not (isinstance(value, (bool, int)) and value in (0, 1)):
        raise MisconfigurationException(f"{name}={value!r} must be True or False.")
    return None if value is None else bool(value)


def _check_directory(value: Any) -> str:
    if value is not None and not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"default_root_dir={value!r} must be a path.")
    if value and os.path.isfile(value):
        raise MisconfigurationException(f"default_root_dir={os.fspath(value)!r} is a file; write a directory's path.")
    return os.fspath(value or os.getcwd())


def _number(value: Any) -> int | float | None:
    """A number, numpy's included, as Python's own int or float; None for anything else, and for NaN."""
    if isinstance(value, bool) or not isinstance(value, Real) or value != value:
        return None
    return int(value) if isinstance(value, Integral) else float(value)


def _check_count(name: str, value: Any, least: int) -> int:
    number = _number(value)
    if not isinstance(number, int) or number < least:
        raise MisconfigurationException(f"{name}={value!r} must be an integer of at least {least}.")
    return number


def _check_share(name: str, value: Any) -> int | float:
    number = _number(value)
    if number is None or number < 0 or (isinstance(number, float) and number > 1):
        raise MisconfigurationException(f"{name}={value!r} must be a fraction from 0.0 to 1.0, or a number of batches.")
    return number


def _check_interval(value: Any, every_n_epoch: int | None) -> Any:
    if isinstance(value, (str, dict, timedelta)):
        return parse_duration(value, "val_check_interval")
    number = _number(value)
    if number is None or number <= 0 or (isinstance(number, float) and number > 1):
        raise MisconfigurationException(
            f"val_check_interval={value!r} must be a fraction up to 1.0 of an epoch, a number of batches, or a time "
            'such as "00:00:30:00".'
        )
    if every_n_epoch is None and isinstance(number, float):
        raise MisconfigurationException(
            f"check_val_every_n_epoch=None counts batches across epochs, so val_check_interval={value!r} must be an "
            "integer."
        )
    return number


def _check_clipping(value: Any, algorithm: Any) -> None:
    number = _number(value)
    if value is not None and number is None:
        raise TypeError(f"gradient_clip_val={value!r} must be a number.")
    if number is not None and number < 0:
        raise MisconfigurationException(f"gradient_clip_val={value!r} must be 0 (no clipping) or more.")
    if algorithm is not None and str(algorithm) not in ("norm", "value"):
        raise MisconfigurationException(f'gradient_clip_algorithm={algorithm!r} is not known; write "norm" or "value".')


def _settle_fast_dev_run(values: dict[str, Any]) -> None:
    runs = values["fast_dev_run"]
    if not isinstance(runs, (bool, int)) or runs < 0:
        raise MisconfigurationException(f"fast_dev_run={runs!r} must be True, False or a number of batches.")
    if not runs:
        return
    count = int(runs)
    values.update(dict.fromkeys(LIMITS, count))
    values.update(
        max_steps=count, max_epochs=1, num_sanity_val_steps=0, val_check_interval=1.0, check_val_every_n_epoch=1,
        enable_checkpointing=False,
    )  # fmt: skip
    rank_zero_info(f"fast_dev_run: {count} batch(es) of each loop; nothing is logged or saved.")

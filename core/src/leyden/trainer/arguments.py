"""The Trainer's settings: each is declared once with what it may be, and all are checked before anything is built."""

import inspect
import os
from collections.abc import Callable
from datetime import timedelta
from numbers import Integral, Real
from typing import Annotated, Any, get_args

from leyden.utilities import MisconfigurationException, parse_duration, rank_zero_info

COUNTED = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches", "max_steps")
# What fast_dev_run sets, besides these counts.
FAST_DEV_RUN = {
    "max_epochs": 1, "num_sanity_val_steps": 0, "val_check_interval": 1.0, "check_val_every_n_epoch": 1,
    "enable_checkpointing": False,
}  # fmt: skip
# What barebones turns off; it is refused together with any of them.
BAREBONES = {
    "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False, "logger": False,
    "profiler": None, "fast_dev_run": False, "detect_anomaly": False, "num_sanity_val_steps": 0, "log_every_n_steps": 0,
}  # fmt: skip


# -- checks: each takes a value and its name, and returns the value to use ------------------------------------


def _number(value: Any) -> int | float | None:
    """A number, numpy's included, as Python's own int or float; None for anything else, and for NaN."""
    if isinstance(value, bool) or not isinstance(value, Real) or value != value:
        return None
    return int(value) if isinstance(value, Integral) else float(value)


def _at_least(least: int) -> Callable[[Any, str], int]:
    def check(value: Any, name: str) -> int:
        number = _number(value)
        if not isinstance(number, int) or number < least:
            raise MisconfigurationException(f"{name}={value!r} must be an integer of at least {least}.")
        return number

    return check


def _one_of(*known: Any) -> Callable[[Any, str], Any]:
    def check(value: Any, name: str) -> Any:
        if value not in known:
            written = " or ".join(f'"{one}"' if isinstance(one, str) else str(one) for one in known)
            raise MisconfigurationException(f"{name}={value!r} is not known; write {written}.")
        return value

    return check


def _switch(value: Any, name: str) -> bool:
    if value is not None and not (isinstance(value, (bool, int)) and value in (0, 1)):
        raise MisconfigurationException(f"{name}={value!r} must be True or False.")
    return bool(value)


def _share(value: Any, name: str) -> int | float:
    number = _number(value)
    if number is None or number < 0 or (isinstance(number, float) and number > 1):
        raise MisconfigurationException(f"{name}={value!r} must be a fraction from 0.0 to 1.0, or a number of batches.")
    return number


def _batches(value: Any, name: str) -> int | bool:
    if not isinstance(value, (bool, int)) or value < 0:
        raise MisconfigurationException(f"{name}={value!r} must be True, False or a number of batches.")
    return value


def _interval(value: Any, name: str) -> Any:
    if isinstance(value, (str, dict, timedelta)):
        return parse_duration(value, name)
    number = _number(value)
    if number is None or number <= 0 or (isinstance(number, float) and number > 1):
        raise MisconfigurationException(
            f"{name}={value!r} must be a fraction up to 1.0 of an epoch, a number of batches, or a time such as "
            '"00:00:30:00".'
        )
    return number


def _bound(value: Any, name: str) -> int | float:
    number = _number(value)
    if number is None or number < 0:
        raise MisconfigurationException(f"{name}={value!r} must be a number of at least 0, which does not clip.")
    return number


def _directory(value: Any, name: str) -> str:
    path = os.getcwd() if value is None or value == "" else value
    if not isinstance(path, (str, os.PathLike)) or os.path.isfile(path):
        raise MisconfigurationException(f"{name}={value!r} must be the path of a directory.")
    return os.fspath(path)


Share = Annotated[int | float, _share]
Switch = Annotated[bool, _switch]
OptionalSwitch = Annotated[bool | None, _switch]


class Settings:
    """The plain arguments of a Trainer: their types, their checks, and the value that None stands for."""

    num_nodes: Annotated[int, _at_least(1)]
    fast_dev_run: Annotated[int | bool, _batches]
    max_epochs: Annotated[int | None, _at_least(-1)]
    min_epochs: Annotated[int | None, _at_least(0)]
    max_steps: Annotated[int, _at_least(-1)]
    min_steps: Annotated[int | None, _at_least(0)]
    max_time: Annotated[timedelta | None, parse_duration]
    limit_train_batches: Share = 1.0
    limit_val_batches: Share = 1.0
    limit_test_batches: Share = 1.0
    limit_predict_batches: Share = 1.0
    overfit_batches: Share
    val_check_interval: Annotated[Any, _interval] = 1.0
    check_val_every_n_epoch: Annotated[int | None, _at_least(1)]
    num_sanity_val_steps: Annotated[int | float, _at_least(-1)] = 2
    log_every_n_steps: Annotated[int, _at_least(0)] = 50
    enable_checkpointing: OptionalSwitch
    enable_progress_bar: OptionalSwitch
    enable_model_summary: OptionalSwitch
    accumulate_grad_batches: Annotated[int, _at_least(1)]
    gradient_clip_val: Annotated[int | float | None, _bound]
    gradient_clip_algorithm: Annotated[str | None, _one_of("norm", "value")]
    deterministic: Annotated[bool | str | None, _one_of(True, False, "warn")]
    benchmark: OptionalSwitch
    inference_mode: Switch
    use_distributed_sampler: Switch
    detect_anomaly: Switch
    barebones: Switch
    sync_batchnorm: Switch
    reload_dataloaders_every_n_epochs: Annotated[int, _at_least(0)]
    default_root_dir: Annotated[str, _directory]
    enable_autolog_hparams: Switch


SETTINGS = inspect.get_annotations(Settings)


def check_arguments(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Check the arguments and let ``barebones``, ``fast_dev_run`` and ``overfit_batches`` decide about others.

    Args:
        given: All arguments of the Trainer, by name.

    Returns:
        The settings, and the other arguments, from which the parts are made.

    Raises:
        MisconfigurationException: A value can't work; the sentence says which and why.
        ValueError: ``barebones`` was asked for together with something that it turns off.
    """
    values = dict(given)
    for name, hint in SETTINGS.items():
        value = getattr(Settings, name, None) if given[name] is None else given[name]
        if value is not None or type(None) not in get_args(hint.__origin__):
            value = hint.__metadata__[0](value, name)
        values[name] = value
    if values["check_val_every_n_epoch"] is None and isinstance(interval := values["val_check_interval"], float):
        raise MisconfigurationException(
            f"check_val_every_n_epoch=None counts batches across epochs, so val_check_interval={interval} must be an "
            "integer."
        )
    if values["barebones"]:
        if on := [f"{name}={given[name]!r}" for name in BAREBONES if given[name]]:
            raise ValueError(f"barebones=True turns off what costs time, but there is {', '.join(on)}; leave it out.")
        values.update(BAREBONES)
    if values["overfit_batches"] > 0:
        values["limit_train_batches"] = values["limit_val_batches"] = values["overfit_batches"]
    if count := int(values["fast_dev_run"]):
        values.update({**FAST_DEV_RUN, **dict.fromkeys(COUNTED, count)})
        rank_zero_info(f"fast_dev_run: {count} batch(es) of each loop; nothing is logged or saved.")
    if values["num_sanity_val_steps"] == -1:
        values["num_sanity_val_steps"] = float("inf")
    parts = {name: values.pop(name) for name in given if name not in SETTINGS}
    return values, parts

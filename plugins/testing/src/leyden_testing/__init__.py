"""The conformance kit: a class of checks for each kind of part, which authors subclass to check their own part.

The classes are imported on first use, since pytest loads this package in every project where it is installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leyden_testing.accelerator import AcceleratorConformance
    from leyden_testing.callback import CallbackConformance
    from leyden_testing.checkpoint_io import CheckpointIOConformance
    from leyden_testing.environment import EnvironmentConformance
    from leyden_testing.logger import LoggerConformance
    from leyden_testing.precision import PrecisionConformance
    from leyden_testing.profiler import ProfilerConformance
    from leyden_testing.record import RecordConformance
    from leyden_testing.strategy import StrategyConformance

__all__ = [
    "AcceleratorConformance",
    "CallbackConformance",
    "CheckpointIOConformance",
    "EnvironmentConformance",
    "LoggerConformance",
    "PrecisionConformance",
    "ProfilerConformance",
    "RecordConformance",
    "StrategyConformance",
]
_MODULES = {
    "AcceleratorConformance": "accelerator",
    "CallbackConformance": "callback",
    "CheckpointIOConformance": "checkpoint_io",
    "EnvironmentConformance": "environment",
    "LoggerConformance": "logger",
    "PrecisionConformance": "precision",
    "ProfilerConformance": "profiler",
    "RecordConformance": "record",
    "StrategyConformance": "strategy",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

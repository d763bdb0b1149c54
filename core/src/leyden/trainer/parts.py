"""The parts of a Trainer, from what the user wrote: accelerator, devices, strategy, precision, loggers, callbacks."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from leyden.callback import Callback
from leyden.interfaces.accelerator import Accelerator
from leyden.interfaces.checkpoint_io import CheckpointIO
from leyden.interfaces.component import Component
from leyden.interfaces.environment import Environment
from leyden.interfaces.logger import DummyLogger, Logger
from leyden.interfaces.precision import Precision
from leyden.interfaces.profiler import PassThroughProfiler, Profiler
from leyden.interfaces.strategy import Strategy
from leyden.manager import PluginManager, discover
from leyden.registry import Registry, build, published_by
from leyden.serialization import TorchCheckpointIO
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.rank_zero import rank_zero_warn

if TYPE_CHECKING:
    from leyden.trainer.trainer import Trainer


def sort_plugins(plugins: Any) -> tuple[PluginManager, dict[type, Any]]:
    """Divide ``Trainer(plugins=...)`` into pluggy plugins, which join the installed ones, and component instances.

    Raises:
        MisconfigurationException: Something in it is neither, or there are two of one kind.
    """
    manager = discover()
    parts: dict[type, Any] = {}
    given = [] if plugins is None else list(plugins) if isinstance(plugins, (list, tuple)) else [plugins]
    own: list[Any] = []
    for plugin in given:
        if isinstance(plugin, (str, type)):
            plugin = _part_by_name(plugin) if isinstance(plugin, str) else build("plugin", plugin)
        kind = next((base for base in (Precision, CheckpointIO, Environment) if isinstance(plugin, base)), None)
        if kind is None:
            own.append(plugin)
        elif kind in parts:
            raise MisconfigurationException(f"plugins={given!r} has two of the kind {kind.__name__}; give one.")
        else:
            parts[kind] = plugin
    return (manager.extended(own) if own else manager), parts


PLUGIN_KINDS = ("precision", "checkpoint_io", "environment")


def _part_by_name(name: str) -> Any:
    registry = Registry()
    for kind in PLUGIN_KINDS:
        if registry.named(kind, name):
            return build(kind, name)
    raise registry.unknown(PLUGIN_KINDS, name)


def choose_accelerator(value: Any, manager: PluginManager) -> Accelerator:
    """An accelerator from a name, ``"auto"``, a group's alias such as ``"gpu"``, a class or an instance.

    Raises:
        MisconfigurationException: It is not installed, or not available on this machine.
    """
    registry = Registry(manager)
    if not isinstance(value, str):
        chosen = build("accelerator", value)
        if not isinstance(chosen, Accelerator):
            raise MisconfigurationException(
                f"accelerator={value!r} is no Accelerator; write a name, 'auto' or an instance."
            )
        _require_available(type(chosen), chosen.name())
        return chosen
    known = registry.components("accelerator")
    candidates = known if value == "auto" else registry.named("accelerator", value)
    if not candidates:
        if value == "auto":
            raise MisconfigurationException(
                f"No accelerator is installed, so there is nothing to train on: {_advice('accelerator')}."
            )
        raise registry.unknown(("accelerator",), value)
    if any(part.name == value for part in candidates):
        candidates = [registry.get("accelerator", value)]
    if value != "auto" and len(candidates) == 1:
        _require_available(candidates[0].load(), candidates[0].name)
        return build("accelerator", candidates[0].name, manager)  # type: ignore[no-any-return]
    best = sorted(candidates, key=_priority, reverse=True)
    for part in best:
        if _finds_device(part):
            _refuse_equals(value, part, best)
            return build("accelerator", part.name, manager)  # type: ignore[no-any-return]
    names = ", ".join(part.name for part in best)
    advice = f": {_advice('accelerator')}" if value == "auto" else ""
    raise MisconfigurationException(
        f"accelerator={value!r}: none of the installed {names} finds a device on this machine{advice}."
    )


def _priority(part: Component) -> float:
    """Which of several parts that could be used is: the one with the highest."""
    return float(part.options.get("priority", 1))


def _refuse_equals(value: str, chosen: Component, candidates: list[Component]) -> None:
    """Refuse to choose between accelerators of one priority that both find a device."""
    equals = [part for part in candidates if part is not chosen and _priority(part) == _priority(chosen)]
    if other := next((part for part in equals if _finds_device(part)), None):
        raise MisconfigurationException(
            f"accelerator={value!r} could be {chosen.name!r} or {other.name!r}: both find a device and have "
            f"the priority {_priority(chosen):g}; write accelerator={chosen.name!r} or accelerator={other.name!r}."
        )


def _finds_device(part: Component) -> bool:
    """Whether an accelerator can be used; one that is broken can't, and nobody asked for it by its name."""
    try:
        return bool(part.load().is_available())
    except Exception as error:
        rank_zero_warn(
            f"The accelerator {part.name!r} is passed over: {part.target} raises {type(error).__name__}: {error}",
            RuntimeWarning,
        )
        return False


def _require_available(cls: type[Accelerator], name: str) -> None:
    if not cls.is_available():
        raise MisconfigurationException(
            f"accelerator={name!r} finds no device on this machine; accelerator='auto' takes the best that is there."
        )


def choose_devices(value: Any, accelerator: Accelerator) -> list[torch.device]:
    """The devices of this node."""
    if value is None:
        raise MisconfigurationException('devices=None names no device; write a number, a list, -1 or "auto".')
    return accelerator.get_parallel_devices(accelerator.parse_devices(value))


def choose_environment(given: Environment | None, manager: PluginManager) -> Environment | None:
    """The environment among ``plugins``, or the one that says that it started this process, or None.

    Where several do, the one with the highest ``priority`` does: a launcher within a cluster's job, for example.
    """
    if given is not None:
        return given
    found = [part for part in Registry(manager).components("environment") if part.load().detect()]
    found.sort(key=_priority, reverse=True)
    if len(found) > 1 and _priority(found[0]) == _priority(found[1]):
        raise MisconfigurationException(
            f"Both {found[0].name} and {found[1].name} seem to have started this process; say which one to follow, "
            f"Trainer(plugins=[{found[0].name!r}])."
        )
    environment: Environment | None = found[0].build() if found else None
    return environment


def choose_strategy(value: Any, trainer: Trainer, manager: PluginManager, environment: Environment | None) -> Strategy:
    """A strategy from a name, ``"auto"``, a class or an instance."""
    devices = len(trainer.parallel_devices)
    if value == "auto":
        processes = devices * trainer.num_nodes
        if environment is not None and environment.creates_processes_externally:
            processes = max(processes, environment.world_size())
        chosen: Any = "single_device"
        if processes > 1:
            chosen = manager.hook.leyden_default_strategy(trainer=trainer, num_processes=processes)
        if chosen is None:
            raise MisconfigurationException(
                f"devices and num_nodes make {processes} processes, which need a strategy, and no installed plugin "
                f"brings one: {_advice('strategy')}; or ask for one device."
            )
        value = chosen
    strategy = build("strategy", value, manager)
    if not isinstance(strategy, Strategy):
        raise MisconfigurationException(f"strategy={value!r} is no Strategy; write a name, 'auto' or an instance.")
    if type(strategy) is Strategy and devices * trainer.num_nodes > 1:
        raise MisconfigurationException(
            f"strategy='single_device' uses one device, but devices and num_nodes make {devices * trainer.num_nodes}."
        )
    return strategy


def _advice(role: str) -> str:
    distribution, published = published_by("role", role)
    return f"pip install {distribution}" if published else f"{distribution} will, and is not published yet"


def choose_precision(
    value: Any, given: Precision | None, accelerator: Accelerator, manager: PluginManager
) -> Precision:
    """A precision from its name (an int too), or the instance among ``plugins``, that the accelerator can do."""
    precision = _precision_of(value, given, manager)
    if not accelerator.supports_precision(precision.precision):
        able = [name for name in Registry(manager).names("precision") if accelerator.supports_precision(name)]
        raise MisconfigurationException(
            f"precision={precision.precision!r} can't be computed by the accelerator {accelerator.name()!r}; of those "
            f"that are installed it can: {', '.join(able)}."
        )
    precision.setup(accelerator)
    return precision


def _precision_of(value: Any, given: Precision | None, manager: PluginManager) -> Precision:
    if value is not None and given is not None:
        raise MisconfigurationException(
            f"precision={value!r} and the plugin {type(given).__name__} both decide; give one."
        )
    if given is not None:
        return given
    name = "32-true" if value is None else str(value) if isinstance(value, int) else value
    precision = build("precision", name, manager)
    if not isinstance(precision, Precision):
        raise MisconfigurationException(f"precision={value!r} is no Precision; write a name such as '32-true'.")
    return precision


def choose_checkpoint_io(given: CheckpointIO | None) -> CheckpointIO:
    """The user's way of storing checkpoints, or files."""
    return given if given is not None else TorchCheckpointIO()


def choose_profiler(value: Any, manager: PluginManager) -> Profiler:
    """A profiler from a name or an instance; None measures nothing."""
    if value is None:
        return PassThroughProfiler()
    profiler = build("profiler", value, manager)
    if not isinstance(profiler, Profiler):
        raise MisconfigurationException(
            f"profiler={value!r} is no Profiler; write a name such as 'simple', or an instance."
        )
    return profiler


def choose_loggers(value: Any, trainer: Trainer, manager: PluginManager) -> list[Logger]:
    """The loggers from True, False, None (as True), a name, an instance or a list of these."""
    if value is False:
        return []
    if value is None or value is True:
        default = manager.hook.leyden_default_logger(trainer=trainer)
        if default is None and value is True:
            raise MisconfigurationException(
                f"logger=True, but no installed plugin brings a logger: {_advice('logger')}."
            )
        loggers = [] if default is None else [default]
    else:
        values = value if isinstance(value, Iterable) and not isinstance(value, str) else [value]
        loggers = [_one_logger(v, trainer, manager) for v in values]
    return [DummyLogger()] if loggers and trainer.fast_dev_run else loggers


def _one_logger(value: Any, trainer: Trainer, manager: PluginManager) -> Logger:
    logger = _logger_by_name(value, trainer, manager) if isinstance(value, str) else build("logger", value)
    if not isinstance(logger, Logger):
        raise MisconfigurationException(f"logger={value!r} is no Logger; write True, False, a name or an instance.")
    return logger


def _logger_by_name(name: str, trainer: Trainer, manager: PluginManager) -> Any:
    takes = inspect.signature(Registry(manager).get("logger", name).load()).parameters
    return build("logger", name, manager, **({"save_dir": trainer.default_root_dir} if "save_dir" in takes else {}))


ROLES = {
    "checkpoint": "enable_checkpointing",
    "progress_bar": "enable_progress_bar",
    "model_summary": "enable_model_summary",
}


def choose_callbacks(value: Any, trainer: Trainer, manager: PluginManager) -> list[Callback]:
    """The user's callbacks and the defaults of the roles that they leave open, checkpoints last.

    Raises:
        MisconfigurationException: Something is no callback, or is wanted and unwanted at once, or was asked for and
            no installed plugin brings it.
    """
    given = [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
    callbacks = [build("callback", callback, manager) for callback in given]
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise MisconfigurationException(f"callbacks={value!r}: {callback!r} is no Callback.")
    for role, flag in ROLES.items():
        unwanted = [type(c).__name__ for c in callbacks if c.role == role]
        if getattr(trainer, flag) is False and unwanted and role != "model_summary" and not trainer.fast_dev_run:
            raise MisconfigurationException(
                f"{flag}=False, but callbacks has a {unwanted[0]}; leave out one of the two."
            )
    if len(bars := [type(c).__name__ for c in callbacks if c.role == "progress_bar"]) > 1:
        raise MisconfigurationException(f"callbacks has {len(bars)} progress bars, {', '.join(bars)}; keep one.")
    if trainer.max_time is not None and any(c.role == "timer" for c in callbacks):
        rank_zero_warn(f"max_time={trainer.max_time} is not used: callbacks has a timer, which decides.")
    trainer.callbacks = callbacks
    for added in manager.hook.leyden_default_callbacks(trainer=trainer):
        for callback in added:  # one by one: a plugin may ask what the one before it has filled
            if callback.role not in ROLES or trainer.wants(callback.role):
                callbacks.append(callback)
    for role, asked in (
        *((r, getattr(trainer, f) is True) for r, f in ROLES.items()),
        ("timer", trainer.max_time is not None),
    ):
        if asked and trainer.wants(role):
            name = ROLES.get(role, "max_time")
            raise MisconfigurationException(
                f"{name} was asked for, but no installed plugin brings it: {_advice(role)}."
            )
    return order_callbacks(callbacks)


def order_callbacks(callbacks: Sequence[Callback]) -> list[Callback]:
    """Checkpoints last, so that they hold what the others did."""
    keys = [callback.state_key for callback in callbacks if has_state(callback)]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise RuntimeError(
            f"Two callbacks have the state_key {twice[0]!r}; give each its own, so that a checkpoint can hold both."
        )
    return sorted(callbacks, key=lambda callback: callback.role == "checkpoint")


def has_state(callback: Callback) -> bool:
    """Whether a callback keeps state in checkpoints."""
    return type(callback).state_dict is not Callback.state_dict

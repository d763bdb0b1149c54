"""The parts of a Trainer, from what the user wrote: accelerator, devices, strategy, precision, loggers, callbacks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from leyden.callback import Callback
from leyden.checkpoint.file import TorchCheckpointIO
from leyden.interfaces.accelerator import Accelerator
from leyden.interfaces.checkpoint_io import CheckpointIO
from leyden.interfaces.component import Component
from leyden.interfaces.environment import Environment
from leyden.interfaces.logger import DummyLogger, Logger
from leyden.interfaces.precision import Precision
from leyden.interfaces.profiler import PassThroughProfiler, Profiler
from leyden.interfaces.strategy import Strategy, connect
from leyden.plugin_system.discovery import discover
from leyden.plugin_system.manager import PluginManager
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.objects import is_overridden
from leyden.utilities.rank_zero import rank_zero_only, rank_zero_warn

if TYPE_CHECKING:
    from leyden.trainer.trainer import Trainer

T = TypeVar("T")

# The roles of default callbacks, and the Trainer's arguments that ask for them; None leaves it to the plugins.
ROLES = {
    "checkpoint": "enable_checkpointing",
    "progress_bar": "enable_progress_bar",
    "model_summary": "enable_model_summary",
    "timer": "max_time",
}
PLUGIN_KINDS: dict[str, type] = {"precision": Precision, "checkpoint_io": CheckpointIO, "environment": Environment}


def sort_plugins(plugins: Any) -> tuple[PluginManager, dict[type, Any]]:
    """Divide ``Trainer(plugins=...)`` into pluggy plugins, which join the installed ones, and component instances.

    Raises:
        MisconfigurationException: Something in it is neither, or there are two of one kind.
    """
    manager = discover()
    parts: dict[type, Any] = {}
    given = _as_list(plugins)
    own: list[Any] = []
    for plugin in given:
        if isinstance(plugin, (str, type)):
            named = manager.component(tuple(PLUGIN_KINDS), plugin).kind if isinstance(plugin, str) else "plugin"
            plugin = manager.build(named, plugin)
        kind = next((base for base in PLUGIN_KINDS.values() if isinstance(plugin, base)), None)
        if kind is None:
            own.append(plugin)
        elif kind in parts:
            raise MisconfigurationException(f"plugins={given!r} has two of the kind {kind.__name__}; give one.")
        else:
            parts[kind] = plugin
    return (manager.extended(own) if own else manager), parts


def _build_as(base: type[T], kind: str, value: Any, manager: PluginManager, write: str, **arguments: Any) -> T:
    """A part of a kind from a name, a class or an instance, or a sentence that says what to ``write``."""
    part = manager.build(kind, value, **arguments)
    if not isinstance(part, base):
        raise MisconfigurationException(f"{kind}={value!r} is no {base.__name__}; write {write}.")
    return part


def choose_accelerator(value: Any, manager: PluginManager) -> Accelerator:
    """An accelerator from a name, ``"auto"``, a group's alias such as ``"gpu"``, a class or an instance.

    Raises:
        MisconfigurationException: It is not installed, or not available on this machine.
    """
    if not isinstance(value, str):
        chosen = _build_as(Accelerator, "accelerator", value, manager, "a name, 'auto' or an instance")
        _require_available(type(chosen), chosen.name())
        return chosen
    candidates = manager.components("accelerator") if value == "auto" else manager.named("accelerator", value)
    if value != "auto" and (not candidates or any(part.name == value for part in candidates)):
        candidates = [manager.component("accelerator", value)]
    if value != "auto" and len(candidates) == 1:
        part = candidates[0]
        _require_available(part.load(), part.name)
    else:
        part = _best_accelerator(value, candidates, manager)
    return manager.build("accelerator", part.name)  # type: ignore[no-any-return]


def _require_available(cls: type[Accelerator], name: str) -> None:
    if not cls.is_available():
        raise MisconfigurationException(
            f"accelerator={name!r} finds no device on this machine; accelerator='auto' takes the best that is there."
        )


def _best_accelerator(value: str, candidates: list[Component], manager: PluginManager) -> Component:
    """The accelerator that finds a device and has the highest priority, among all or those of an alias."""
    if not candidates:
        raise MisconfigurationException(f"There is no accelerator to train on: {manager.advice('accelerator')}.")
    best = _best(candidates, _finds_device)
    if not best:
        names = ", ".join(part.name for part in sorted(candidates, key=_priority, reverse=True))
        hint = f": {manager.advice('accelerator')}" if value == "auto" else ""
        raise MisconfigurationException(
            f"accelerator={value!r}: none of the installed {names} finds a device on this machine{hint}."
        )
    if len(best) > 1:
        one, other = best[0].name, best[1].name
        raise MisconfigurationException(
            f"accelerator={value!r} could be {one!r} or {other!r}: both find a device and have the priority "
            f"{_priority(best[0]):g}; write accelerator={one!r} or accelerator={other!r}."
        )
    return best[0]


def _best(parts: list[Component], is_usable: Callable[[Component], bool]) -> list[Component]:
    """Of the parts that can be used that with the highest priority; several where they have the same."""
    for _, equals in groupby(sorted(parts, key=_priority, reverse=True), key=_priority):
        if usable := [part for part in equals if is_usable(part)]:
            return usable
    return []


def _priority(part: Component) -> float:
    return float(part.options.get("priority", 1))


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


def choose_devices(value: Any, accelerator: Accelerator) -> list[torch.device]:
    """The devices of this node."""
    if value is None:
        raise MisconfigurationException('devices=None names no device; write a number, a list, -1 or "auto".')
    return accelerator.get_parallel_devices(accelerator.parse_devices(value))


def _detect_environment(manager: PluginManager) -> Environment | None:
    """The environment that says that it started this process, or None.

    Where several do, the one with the highest ``priority`` does: a launcher within a cluster's job, for example.
    """
    found = _best(manager.components("environment"), lambda part: part.load().detect())
    if len(found) > 1:
        raise MisconfigurationException(
            f"Both {found[0].name} and {found[1].name} seem to have started this process; say which one to follow, "
            f"Trainer(plugins=[{found[0].name!r}])."
        )
    environment: Environment | None = found[0].build() if found else None
    return environment


def choose_strategy(value: Any, precision: Any, instances: dict[type, Any], owner: Any) -> Strategy:
    """The strategy, connected to all that it works with.

    Args:
        value: A name, "auto", a class or an instance.
        precision: A name (an int too), a class, an instance, or None.
        instances: The component instances among the plugins, by their interface.
        owner: A Trainer, or what else has its ``plugin_manager``, ``accelerator``, ``parallel_devices`` and
            ``num_nodes``.

    Raises:
        MisconfigurationException: A part is not installed, or does not go with the others.
    """
    manager: PluginManager = owner.plugin_manager
    environment = instances[Environment] if Environment in instances else _detect_environment(manager)
    name = _default_strategy(owner, environment) if value == "auto" else value
    strategy = _build_as(Strategy, "strategy", name, manager, "a name, 'auto' or an instance")
    devices = len(owner.parallel_devices) * owner.num_nodes
    if type(strategy) is Strategy and devices > 1:
        raise MisconfigurationException(
            f"strategy='single_device' uses one device, but devices and num_nodes make {devices}."
        )
    strategy.accelerator, strategy.environment, strategy.plugin_manager = owner.accelerator, environment, manager
    strategy.precision = _choose_precision(precision, instances.get(Precision), owner.accelerator, manager)
    strategy.checkpoint_io = instances.get(CheckpointIO, TorchCheckpointIO())
    strategy.parallel_devices, strategy.num_nodes = owner.parallel_devices, owner.num_nodes
    connect(strategy)
    rank_zero_only.rank = strategy.global_rank
    return strategy


def _default_strategy(owner: Any, environment: Environment | None) -> Any:
    processes = len(owner.parallel_devices) * owner.num_nodes
    if environment is not None and environment.creates_processes_externally:
        processes = max(processes, environment.world_size())
    if processes == 1:
        return "single_device"
    default = owner.plugin_manager.hook.leyden_default_strategy(trainer=owner, num_processes=processes)
    if default is None:
        raise MisconfigurationException(
            f"devices and num_nodes make {processes} processes, which need a strategy, and no plugin brings "
            f"one: {owner.plugin_manager.advice('strategy')}; or ask for one device."
        )
    return default


def _choose_precision(
    value: Any, given: Precision | None, accelerator: Accelerator, manager: PluginManager
) -> Precision:
    """A precision by its name, or the instance among ``plugins``, that the accelerator can do."""
    if value is not None and given is not None:
        raise MisconfigurationException(
            f"precision={value!r} and the plugin {type(given).__name__} both decide; give one."
        )
    if given is None:
        name = "32-true" if value is None else str(value) if isinstance(value, int) else value
        precision = _build_as(Precision, "precision", name, manager, "a name such as '32-true'")
    else:
        precision = given
    if not accelerator.supports_precision(precision.precision):
        able = [name for name in manager.names("precision") if accelerator.supports_precision(name)]
        raise MisconfigurationException(
            f"precision={precision.precision!r} can't be computed by the accelerator {accelerator.name()!r}; of those "
            f"that are installed it can: {', '.join(able)}."
        )
    precision.setup(accelerator)
    return precision


def choose_profiler(value: Any, manager: PluginManager) -> Profiler:
    """A profiler from a name or an instance; None measures nothing."""
    if value is None:
        return PassThroughProfiler()
    return _build_as(Profiler, "profiler", value, manager, "a name such as 'simple', or an instance")


def choose_loggers(value: Any, owner: Any) -> list[Logger]:
    """The loggers from True, False, None (as True), a name, an instance or a list of these.

    Args:
        value: What the user wrote.
        owner: A Trainer, or what else has ``plugin_manager``, ``default_root_dir`` and ``fast_dev_run``.
    """
    if value is False:
        return []
    if value is None or value is True:
        default = owner.plugin_manager.hook.leyden_default_logger(trainer=owner)
        if default is None and value is True:
            advice = owner.plugin_manager.advice("logger")
            raise MisconfigurationException(f"logger=True, but no plugin brings a logger: {advice}.")
        loggers = [] if default is None else [default]
    else:
        values = value if isinstance(value, Iterable) and not isinstance(value, str) else [value]
        loggers = [_choose_logger(v, owner) for v in values]
    return [DummyLogger()] if loggers and owner.fast_dev_run else loggers


def _choose_logger(value: Any, owner: Any) -> Logger:
    manager, arguments = owner.plugin_manager, {}
    if isinstance(value, str):
        takes = inspect.signature(manager.component("logger", value).load()).parameters
        arguments = {"save_dir": owner.default_root_dir} if "save_dir" in takes else {}
    write = "True, False, a name or an instance"
    return _build_as(Logger, "logger", value, manager, write, **arguments)  # type: ignore[type-abstract]


def choose_callbacks(value: Any, trainer: Trainer) -> list[Callback]:
    """The user's callbacks and the defaults of the roles that they leave open, checkpoints last.

    Raises:
        MisconfigurationException: Something is no callback, or is wanted and unwanted at once, or was asked for and
            no plugin brings it.
    """
    manager = trainer.plugin_manager
    trainer.callbacks = callbacks = [manager.build("callback", callback) for callback in _as_list(value)]
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise MisconfigurationException(f"callbacks={value!r}: {callback!r} is no Callback.")
    _refuse_contradictions(trainer)
    for added in manager.hook.leyden_default_callbacks(trainer=trainer):
        for callback in added:  # one by one: a plugin may ask what the one before it has filled
            if callback.role not in ROLES or trainer.wants(callback.role):
                callbacks.append(callback)
    for role, argument in ROLES.items():
        if getattr(trainer, argument) not in (None, False) and trainer.wants(role):
            advice = manager.advice(role)
            raise MisconfigurationException(f"{argument} was asked for, but no plugin brings it: {advice}.")
    return order_callbacks(callbacks)


def _refuse_contradictions(trainer: Trainer) -> None:
    """Refuse callbacks of the user's that go against another argument or each other."""
    given = {role: [type(c).__name__ for c in trainer.callbacks if c.role == role] for role in ROLES}
    for role, names in given.items():
        argument = ROLES[role]
        if names and getattr(trainer, argument) is False and role != "model_summary" and not trainer.fast_dev_run:
            raise MisconfigurationException(
                f"{argument}=False, but callbacks has a {names[0]}; leave out one of the two."
            )
    if len(bars := given["progress_bar"]) > 1:
        raise MisconfigurationException(f"callbacks has {len(bars)} progress bars, {', '.join(bars)}; keep one.")
    if trainer.max_time is not None and given["timer"]:
        rank_zero_warn(f"max_time={trainer.max_time} is not used: callbacks has a timer, which decides.")


def _as_list(value: Any) -> list[Any]:
    """What ``plugins`` and ``callbacks`` hold: None, one or several."""
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


def order_callbacks(callbacks: Sequence[Callback]) -> list[Callback]:
    """Checkpoints last, so that they hold what the others did."""
    keys = [callback.state_key for callback in callbacks if is_overridden("state_dict", callback, Callback)]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise RuntimeError(
            f"Two callbacks have the state_key {twice[0]!r}; give each its own, so that a checkpoint can hold both."
        )
    return sorted(callbacks, key=lambda callback: callback.role == "checkpoint")

"""The parts of a Trainer, from what the user wrote: accelerator, devices, strategy, precision, loggers, callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from inspect import signature
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
from leyden.interfaces.strategy import Strategy
from leyden.plugin_system.discovery import discover
from leyden.plugin_system.manager import PluginManager
from leyden.utilities import MisconfigurationException, rank_zero_only, rank_zero_warn
from leyden.utilities.objects import is_overridden

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
    own: list[Any] = []
    for plugin in as_list(plugins):
        if isinstance(plugin, (str, type)):
            named = manager.component(tuple(PLUGIN_KINDS), plugin).kind if isinstance(plugin, str) else "plugin"
            plugin = manager.build(named, plugin)
        kind = next((base for base in PLUGIN_KINDS.values() if isinstance(plugin, base)), None)
        if kind is None:
            own.append(plugin)
        elif kind in parts:
            raise MisconfigurationException(f"plugins={plugins!r} has two of the kind {kind.__name__}; give one.")
        else:
            parts[kind] = plugin
    return (manager.extended(own) if own else manager), parts


def _build_as(base: type[T], value: Any, manager: PluginManager, **arguments: Any) -> T:
    """A part from a name, a class or an instance; its kind is the name of the base class."""
    kind = base.__name__.lower()
    part = manager.build(kind, value, **arguments)
    if not isinstance(part, base):
        raise MisconfigurationException(f"{kind}={value!r} is no {base.__name__}; write a name or give an instance.")
    return part


def choose_accelerator(value: Any, manager: PluginManager) -> Accelerator:
    """An accelerator from a name, ``"auto"``, a group's alias such as ``"gpu"``, a class or an instance.

    Raises:
        MisconfigurationException: It is not installed, or not available on this machine.
    """
    part = _find_accelerator(value, manager) if isinstance(value, str) else value
    chosen = _build_as(Accelerator, part, manager)
    if not chosen.is_available():
        raise MisconfigurationException(
            f"accelerator={chosen.name()!r} finds no device on this machine; accelerator='auto' takes the best."
        )
    return chosen


def _find_accelerator(value: str, manager: PluginManager) -> str:
    """The name of the accelerator that is meant: of all, or of those of an alias, the best that finds a device."""
    candidates = manager.components("accelerator") if value == "auto" else manager.named("accelerator", value)
    if value != "auto" and (len(candidates) < 2 or any(part.name == value for part in candidates)):
        return manager.component("accelerator", value).name
    best = _best(candidates, _finds_device, "accelerator={!r}")
    if best is None:
        names = ", ".join(part.name for part in candidates)
        hint = f": {manager.advice('accelerator')}" if value == "auto" else ""
        raise MisconfigurationException(
            f"accelerator={value!r} finds no device on this machine (installed: {names or 'none'}){hint}."
        )
    return best.name


def _best(parts: list[Component], is_usable: Callable[[Component], bool], write: str) -> Component | None:
    """Of the parts that can be used that with the highest priority, or None.

    Raises:
        MisconfigurationException: Two have the same; the sentence says what to ``write`` to choose one.
    """
    for _, equals in groupby(sorted(parts, key=_priority, reverse=True), key=_priority):
        usable = [part for part in equals if is_usable(part)]
        if len(usable) > 1:
            one, other = usable[0].name, usable[1].name
            raise MisconfigurationException(
                f"The {usable[0].kind} could be {one!r} or {other!r}, which have the same priority; write "
                f"{write.format(one)} or {write.format(other)}."
            )
        if usable:
            return usable[0]
    return None


def _priority(part: Component) -> float:
    return float(part.options.get("priority", 1))


def _finds_device(part: Component) -> bool:
    """Whether an accelerator can be used; one that is broken can't, and nobody asked for it by its name."""
    try:
        return bool(part.load().is_available())
    except Exception as error:
        rank_zero_warn(f"The accelerator {part.name!r} is passed over: {part.target} raises {error!r}.", RuntimeWarning)
        return False


def choose_devices(value: Any, accelerator: Accelerator) -> list[torch.device]:
    """The devices of this node."""
    return accelerator.get_parallel_devices(accelerator.parse_devices(value))


def _detect_environment(manager: PluginManager) -> Environment | None:
    """The environment that says that it started this process, or None.

    Where several do, the one with the highest ``priority`` does: a launcher within a cluster's job, for example.
    """
    found = _best(manager.components("environment"), lambda part: part.load().detect(), "plugins=[{!r}]")
    return found.build() if found is not None else None


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
    strategy = _build_as(Strategy, name, manager)
    if type(strategy) is Strategy and _device_count(owner) > 1:
        raise MisconfigurationException(
            f"strategy='single_device' uses one device, but devices and num_nodes make {_device_count(owner)}."
        )
    strategy.accelerator, strategy.environment, strategy.plugin_manager = owner.accelerator, environment, manager
    strategy.precision = _choose_precision(precision, instances.get(Precision), strategy)
    strategy.checkpoint_io = instances.get(CheckpointIO, TorchCheckpointIO())
    strategy.parallel_devices, strategy.num_nodes = owner.parallel_devices, owner.num_nodes
    strategy.connect()
    rank_zero_only.rank = strategy.global_rank
    return strategy


def _device_count(owner: Any) -> int:
    return len(owner.parallel_devices) * int(owner.num_nodes)


def _default_strategy(owner: Any, environment: Environment | None) -> Any:
    processes = _device_count(owner)
    if environment is not None and environment.creates_processes_externally:
        processes = max(processes, environment.world_size())
    if processes == 1:
        return "single_device"
    default = owner.plugin_manager.hook.leyden_default_strategy(trainer=owner, num_processes=processes)
    if default is None:
        raise MisconfigurationException(
            f"devices and num_nodes make {processes} processes, and no plugin brings a strategy for them: "
            f"{owner.plugin_manager.advice('strategy')}; or ask for one device."
        )
    return default


def _choose_precision(value: Any, given: Precision | None, strategy: Strategy) -> Precision:
    """A precision by its name, or the instance among ``plugins``, that the accelerator can do."""
    accelerator, manager = strategy.accelerator, strategy.plugin_manager
    if value is not None and given is not None:
        raise MisconfigurationException(f"precision={value!r} and plugins={given!r} both decide; give one of them.")
    name = "32-true" if value is None else str(value) if isinstance(value, int) else value
    precision = _build_as(Precision, name if given is None else given, manager)
    if not accelerator.supports_precision(precision.precision):
        able = [name for name in manager.names("precision") if accelerator.supports_precision(name)]
        raise MisconfigurationException(
            f"precision={precision.precision!r} can't be computed by the accelerator {accelerator.name()!r}; it can: "
            f"{', '.join(able)}."
        )
    precision.setup(accelerator)
    return precision


def choose_profiler(value: Any, manager: PluginManager) -> Profiler:
    """A profiler from a name or an instance; None measures nothing."""
    return _build_as(Profiler, PassThroughProfiler if value is None else value, manager)


def choose_loggers(value: Any, owner: Any) -> list[Logger]:
    """The loggers from True, False, None (as True), a name, an instance or a list of these.

    Args:
        value: What the user wrote.
        owner: A Trainer, or what else has ``plugin_manager``, ``default_root_dir`` and ``fast_dev_run``.
    """
    manager: PluginManager = owner.plugin_manager
    if value is None or value is True:
        default = manager.hook.leyden_default_logger(trainer=owner)
        if default is None and value is True:
            raise MisconfigurationException(f"logger=True, but no plugin brings a logger: {manager.advice('logger')}.")
        value = [] if default is None else [default]
    elif isinstance(value, str) or not isinstance(value, Iterable):
        value = [] if value is False else [value]
    loggers = [_choose_logger(one, owner) for one in value]
    return [DummyLogger()] if loggers and owner.fast_dev_run else loggers


def _choose_logger(value: Any, owner: Any) -> Logger:
    manager, arguments = owner.plugin_manager, {}
    if isinstance(value, str) and "save_dir" in signature(manager.component("logger", value).load()).parameters:
        arguments = {"save_dir": owner.default_root_dir}
    return _build_as(Logger, value, manager, **arguments)  # type: ignore[type-abstract]


def choose_callbacks(value: Any, trainer: Trainer) -> list[Callback]:
    """The user's callbacks and the defaults of the roles that they leave open, checkpoints last.

    Raises:
        MisconfigurationException: Something is no callback, or is wanted and unwanted at once, or was asked for and
            no plugin brings it.
    """
    manager = trainer.plugin_manager
    trainer.callbacks = callbacks = [_build_as(Callback, callback, manager) for callback in as_list(value)]
    _refuse_contradictions(trainer)
    for added in manager.hook.leyden_default_callbacks(trainer=trainer):
        for callback in added:  # one by one: a plugin may ask what the one before it has filled
            if callback.role not in ROLES or trainer.wants(callback.role):
                callbacks.append(callback)
    for role, argument in ROLES.items():
        if getattr(trainer, argument) not in (None, False) and trainer.wants(role):
            raise MisconfigurationException(f"{argument} was asked for, and no plugin has it: {manager.advice(role)}.")
    return order_callbacks(callbacks)


def _refuse_contradictions(trainer: Trainer) -> None:
    """Refuse callbacks of the user's that go against another argument or each other."""
    for role, argument in ROLES.items():
        names, wanted = [type(c).__name__ for c in trainer.callbacks if c.role == role], getattr(trainer, argument)
        if names and wanted is False and role != "model_summary" and not trainer.fast_dev_run:
            raise MisconfigurationException(f"{argument}=False, but callbacks has a {names[0]}; leave one of them out.")
        if len(names) > 1 and role == "progress_bar":
            raise MisconfigurationException(f"callbacks has {len(names)} progress bars, {', '.join(names)}; keep one.")
        if names and wanted is not None and role == "timer":
            rank_zero_warn(f"max_time={wanted} is not used: callbacks has a timer, which decides.")


def as_list(value: Any) -> list[Any]:
    """What ``plugins`` and ``callbacks`` hold: None, one or several."""
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


def order_callbacks(callbacks: Sequence[Callback]) -> list[Callback]:
    """Checkpoints last, so that they hold what the others did."""
    keys = [(c.state_key, c.distinction) for c in callbacks if is_overridden("state_dict", c, Callback)]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise RuntimeError(f"Two callbacks have the state_key {twice[0][0]!r}; give each its own, or keep one of them.")
    return sorted(callbacks, key=lambda callback: callback.role == "checkpoint")

"""The processes of a Fabric: their devices, how they start and end, and how they communicate."""

from __future__ import annotations

import atexit
import inspect
import os
import sys
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from leyden.accelerators import Accelerator
from leyden.loggers import Logger
from leyden.plugins import (
    agree_on_versions,
    choose_accelerator,
    choose_devices,
    choose_loggers,
    choose_strategy,
    sort_plugins,
)
from leyden.strategies import Strategy
from leyden.utilities.batch import map_collection
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.rank_zero import rank_zero_only
from leyden_fabric.wrappers import strategy_hook

T = TypeVar("T")


class Processes:
    """The part of :class:`~leyden_fabric.fabric.Fabric`, which has the same arguments, that concerns processes only."""

    # Strategies, loggers and their hooks read this from a Trainer, and strategy, plugin_manager, parallel_devices,
    # num_nodes and default_root_dir.
    fast_dev_run = False

    def __init__(
        self,
        *,
        accelerator: str | Accelerator = "auto",
        strategy: str | Strategy = "auto",
        devices: list[int] | str | int = "auto",
        num_nodes: int = 1,
        precision: str | int | None = None,
        plugins: Any = None,
        callbacks: Any = None,
        loggers: Any = None,
    ) -> None:
        if not isinstance(num_nodes, int) or num_nodes < 1:
            raise MisconfigurationException(f"num_nodes={num_nodes!r}: write how many machines, 1 or more.")
        self.num_nodes, self.default_root_dir = num_nodes, os.getcwd()
        self.plugin_manager, instances = sort_plugins(plugins)
        self._accelerator = choose_accelerator(accelerator, self.plugin_manager)
        self.parallel_devices = choose_devices(devices, self._accelerator)
        self._strategy = choose_strategy(strategy, precision, instances, self)
        _refuse_loop_of_its_own(self._strategy)
        self._precision = self._strategy.precision
        self._loggers = choose_loggers(False if loggers is None else loggers, self)
        given_callbacks = [] if callbacks is None else callbacks
        self._callbacks = list(given_callbacks) if isinstance(given_callbacks, (list, tuple)) else [given_callbacks]
        self._launched = self._running = False
        self._error: BaseException | None = None
        self._in_backward = self._keeps_gradients = False
        # A strategy serves a single module, so each module is set up by a copy of the strategy.
        self._module_strategies: list[weakref.ref[Strategy]] = []
        if type(self).run is not Processes.run:
            self.run = partial(self.launch, type(self).run)  # type: ignore[method-assign]
        weakref.finalize(self, _save, self._loggers)

    # -- ranks --------------------------------------------------------------------------------------------

    @property
    def accelerator(self) -> Accelerator:
        """The type of the devices."""
        return self._accelerator

    @property
    def strategy(self) -> Strategy:
        """The strategy, which makes the processes work together."""
        return self._strategy

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self._strategy.root_device

    @property
    def global_rank(self) -> int:
        """The number of this process among all, from 0."""
        return self._strategy.global_rank

    @property
    def local_rank(self) -> int:
        """The number of this process among those of its node, from 0."""
        return self._strategy.local_rank

    @property
    def node_rank(self) -> int:
        """The number of this node among all nodes, from 0."""
        return self._strategy.node_rank

    @property
    def world_size(self) -> int:
        """The number of processes on all nodes."""
        return self._strategy.world_size

    @property
    def is_global_zero(self) -> bool:
        """Whether this is the process of rank 0."""
        return self._strategy.is_global_zero

    # -- beginning and end --------------------------------------------------------------------------------

    def launch(self, function: Callable[..., Any] | None = None, *args: Any, **kwargs: Any) -> Any:
        """Start the other processes, unless a cluster has started them, and connect all of them.

        Args:
            function: The function that all processes run; its arguments are this Fabric, ``args`` and ``kwargs``.
                Without one, all processes run the rest of the script. Strategies whose processes run a function
                ("ddp_spawn", "ddp_fork", "ddp_notebook") need one.
            args: Further arguments of ``function``.
            kwargs: Keyword arguments of ``function``.

        Returns:
            What ``function`` returned in this process, or on rank 0 if this process does not take part in the run.

        Raises:
            MisconfigurationException: ``function`` can't be called with a Fabric, or is missing but needed.
        """
        launcher = self._strategy.launcher
        start: Callable[..., Any] = launcher.launch if launcher is not None else _call
        if function is not None:
            _refuse_function(function)
            return function(self, *args, **kwargs) if self._running else start(self._execute, function, args, kwargs)
        if launcher is not None and not launcher.takes_part:
            raise MisconfigurationException(
                "The processes of this strategy run a function; put the loop into one and write "
                "fabric.launch(function)."
            )
        if not self._has_to_meet:
            self._require_met()
        elif not self._running:
            start(self._run_script)
        return None

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """A subclass may override it; a call then launches the processes, which run it."""

    def _execute(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function in one process: connect to the others, run it, and clean up whatever happens."""
        self._meet()
        self._running = True
        try:
            result = function(self, *args, **kwargs)
        except BaseException as error:
            self._error = cause = self._strategy.first_cause(error)
            self._part()
            if cause is error:
                raise
            raise cause from error
        self._part()
        return result

    def _run_script(self) -> None:
        """Connect to the other processes for the rest of the script, at whose end this process waits for them.

        If the script fails, the others are told.
        """
        self._meet()
        self._running = True
        usual = sys.excepthook

        def tell(kind: type[BaseException], error: BaseException, trace: Any) -> None:
            self._error = cause = self._strategy.first_cause(error)
            if cause is not error:
                cause.__cause__ = error
            usual(type(cause), cause, cause.__traceback__)

        sys.excepthook = tell
        atexit.register(self._end_script)

    def _end_script(self) -> None:
        has_failed = self._error is not None
        try:
            self._part()
        except Exception as error:
            if not has_failed:  # another rank has failed, and this script has not been told yet
                sys.excepthook(type(error), error, error.__traceback__)

    def _meet(self) -> None:
        self._strategy.setup_environment()
        rank_zero_only.rank = self.global_rank
        agree_on_versions(self._loggers, self._strategy)
        self._launched = True

    def _part(self) -> None:
        """Finish what is being written, and end this process's part of the run."""
        self._running = False
        error, self._error = self._error, None  # an error keeps alive all that its traceback's frames hold
        for logger in self._loggers:
            logger.finalize("success" if error is None else "failed")
        self._precision.teardown()
        self._strategy.checkpoint_io.teardown()
        self._strategy.teardown(None, error)

    @property
    def _has_to_meet(self) -> bool:
        return type(self._strategy).setup_environment is not Strategy.setup_environment

    def _require_met(self) -> None:
        """Connect the processes before they do anything together, if that needs no ``launch``.

        Raises:
            RuntimeError: The processes are not connected, and only ``launch`` can connect them.
        """
        if self._launched:
            return
        if self._has_to_meet:
            raise RuntimeError(
                f"The processes of strategy {self._strategy.strategy_name!r} have not met yet; call fabric.launch() "
                "first, or do this in the function that fabric.launch(function) runs."
            )
        self._meet()

    def _take_part(self) -> None:
        """Count a call that all processes must make, so that the strategy notices if one ended without it."""
        self._require_met()
        strategy_hook(self._strategy, "on_train_batch_start", None, 0)

    # -- communication-------------------------------------------------------------------------------------

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print in the first process of each node."""
        if self.local_rank == 0:
            print(*args, **kwargs)

    def barrier(self, name: str | None = None) -> None:
        """Wait until all processes have called this."""
        self._take_part()
        self._strategy.barrier(name)

    def broadcast(self, obj: T, src: int = 0) -> T:
        """The ``obj`` of the process of rank ``src``, any object that can be pickled; called by all processes."""
        self._take_part()
        return self._strategy.broadcast(obj, src)

    def all_gather(self, data: Any, group: Any = None, sync_grads: bool = False) -> Any:
        """Gather tensors or numbers, or a collection of them, from all processes; called by all processes.

        Args:
            data: The data, of the same structure in every process.
            group: The process group; None for all processes.
            sync_grads: Whether gradients flow back to the processes.

        Returns:
            The same structure. Each tensor has a new first dimension, whose size is the number of processes, and what
            is no tensor is a list of what they have; in a single process both have not changed.
        """
        self._take_part()
        return self._strategy.gather_collection(data, group, sync_grads)

    def all_reduce(self, data: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        """Reduce tensors or numbers, or a collection of them, over all processes; called by all processes.

        Tensors are changed in place if the result has the same type; the mean of integers has another.

        Args:
            data: The data, of the same structure in every process.
            group: The process group; None for all processes.
            reduce_op: "mean", "sum", "min" or "max", or the ``torch.distributed.ReduceOp`` of that name.

        Returns:
            The same structure with the results.
        """
        self._take_part()
        operation = str(getattr(reduce_op, "name", reduce_op)).lower()

        def reduce(tensor: Tensor) -> Tensor:
            reduced = self._strategy.reduce(tensor, operation, group)
            if reduced is tensor or reduced.dtype != tensor.dtype:
                return reduced
            tensor.data.copy_(reduced)  # without autograd, as torch.distributed.all_reduce does
            return tensor

        return self._each_tensor(data, reduce)

    @contextmanager
    def rank_zero_first(self, local: bool = False) -> Generator[None, None, None]:
        """A block that rank 0 runs before all other processes, to download data for example.

        Args:
            local: Whether the first process of each node runs it first, for nodes that don't share files.
        """
        first = (self.local_rank if local else self.global_rank) == 0
        if not first:
            self.barrier("rank_zero_first")
        yield
        if first:
            self.barrier("rank_zero_first")

    def _each_tensor(self, data: Any, function: Callable[[Tensor], Tensor]) -> Any:
        if isinstance(data, (Tensor, bool, int, float)) or hasattr(data, "__array__"):
            return function(torch.as_tensor(data, device=self.device))
        return map_collection(data, lambda member: self._each_tensor(member, function))


def _call(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def _refuse_loop_of_its_own(strategy: Strategy) -> None:
    if hasattr(strategy, "leyden_optimize_batch"):
        raise MisconfigurationException(
            f"strategy={strategy.strategy_name!r} has a training step of its own, which a hand-written loop can't use; "
            "use it with a Trainer, or write another strategy."
        )


def _refuse_function(function: Any) -> None:
    if not callable(function):
        raise MisconfigurationException(
            f"fabric.launch({function!r}): that can't be called; write launch(function), not launch(function())."
        )
    if not inspect.signature(function).parameters:
        raise MisconfigurationException(
            f"fabric.launch({function!r}): the function takes no argument, but its first argument must be the Fabric."
        )


def _save(loggers: list[Logger]) -> None:
    """Write what was logged last; called at the end of a program that was not launched."""
    for logger in loggers:
        logger.save()

"""Strategy: on which device the model is and how processes work together; its launcher starts them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from numbers import Number
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.nn import Module

from leyden.interfaces.accelerator import Accelerator
from leyden.interfaces.checkpoint_io import CheckpointIO
from leyden.interfaces.environment import Environment
from leyden.interfaces.precision import Precision
from leyden.utilities import MisconfigurationException, move_data_to_device
from leyden.utilities.batch import map_collection
from leyden.utilities.empty_init import EmptyInit

if TYPE_CHECKING:
    from leyden.data.fetch import Fetcher
    from leyden.metrics import Results
    from leyden.plugin_system.manager import PluginManager

T = TypeVar("T")


class Launcher(ABC):
    """Starts the processes of a run; a strategy of several processes has one.

    An author *must* write :meth:`launch` and *may* set :attr:`takes_part`.

    Attributes:
        takes_part: Whether the calling process is one of the run's processes. Where it is not, ``launch`` copies the
            results of the run, such as weights and metrics, into the calling process: ``function`` is a method of the
            Trainer's run there.
    """

    takes_part: ClassVar[bool] = True

    @abstractmethod
    def launch(self, function: Callable[..., T], *args: Any) -> T:
        """Run ``function(*args)`` in every process of the run.

        Returns:
            The result in this process, or that of rank 0 where this process takes no part.
        """


class Strategy:
    """One process on one device; strategies for several processes override what differs.

    The class works as it is, so there is nothing that an author *must* write. An author *may* override everything. A
    strategy for a single device refuses more devices in :meth:`connect`.

    The Trainer sets :attr:`accelerator`, :attr:`precision`, :attr:`checkpoint_io`, :attr:`environment`,
    :attr:`plugin_manager`, :attr:`parallel_devices` and :attr:`num_nodes`, then calls :meth:`connect`. All processes
    call a method that communicates. A strategy takes part in a hook of the run by a method of the hook's name, such as
    ``on_before_backward(loss)``.

    Attributes:
        strategy_name: The name that users see.
        accelerator: The type of the devices.
        precision: The number format in which the model computes.
        checkpoint_io: Writes and reads checkpoints.
        parallel_devices: The devices of this node, one for each of its processes.
        num_nodes: The number of nodes.
        environment: The cluster or launcher that has started this process; None where there is none.
        plugin_manager: The plugins of this process; all processes should have the same ones.
        launcher: Starts the other processes; None where none are to be started.
    """

    strategy_name: ClassVar[str] = "single_device"
    accelerator: Accelerator
    precision: Precision
    checkpoint_io: CheckpointIO
    parallel_devices: list[torch.device]
    num_nodes: int = 1
    environment: Environment | None = None
    plugin_manager: PluginManager
    launcher: Launcher | None = None

    def connect(self) -> None:
        """Find out which process this is, choose a launcher and refuse what can't work; when the Trainer is made."""

    @property
    def root_device(self) -> torch.device:
        """The device of this process."""
        return self.parallel_devices[self.local_rank]

    @property
    def world_size(self) -> int:
        """The number of processes on all nodes."""
        return 1

    @property
    def global_rank(self) -> int:
        """The number of this process among all, from 0."""
        return 0

    @property
    def local_rank(self) -> int:
        """The number of this process among those of its node, from 0."""
        return 0

    @property
    def node_rank(self) -> int:
        """The number of this node among all nodes, from 0."""
        return 0

    @property
    def is_global_zero(self) -> bool:
        """Whether this is the process of rank 0, which prints, logs and writes checkpoints for all."""
        return self.global_rank == 0

    @property
    def sampler_arguments(self) -> dict[str, int] | None:
        """``num_replicas`` and ``rank`` for a distributed sampler; None where every process reads all the data."""
        return None

    def divide(self, loader: Any, training: bool) -> Any:
        """Make a loader of this process's part of the data; the base class returns ``loader`` itself.

        Args:
            loader: The user's DataLoader, or another iterable.
            training: True if every process must get the same number of samples, so that some samples may be repeated;
                False if every sample must be taken exactly once.

        Raises:
            MisconfigurationException: The strategy has :attr:`sampler_arguments` but does not override this method.
        """
        if self.sampler_arguments is not None:
            raise MisconfigurationException(
                f"{type(self).__name__} has sampler_arguments, {self.sampler_arguments!r}, and no method divide that "
                "uses them; write it, or pass Trainer(use_distributed_sampler=False)."
            )
        return loader

    def agree_on_epoch(self, fetcher: Fetcher) -> Fetcher:
        """Return a fetcher that ends the training epoch after the same number of batches in every process.

        The base class returns ``fetcher`` itself, because a single process has nothing to agree on.

        Args:
            fetcher: Fetches the batches of this process.
        """
        return fetcher

    def agree_on_results(self, results: Results) -> None:
        """Give every process the same records before an epoch's values are reduced, so that all reduce the same ones.

        All processes call it when an epoch, or a loader's part of an evaluation, is over, and again after the last hook
        in which one may log. The base class does nothing, because a single process has all records.

        Args:
            results: The records of this process. They get the same order in every process, and records are added for
                names that only other processes have logged.
        """

    def agree_on_value(self, name: str, value: Tensor | None) -> Tensor | None:
        """The value by which all processes decide something, such as the next learning rate: that of rank 0.

        Args:
            name: The name of the monitored metric.
            value: Its value in this process, a scalar; None where it was not logged.
        """
        return value

    def setup_environment(self) -> None:
        """Set up the device and connect to the other processes; once for every run, before the ``setup`` hooks."""
        self.accelerator.setup_device(self.root_device)

    @contextmanager
    def module_init_context(self, empty_init: bool | None = None) -> Generator[None, None, None]:
        """The context in which modules are built: on this process's device, in the precision's format.

        Args:
            empty_init: True leaves parameters uninitialised, because a checkpoint will fill them. None lets the
                strategy decide.
        """
        with EmptyInit() if empty_init else nullcontext(), self.root_device, self.precision.module_init_context():
            yield

    def setup_module(self, module: Module, training: bool = True) -> None:
        """Cast the module, move it to the device, and wrap it where needed; before optimizers are made.

        Args:
            module: A LightningModule; under Fabric any module.
            training: Whether the module will be trained, and not only evaluated.
        """
        self.precision.convert_module(module)
        module.to(self.root_device)

    def setup_optimizers(self, optimizers: list[Any]) -> list[Any]:
        """Wrap or replace the optimizers that ``configure_optimizers`` returned; returns those that the loop steps."""
        return optimizers

    def batch_to_device(self, batch: Any) -> Any:
        """Move a batch to this process's device."""
        return move_data_to_device(batch, self.root_device, self.accelerator.non_blocking_transfer)

    def step_function(self, module: Module, name: str) -> Callable[..., Any]:
        """The function that a loop calls for a step; a strategy that wraps the module may return the wrapper's forward.

        Args:
            module: The module.
            name: "training_step", "validation_step", "test_step" or "predict_step"; under Fabric any method.
        """
        function: Callable[..., Any] = getattr(module, name)
        return function

    def no_sync(self) -> AbstractContextManager[Any]:
        """The context of a backward pass that does not exchange gradients, because more are to be accumulated."""
        return nullcontext()

    def clip_gradients(self, parameters: Iterable[Tensor], clip_val: float, algorithm: str) -> Tensor | None:
        """Clip unscaled gradients in place; the precision does it unless the strategy divides gradients.

        Args:
            parameters: Those whose gradients are clipped together, the same in every process.
            clip_val: The bound.
            algorithm: "norm" bounds the norm of all gradients together, "value" each element.

        Returns:
            The norm before clipping, of the gradients of all processes; None for "value".
        """
        return self.precision.clip_gradients(parameters, clip_val, algorithm)

    def convert_sync_batchnorm(self, module: Module) -> Module:
        """Make batch normalisation use the batches of all processes; returns the module, or what replaces it."""
        return module

    def reduce(self, tensor: Tensor, op: str = "mean", group: Any = None) -> Tensor:
        """Reduce a tensor over all processes.

        Args:
            tensor: Of the same shape in every process.
            op: "mean", "sum", "min" or "max".
            group: The processes that take part; None for all.
        """
        return tensor

    def reduce_logged(self, name: str, value: Tensor, op: str, group: Any, in_step: bool) -> Tensor | None:
        """Reduce a value that ``self.log`` was given, which must have the same name in all processes.

        Args:
            name: The name, with what else must be the same.
            value: A scalar.
            op: "mean", "sum", "min" or "max".
            group: The processes that take part; None for all.
            in_step: Whether it is the value of a step. Other names in other processes are an error then.

        Returns:
            The reduced value; None if other processes have come with other names, so that :meth:`agree_on_results` has
            to find out who has which.
        """
        return self.reduce(value, op, group)

    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        """Stack the tensors of all processes along a new first dimension; a single process returns its tensor.

        Args:
            tensor: Of the same shape in every process.
            group: The processes that take part; None for all.
            sync_grads: Whether gradients flow back to the processes.
        """
        return tensor

    def gather_collection(self, data: Any, group: Any = None, sync_grads: bool = False) -> Any:
        """Gather tensors or numbers, or a collection of them and of other objects, from all processes.

        Args:
            data: The data, of the same structure in every process.
            group: The processes that take part; None for all.
            sync_grads: Whether gradients flow back to the processes.

        Returns:
            The same structure. A tensor or number has become what :meth:`all_gather` makes of it, and anything else a
            list of what the processes have; a single process returns that unchanged.
        """
        if isinstance(data, (Tensor, Number)) or hasattr(data, "__array__"):
            return self.all_gather(torch.as_tensor(data, device=self.root_device), group, sync_grads)
        return map_collection(data, lambda member: self.gather_collection(member, group, sync_grads))

    def all_gather_object(self, value: T, group: Any = None) -> list[T]:
        """The ``value`` of every process, in the order of ranks; any object that can be pickled.

        Args:
            value: That of this process.
            group: The processes that take part; None for all.
        """
        return [value]

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        """Whether ``decision`` is True in all processes, or with ``all=False`` in any of them."""
        return decision

    def first_cause(self, error: BaseException) -> BaseException:
        """Tell the other processes that this one has failed.

        Args:
            error: The error of this process.

        Returns:
            The error of another process if that led to ``error``, else ``error``.
        """
        return error

    def must_end(self, reason: str) -> str:
        """Agree on whether the run ends after this batch; called at every step boundary.

        Args:
            reason: Why this process wants the run to end; "" if it doesn't.

        Returns:
            Why the run ends, or "" if it goes on; the same in all processes.
        """
        return reason

    def broadcast(self, value: T, src: int = 0) -> T:
        """The ``value`` of the process of rank ``src``; any object that can be pickled."""
        return value

    def barrier(self, name: str | None = None) -> None:
        """Wait until all processes have called this; ``name`` is for messages."""

    def module_state_dict(self, module: Module) -> dict[str, Any]:
        """The whole state of the module, to be saved."""
        return module.state_dict()

    def load_module_state_dict(self, module: Module, state: dict[str, Any], strict: bool) -> None:
        """Load what :meth:`module_state_dict` returned.

        Args:
            module: The module.
            state: Its state.
            strict: Whether the names in ``state`` must be exactly those of the module.
        """
        module.load_state_dict(state, strict=strict)

    def optimizer_state_dict(self, optimizer: Any) -> dict[str, Any]:
        """The whole state of an optimizer, to be saved."""
        state: dict[str, Any] = optimizer.state_dict()
        return state

    def load_optimizer_state_dict(self, optimizer: Any, state: dict[str, Any]) -> None:
        """Load what :meth:`optimizer_state_dict` returned."""
        optimizer.load_state_dict(state)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str, storage_options: Any = None) -> None:
        """Write a checkpoint; called by all processes, of which rank 0 writes.

        Args:
            checkpoint: Plain data and tensors.
            path: A local path or a URL.
            storage_options: For the checkpoint IO.
        """
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, path, storage_options)

    def load_checkpoint(self, path: str, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint; its tensors are on the host.

        Args:
            path: A local path or a URL.
            weights_only: False unpickles anything, code included, and is only for files from a trusted source.
        """
        return self.checkpoint_io.load_checkpoint(path, "cpu", weights_only)

    def teardown(self, module: Module | None = None, error: BaseException | None = None) -> None:
        """Bring the module back to the host and release the device; the strategy may be used again.

        Args:
            module: The module of the run; None where there is none, and under Fabric.
            error: What a failed run raised first, perhaps in another process; None after a run that went well.
        """
        if module is not None:
            module.cpu()
        self.accelerator.teardown()

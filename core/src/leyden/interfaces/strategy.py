"""Strategy: where the model lives and how processes agree. The base class is the single-device strategy."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.nn import Module

from leyden.interfaces.accelerator import Accelerator
from leyden.interfaces.checkpoint_io import CheckpointIO
from leyden.interfaces.environment import Environment
from leyden.interfaces.launcher import Launcher
from leyden.interfaces.precision import Precision
from leyden.utilities.batch import move_data_to_device
from leyden.utilities.empty_init import EmptyInit
from leyden.utilities.exceptions import MisconfigurationException

if TYPE_CHECKING:
    from leyden.data.fetch import Fetcher
    from leyden.metrics import Results
    from leyden.plugin_system.manager import PluginManager

T = TypeVar("T")


class Strategy:
    """One process, one device; strategies for several override what differs.

    An author *must* write nothing, as the class works as it is, and *may* override everything; one that takes a single
    device refuses more of them in :meth:`connect`.

    The Trainer sets :attr:`accelerator`, :attr:`precision`, :attr:`checkpoint_io`, :attr:`environment`,
    :attr:`plugin_manager`, :attr:`parallel_devices` and :attr:`num_nodes`, then calls :meth:`connect`. Every
    collective method is called by all ranks. Hooks of a run are methods of the same names, ``on_before_backward(loss)``
    for example.

    Attributes:
        strategy_name: The name that users see.
        environment: The cluster or launcher that started this process; None where none did.
        plugin_manager: The plugins of this process, which those of the others should have too.
        launcher: Makes the other processes; None where there are none to make.
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
    _takes_error = True

    def connect(self) -> None:
        """Learn which process this is, choose a launcher, and refuse what can't work; when the Trainer is made."""

    @property
    def root_device(self) -> torch.device:
        """The device of this process."""
        return self.parallel_devices[self.local_rank]

    @property
    def world_size(self) -> int:
        """Processes in all."""
        return 1

    @property
    def global_rank(self) -> int:
        """This process among all, from 0."""
        return 0

    @property
    def local_rank(self) -> int:
        """This process among those of its node, from 0."""
        return 0

    @property
    def node_rank(self) -> int:
        """This node among all, from 0."""
        return 0

    @property
    def is_global_zero(self) -> bool:
        """Whether this process speaks for all: it prints, logs and writes checkpoints."""
        return self.global_rank == 0

    @property
    def sampler_arguments(self) -> dict[str, int] | None:
        """``num_replicas`` and ``rank`` for a distributed sampler; None where each process sees all the data."""
        return None

    def divide(self, loader: Any, training: bool) -> Any:
        """A loader like the user's, of this process's part of the data; one process sees all of them.

        Args:
            loader: A DataLoader, or another iterable.
            training: Whether all processes are to have as many samples, or each sample is taken once.

        Raises:
            MisconfigurationException: There are :attr:`sampler_arguments`, and the strategy does not write this method.
        """
        if self.sampler_arguments is not None:
            raise MisconfigurationException(
                f"{type(self).__name__} has sampler_arguments, {self.sampler_arguments!r}, and no method divide that "
                "gives each process its part of the data by them; write it, or pass "
                "Trainer(use_distributed_sampler=False)."
            )
        return loader

    def agree_on_epoch(self, fetcher: Fetcher) -> Fetcher:
        """What fetches as many training batches in every process; one process trains on those that it has.

        Args:
            fetcher: Fetches those of this process.
        """
        return fetcher

    def agree_on_results(self, results: Results, module: Module, batches: Sequence[int | float]) -> None:
        """Have all processes hold the same records of an evaluation loader before they reduce them; one holds all.

        Args:
            results: The records of this process.
            module: The model, whose metrics may be among them.
            batches: What each process has had of the loader; inf where that is not known.
        """

    def setup_environment(self) -> None:
        """Take hold of the device and meet the other processes; once per run, before ``setup`` hooks."""
        self.accelerator.setup_device(self.root_device)

    @contextmanager
    def module_init_context(self, empty_init: bool | None = None) -> Generator[None, None, None]:
        """Context in which modules are built: on this process's device, in the precision's format.

        Args:
            empty_init: True leaves parameters unfilled, for a checkpoint to fill; None leaves it to the strategy.
        """
        with EmptyInit() if empty_init else nullcontext(), self.root_device, self.precision.module_init_context():
            yield

    def setup_module(self, module: Module, training: bool = True) -> None:
        """Cast the module, move it to the device and wrap what needs wrapping; before optimizers are made.

        Args:
            module: A LightningModule, or whatever module a hand-written loop trains.
            training: Whether it is going to be trained; else only evaluated.
        """
        self.precision.convert_module(module)
        module.to(self.root_device)

    def setup_optimizers(self, optimizers: list[Any]) -> list[Any]:
        """Wrap or replace the optimizers that ``configure_optimizers`` returned."""
        return optimizers

    def batch_to_device(self, batch: Any) -> Any:
        """Move a batch to this process's device."""
        return move_data_to_device(batch, self.root_device, self.accelerator.non_blocking_transfer)

    def step_function(self, module: Module, name: str) -> Callable[..., Any]:
        """The callable that a loop runs for ``"training_step"`` and its like; a wrapper's forward, say."""
        function: Callable[..., Any] = getattr(module, name)
        return function

    def no_sync(self) -> AbstractContextManager[Any]:
        """Context of a backward pass whose gradients are not exchanged yet (accumulation)."""
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
        """Make batch normalisation see the batches of all processes; one process sees them already."""
        return module

    def reduce(self, tensor: Tensor, op: str = "mean", group: Any = None) -> Tensor:
        """Reduce over all processes: "mean", "sum", "min" or "max"."""
        return tensor

    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        """Stack the tensors of all processes along a new first dimension; one process returns its tensor."""
        return tensor

    def all_gather_object(self, value: T) -> list[T]:
        """The ``value`` of every process, any object that pickles, in the order of their ranks."""
        return [value]

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        """Whether all processes decided so, or any of them did."""
        return decision

    def first_cause(self, error: BaseException) -> BaseException:
        """The error of another process that led to ``error``, or ``error`` itself, of which the others are told."""
        return error

    def must_end(self, reason: str) -> str:
        """Why the run ends with the running batch, or "": all processes agree where one has a ``reason``."""
        return reason

    def broadcast(self, value: T, src: int = 0) -> T:
        """The ``value`` of process ``src``, any object that pickles."""
        return value

    def barrier(self, name: str | None = None) -> None:
        """Wait until every process has come here."""

    def module_state_dict(self, module: Module) -> dict[str, Any]:
        """The module's whole state, to be saved."""
        return module.state_dict()

    def load_module_state_dict(self, module: Module, state: dict[str, Any], strict: bool) -> None:
        """Take back what :meth:`module_state_dict` returned."""
        module.load_state_dict(state, strict=strict)

    def optimizer_state_dict(self, optimizer: Any) -> dict[str, Any]:
        """An optimizer's whole state, to be saved."""
        state: dict[str, Any] = optimizer.state_dict()
        return state

    def load_optimizer_state_dict(self, optimizer: Any, state: dict[str, Any]) -> None:
        """Take back what :meth:`optimizer_state_dict` returned."""
        optimizer.load_state_dict(state)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str, storage_options: Any = None) -> None:
        """Write a checkpoint; called by all ranks, one writes."""
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, path, storage_options)

    def load_checkpoint(self, path: str, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, its tensors on the host."""
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


def connect(strategy: Strategy) -> None:
    """Call :meth:`Strategy.connect`, and note whether the strategy's ``teardown`` takes ``error``."""
    parameters = inspect.signature(strategy.teardown).parameters
    strategy._takes_error = "error" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    strategy.connect()


def tear_down(strategy: Strategy, module: Module | None = None, error: BaseException | None = None) -> None:
    """Call :meth:`Strategy.teardown`, with ``error`` only if it takes that."""
    if strategy._takes_error:
        strategy.teardown(module, error=error)
    else:
        strategy.teardown(module)

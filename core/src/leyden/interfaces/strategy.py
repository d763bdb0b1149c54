"""Strategy: where the model lives and how processes agree. The base class is the single-device strategy."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.nn import Module

from leyden.interfaces.accelerator import Accelerator
from leyden.interfaces.checkpoint_io import CheckpointIO
from leyden.interfaces.launcher import Launcher
from leyden.interfaces.precision import Precision
from leyden.utilities.batch import move_data_to_device

T = TypeVar("T")


class Strategy:
    """One process, one device; strategies for several override what differs.

    The Trainer sets :attr:`accelerator`, :attr:`precision`, :attr:`checkpoint_io` and
    :attr:`parallel_devices` before the first run. Every collective method is called by all ranks.

    Attributes:
        strategy_name: The name that users see.
        launcher: Makes the other processes; None where there are none to make.
    """

    strategy_name: ClassVar[str] = "single_device"
    accelerator: Accelerator
    precision: Precision
    checkpoint_io: CheckpointIO
    parallel_devices: list[torch.device]
    num_nodes: int = 1
    launcher: Launcher | None = None

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

    def setup_environment(self) -> None:
        """Take hold of the device and meet the other processes; once per run, before ``setup`` hooks."""
        self.accelerator.setup_device(self.root_device)

    def setup_module(self, module: Module) -> None:
        """Cast the module, move it to the device and wrap what needs wrapping; before optimizers are made."""
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

    def convert_sync_batchnorm(self, module: Module) -> Module:
        """Make batch normalisation see the batches of all processes; one process sees them already."""
        return module

    def reduce(self, tensor: Tensor, op: str = "mean", group: Any = None) -> Tensor:
        """Reduce over all processes: "mean", "sum", "min" or "max"."""
        return tensor

    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        """Stack the tensors of all processes along a new first dimension; one process returns its tensor."""
        return tensor

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

    def teardown(self, module: Module | None = None) -> None:
        """Bring the module back to the host and let go of the device; the strategy may be used again."""
        if module is not None:
            module.cpu()
        self.accelerator.teardown()

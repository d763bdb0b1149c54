"""DDPStrategy: every process has the whole model; ``DistributedDataParallel`` averages the gradients."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parallel.distributed import _find_tensors

from leyden.utilities.exceptions import MisconfigurationException
from leyden_ddp.parallel import ParallelStrategy
from leyden_ddp.weights import compare_tensors, take_from_rank_zero, tensors_of


class DDPStrategy(ParallelStrategy):
    """Replicates the model and averages gradients while the backward pass runs.

    Args:
        ddp_comm_state: The state of the communication hook.
        ddp_comm_hook: Called for each bucket of gradients instead of an all-reduce; see
            ``torch.distributed.algorithms.ddp_comm_hooks``.
        ddp_comm_wrapper: Wraps that hook, for example ``fp16_compress_wrapper``.
        process_group_backend: See :class:`ParallelStrategy`, also for the next three.
        timeout: How long the processes wait for each other.
        start_method: How the processes of a node start.
        uneven_inputs: What happens when the ranks have different numbers of training batches.
        kwargs: For ``DistributedDataParallel``: ``find_unused_parameters``, ``static_graph`` (in automatic optimisation
            only), ``gradient_as_bucket_view``, ``bucket_cap_mb``, …
    """

    strategy_name = "ddp"

    def __init__(
        self,
        *,
        ddp_comm_state: object | None = None,
        ddp_comm_hook: Callable[..., Any] | None = None,
        ddp_comm_wrapper: Callable[..., Any] | None = None,
        process_group_backend: str | None = None,
        timeout: Any = None,
        start_method: Any = "popen",
        uneven_inputs: Any = "stop_together",
        **kwargs: Any,
    ) -> None:
        options = {"timeout": timeout} if timeout is not None else {}
        super().__init__(process_group_backend, start_method=start_method, uneven_inputs=uneven_inputs, **options)
        known = inspect.signature(DistributedDataParallel.__init__).parameters
        if unknown := sorted(set(kwargs) - set(known)):
            raise MisconfigurationException(
                f"DistributedDataParallel has no option {unknown[0]!r}; it takes {', '.join(sorted(known)[1:])}."
            )
        self._ddp_options = kwargs
        self._comm = (ddp_comm_state, ddp_comm_hook, ddp_comm_wrapper)
        self._ddp: DistributedDataParallel | None = None
        self._module: Any = None

    def setup_module(self, module: Module, training: bool = True) -> None:
        """Move the module to the device and, for training, wrap it in ``DistributedDataParallel``."""
        super().setup_module(module, training)
        self._module = module
        compare_tensors(module, self, training)
        if not training or not any(p.requires_grad for p in module.parameters()):
            return take_from_rank_zero(tensors_of(module), self)
        if self._is_manual and self._ddp_options.get("static_graph"):
            raise MisconfigurationException(
                "DDPStrategy(static_graph=True) does not work in manual optimisation: DDP learns the graph from one "
                "backward pass after the step, and here they run within it, so gradients would differ between ranks. "
                "Leave static_graph out."
            )
        ids = [self.root_device.index] if self.root_device.index is not None else None
        redirect = _Redirect(module, self)
        with self.collective("the set-up of DistributedDataParallel"):
            self._ddp = DistributedDataParallel(redirect, device_ids=ids, **self._ddp_options)
        if self._is_manual:
            redirect.ddp.append(self._ddp)
        self._register_hook(self._ddp)

    def _register_hook(self, ddp: DistributedDataParallel) -> None:
        state, hook, wrapper = self._comm
        if hook is not None:
            ddp.register_comm_hook(state, wrapper(hook) if wrapper is not None else hook)

    @property
    def _is_manual(self) -> bool:
        """Whether backward passes run within the step, as in manual optimisation of a LightningModule."""
        return not getattr(self._module, "automatic_optimization", True)

    def step_function(self, module: Module, name: str) -> Callable[..., Any]:
        """A training step runs within ``DistributedDataParallel.forward``; the steps of evaluation don't need that."""
        if name in ("validation_step", "test_step", "predict_step"):
            return super().step_function(module, name)
        return partial(self._training_step, name)

    def _training_step(self, name: str, *args: Any, **kwargs: Any) -> Any:
        ddp = self._ddp
        if ddp is None:
            return getattr(self._module, name)(*args, **kwargs)
        self.wait_in_forward(True)
        if self._is_manual:
            output = self._manual_step(ddp, name, *args, **kwargs)
            self.wait_in_forward(False)
            return output
        try:
            output = ddp(name, *args, **kwargs)
        except RuntimeError as error:
            raise self._explained(error) from error
        self.wait_in_forward(False)
        if self.trace is not None and ddp.require_backward_grad_sync and torch.is_grad_enabled():
            self.trace.enter("gradients")
        return output

    def on_validation_start(self) -> None:
        """Give all ranks the buffers of rank 0, running means say, so that they validate the model that is saved."""
        if self._ddp is not None and self._ddp.broadcast_buffers:
            take_from_rank_zero(self._ddp.modules_buffers, self)

    def wait_in_forward(self, waits: bool) -> None:
        """Tell the watch whether DDP's own code runs, which may wait for the other processes, or the user's step."""
        if self.watch is not None:
            if waits:
                self.watch.enter("the forward pass of DistributedDataParallel")
            else:
                self.watch.leave_collective()

    def _manual_step(self, ddp: DistributedDataParallel, name: str, *args: Any, **kwargs: Any) -> Any:
        """Run a step of manual optimisation, within which ``on_before_backward`` prepares every backward pass."""
        try:
            return ddp(name, *args, **kwargs)
        finally:
            ddp.require_backward_grad_sync = True

    @property
    def exchanges_gradients(self) -> bool:
        """Whether the backward pass that is about to run takes all processes."""
        return self._ddp is not None and self._ddp.require_backward_grad_sync

    def on_before_backward(self, loss: Tensor) -> None:
        """Prepare DDP for one backward pass of manual optimisation."""
        super().on_before_backward(loss)
        ddp = self._ddp
        if ddp is None or not self._is_manual or not ddp.require_backward_grad_sync:
            return
        reducer: Any = ddp.reducer
        reducer._rebuild_buckets()
        reducer.prepare_for_backward(list(_find_tensors(loss)) if ddp.find_unused_parameters else [])

    def no_sync(self) -> AbstractContextManager[Any]:
        """A block in which backward passes do not exchange gradients; the next backward pass after it does."""
        ddp = self._ddp
        if ddp is None:
            return super().no_sync()
        # DDP learns a static graph from the first backward pass, which has to exchange. The next exchange averages what
        # is equal in all processes then, which changes nothing.
        learns = ddp.static_graph and not ddp._static_graph_delay_allreduce_enqueued
        return nullcontext() if learns else ddp.no_sync()

    def _explained(self, error: RuntimeError) -> RuntimeError:
        """DDP's error about parameters without gradients, with their names; any other error as it is."""
        if "finished reduction" not in str(error):
            return error
        names = [name for name, p in self._module.named_parameters() if p.requires_grad and p.grad is None]
        return MisconfigurationException(
            f"These parameters took no part in the last loss, so DDP has waited for their gradients in vain: "
            f"{', '.join(names) or 'unknown'}. Leave them out of the model, or write "
            "strategy='ddp_find_unused_parameters_true'."
        )

    def teardown(self, module: Module | None = None, error: BaseException | None = None) -> None:
        """Take the model out of ``DistributedDataParallel`` again."""
        self._ddp = self._module = None
        super().teardown(module, error)


class _Redirect(Module):
    """A module whose ``forward`` runs a step of the user's module, so that DDP wraps the step.

    Attributes:
        ddp: In manual optimisation, the wrapper: after the step its backward passes are over, so DDP must not prepare
            another one.
    """

    def __init__(self, module: Module, strategy: DDPStrategy) -> None:
        super().__init__()
        self.module, self.strategy = module, strategy
        self.ddp: list[
            DistributedDataParallel
        ] = []  # in a list, so that it does not become a submodule of its own submodule

    def forward(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Run the step ``name``."""
        self.strategy.wait_in_forward(False)
        output = getattr(self.module, name)(*args, **kwargs)
        self.strategy.wait_in_forward(True)
        for ddp in self.ddp:
            ddp.require_backward_grad_sync = False
        return output

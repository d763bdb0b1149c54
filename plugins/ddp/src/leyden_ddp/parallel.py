"""ParallelStrategy: what all strategies of several processes share: who is who, meeting, and collectives."""

from __future__ import annotations

import atexit
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, get_args

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Module

from leyden.interfaces.strategy import Strategy
from leyden.plugin_system.hooks import hookimpl
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.rank_zero import rank_zero_only
from leyden_ddp.absence import are_uneven, complete
from leyden_ddp.batchnorm import synchronise_batchnorm
from leyden_ddp.division import divided
from leyden_ddp.environments.local import LocalEnvironment
from leyden_ddp.failure import print_briefly
from leyden_ddp.launchers import choose_launcher
from leyden_ddp.meeting import compare_plugins, leave, meet
from leyden_ddp.tracing import CollectiveTrace
from leyden_ddp.uneven import AgreedFetcher
from leyden_ddp.watch import Watch, watch_of_group

if TYPE_CHECKING:
    from leyden.data.fetch import Fetcher
    from leyden.metrics import Results

T = TypeVar("T")
StartMethod = Literal["popen", "spawn", "fork", "forkserver"]
UnevenInputs = Literal["stop_together", "pad", "join"]
_OPERATIONS = {"mean": dist.ReduceOp.SUM, "avg": dist.ReduceOp.SUM, "sum": dist.ReduceOp.SUM,
               "min": dist.ReduceOp.MIN, "max": dist.ReduceOp.MAX}  # fmt: skip


class ParallelStrategy(Strategy):
    """Several processes, one device each, that talk through ``torch.distributed``.

    A strategy that derives from it overrides :meth:`setup_module`, and whatever else it does with model, gradients
    and state; the collectives, the launchers, the division of the data and the watch over the other ranks are here.
    Once a rank has failed, a collective raises; and in the hooks for that exception, ``on_exception`` and what it
    saves, it waits for nobody.

    Args:
        process_group_backend: The backend of ``torch.distributed``; by default the accelerator's.
        timeout: How long the processes wait for each other when they meet and in a collective.
        start_method: How the processes of a node start where no cluster has started them: "popen" runs the script
            again for each, "spawn", "fork" and "forkserver" are those of ``multiprocessing``.
        uneven_inputs: What a training epoch does when the ranks have different numbers of batches:
            "stop_together" ends it with the first that has no more; "pad" starts the shorter loaders over until
            the last one ends; "join" does so too, but what they give again has no weight: gradients are the mean
            over the ranks that still have batches of their own.
    """

    start_methods: ClassVar[tuple[str, ...]] = ("popen", "spawn", "fork", "forkserver")

    def __init__(
        self,
        process_group_backend: str | None = None,
        timeout: timedelta = timedelta(minutes=30),
        start_method: StartMethod = "popen",
        uneven_inputs: UnevenInputs = "stop_together",
    ) -> None:
        if start_method not in self.start_methods:
            raise MisconfigurationException(
                f"start_method={start_method!r} is not known; write one of {', '.join(self.start_methods)}."
            )
        if uneven_inputs not in get_args(UnevenInputs):
            raise MisconfigurationException(f'uneven_inputs={uneven_inputs!r}: write "stop_together", "pad" or "join".')
        self._backend, self.timeout, self.start_method = process_group_backend, timeout, start_method
        self.uneven_inputs: UnevenInputs = uneven_inputs
        self._local_rank: int | None = None
        self.watch: Watch | None = None
        self.cause: BaseException | None = None
        self.trace: CollectiveTrace | None = None

    # -- who is who ---------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Learn the ranks from the environment, or make them up, and choose the launcher."""
        print_briefly()
        _ = self.process_group_backend  # raises where the accelerator has none, before any process starts
        self.environment = self.environment or LocalEnvironment()
        try:
            self.environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        except MisconfigurationException as error:
            if 0 < self.environment.local_rank() < self.num_processes:
                error.brief = ""  # type: ignore[attr-defined]  # the first process of the node says the same
            raise
        self._set_ranks(self.environment.local_rank())
        self.launcher = choose_launcher(self)

    def _set_ranks(self, local_rank: int) -> None:
        assert self.environment is not None
        self._local_rank = local_rank
        if not self.environment.creates_processes_externally or isinstance(self.environment, LocalEnvironment):
            self.environment.set_global_rank(self.node_rank * self.num_processes + local_rank)
            self.environment.set_world_size(self.num_nodes * self.num_processes)

    def take_place(self, local_rank: int) -> None:
        """Be the process of ``local_rank`` from now on; for launchers that start processes by function."""
        self._set_ranks(local_rank)
        rank_zero_only.rank = self.global_rank

    @property
    def num_processes(self) -> int:
        """Processes of this node."""
        return len(self.parallel_devices)

    @property
    def world_size(self) -> int:
        """Processes in all."""
        return self.environment.world_size() if self.environment is not None else 1

    @property
    def global_rank(self) -> int:
        """This process among all, from 0."""
        return self.environment.global_rank() if self.environment is not None else 0

    @property
    def local_rank(self) -> int:
        """This process among those of its node, from 0."""
        return self._local_rank or 0

    @property
    def node_rank(self) -> int:
        """This node among all, from 0."""
        return self.environment.node_rank() if self.environment is not None else 0

    @property
    def sampler_arguments(self) -> dict[str, int] | None:
        """The number of processes among which the data are divided, and which part is this one's."""
        return {"num_replicas": self.world_size, "rank": self.global_rank}

    @property
    def process_group_backend(self) -> str:
        """The backend of ``torch.distributed``."""
        return self._backend or self.accelerator.process_group_backend()

    @property
    def batchnorm_group(self) -> Any:
        """The processes whose batches synchronised batch normalisation sees; None for all."""
        return None

    def convert_sync_batchnorm(self, module: Module) -> Module:
        """Replace batch normalisation by the one that sees the batches of all processes."""
        return synchronise_batchnorm(module, self.root_device, self.batchnorm_group)

    # -- data ---------------------------------------------------------------------------------------------

    def divide(self, loader: Any, training: bool) -> Any:
        """A loader of this process's part of the data, as :attr:`sampler_arguments` say."""
        arguments = self.sampler_arguments
        return loader if arguments is None else divided(loader, training, **arguments)

    def agree_on_epoch(self, fetcher: Fetcher) -> Fetcher:
        """Follow :attr:`uneven_inputs` where the processes have different numbers of batches."""
        return AgreedFetcher(fetcher.loader, self) if self.world_size > 1 else fetcher

    def agree_on_results(self, results: Results, module: Module, batches: Sequence[int | float]) -> None:
        """Tell each other what was logged, where the processes have had different numbers of batches."""
        if are_uneven(batches):
            complete(self, results)

    # -- meeting ------------------------------------------------------------------------------------------

    def setup_environment(self) -> None:
        """Take hold of the device, meet the other processes, and watch over them."""
        super().setup_environment()
        assert self.environment is not None
        if "OMP_NUM_THREADS" not in os.environ:  # else each process would take all the processors of the node
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // self.num_processes))
        if not dist.is_initialized():
            check: Any = getattr(self.launcher, "check", lambda: None)
            meet(self.environment, self.process_group_backend, self.timeout, self.root_device, check)
            atexit.register(leave)
        rank, size = self.global_rank, self.world_size
        self.watch = watch = watch_of_group(rank, size)
        self.cause = self.trace = None
        store = watch.begin()
        if CollectiveTrace.is_wanted():
            self.trace = CollectiveTrace(store, rank, size, self.timeout, watch.refuse_after_failure)
        compare_plugins(self.plugin_manager, self)

    def first_cause(self, error: BaseException) -> BaseException:
        """Tell the other ranks of an error, so that none waits for this one; or find which of theirs led to it."""
        cause = self.watch.first_cause(error) if self.watch is not None else error
        self.cause = self.cause or cause  # what a hook for an exception raises comes second
        return cause

    def must_end(self, reason: str) -> str:
        """Whether the run ends with this batch because some rank was asked to: agreed among all ranks."""
        return self.watch.ends_here(reason) if self.watch is not None else reason

    @hookimpl(tryfirst=True)
    def on_exception(self, exception: BaseException) -> None:
        """Tell the other ranks, if nobody has yet: of an interruption from the keyboard, say."""
        self.first_cause(exception)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Count the batch, for the watch."""
        if self.watch is not None:
            self.watch.begin_batch()

    def on_before_backward(self, loss: Tensor) -> None:
        """Gradients are about to be exchanged: the watch knows who waits in it for whom."""
        if self.watch is not None:
            self.watch.enter("the backward pass")

    @hookimpl(tryfirst=True)
    def on_after_backward(self) -> None:
        """Gradients are exchanged."""
        if self.watch is not None:
            self.watch.leave_collective()

    def teardown(self, module: Module | None = None, error: BaseException | None = None) -> None:
        """Wait until all ranks have ended their run; they stay in touch for a next one."""
        self.trace = None
        if self.watch is not None:
            self.watch.end()
        super().teardown(module, error)
        if self.environment is not None:
            self.environment.teardown()

    # -- collectives --------------------------------------------------------------------------------------

    @property
    def _is_alone(self) -> bool:
        """Whether the run is failing here, so that its last hooks wait for nobody: what is here stands for all."""
        return self.watch is not None and self.watch.is_failing

    @contextmanager
    def collective(self, what: str, tensor: Tensor | None = None, group: Any = None) -> Generator[None, None, None]:
        """A block with a collective, which all processes enter; the watch knows who waits in it for whom.

        Args:
            what: Its name.
            tensor: What it is about, where all processes must bring the same size.
            group: Those who enter, where not all do.
        """
        watch = self.watch
        if watch is None:
            yield
            return
        outer = watch.enter(what if group is None else "")
        try:
            if self.trace is not None and group is None:
                self.trace.enter(what, tensor)
            yield
        finally:
            watch.leave_collective(outer)

    def reduce(self, tensor: Tensor, op: str = "mean", group: Any = None) -> Tensor:
        """Reduce over all processes: "mean", "sum", "min" or "max"; a new tensor on the same device.

        A mean of whole numbers is a floating-point number.
        """
        operation = _OPERATIONS.get(str(op).lower())
        if operation is None:
            raise MisconfigurationException(f"op={op!r} is not known; write mean, sum, min or max.")
        averages = str(op).lower() in ("mean", "avg")
        reduced = tensor.detach().to(self.root_device, copy=True).contiguous()
        if averages and not reduced.is_floating_point():
            reduced = reduced.to(torch.get_default_dtype())
        if self._is_alone:
            return reduced.to(tensor.device)
        with self.collective(f"reduce({op!r})", reduced, group):
            dist.all_reduce(reduced, operation, group=group)
        return (reduced / dist.get_world_size(group) if averages else reduced).to(tensor.device)

    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        """Stack the tensors of all processes, all of one size, along a new first dimension."""
        if self._is_alone:
            return torch.stack([tensor] * self.world_size)
        with self.collective("all_gather", tensor, group):
            if sync_grads:
                from torch.distributed.nn.functional import all_gather

                gathered: Any = all_gather(tensor.contiguous(), group or dist.group.WORLD)
                return torch.stack(tuple(gathered))
            moved = tensor.to(self.root_device).contiguous()
            parts = [torch.empty_like(moved) for _ in range(dist.get_world_size(group))]
            dist.all_gather(parts, moved, group=group)
        return torch.stack(parts).to(tensor.device)

    def all_gather_object(self, value: T) -> list[T]:
        """The ``value`` of every process."""
        values: list[Any] = [value] * self.world_size
        if self._is_alone:
            return values
        with self.collective("all_gather_object"):
            dist.all_gather_object(values, value)
        return values

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        """Whether all processes decided so, or any of them did."""
        if self._is_alone:
            return decision
        vote = torch.tensor(int(decision), device=self.root_device)
        with self.collective("reduce_boolean_decision"):
            dist.all_reduce(vote, dist.ReduceOp.MIN if all else dist.ReduceOp.MAX)
        return bool(vote.item())

    def broadcast(self, value: T, src: int = 0) -> T:
        """The ``value`` of process ``src``; before the processes have met, this one's own."""
        if not dist.is_initialized() or self._is_alone:
            return value
        values = [value]
        with self.collective("broadcast"):
            dist.broadcast_object_list(values, src)
        return values[0]

    def barrier(self, name: str | None = None) -> None:
        """Wait until every process has come here; before they have met, none waits."""
        if not dist.is_initialized() or self._is_alone:
            return
        ids = [self.root_device.index] if self.root_device.index is not None else None
        with self.collective(f"barrier({name!r})"):
            dist.barrier(device_ids=ids)

"""ParallelStrategy: the base of all strategies of several processes: ranks, start-up, data and collectives."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, get_args

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _get_default_store
from torch.nn import Module

from leyden import hookimpl
from leyden.strategies import Strategy
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.rank_zero import rank_zero_only
from leyden.utilities.rng import seed_of_environment
from leyden_ddp.batchnorm import synchronise_batchnorm
from leyden_ddp.division import divided
from leyden_ddp.environments.local import LocalEnvironment
from leyden_ddp.failure import print_briefly
from leyden_ddp.gathering import gather_collection, refuse_other_sizes
from leyden_ddp.launchers import choose_launcher
from leyden_ddp.logged import LoggedValues, tell_of_difference
from leyden_ddp.meeting import compare_plugins, connect, exchange_group, leave, meet
from leyden_ddp.settings import compare_settings
from leyden_ddp.tracing import CollectiveTrace
from leyden_ddp.uneven import AgreedFetcher
from leyden_ddp.watch import Watch, running_watch, watch_over

if TYPE_CHECKING:
    from leyden import Trainer
    from leyden.plugins import Fetcher, Results

T = TypeVar("T")
StartMethod = Literal["popen", "spawn", "fork", "forkserver"]
UnevenInputs = Literal["stop_together", "pad", "join"]
_OPERATIONS = {"mean": dist.ReduceOp.SUM, "avg": dist.ReduceOp.SUM, "sum": dist.ReduceOp.SUM,
               "min": dist.ReduceOp.MIN, "max": dist.ReduceOp.MAX}  # fmt: skip


class ParallelStrategy(Strategy):
    """Several processes, one device each, that communicate through ``torch.distributed``.

    This class has the collectives, the launchers, the division of the data and the watch over the other ranks. A
    strategy that derives from it overrides :meth:`setup_module`, and what else it does differently with the model, the
    gradients and their state. Once a rank has failed, every collective raises an error on the other ranks. In the hook
    ``on_exception`` that follows, collectives wait for no other rank and return what this rank has.

    Args:
        process_group_backend: The backend of ``torch.distributed``; by default that of the accelerator.
        timeout: How long the processes wait for each other at the start and in each collective.
        start_method: How the processes of a node start if no cluster has started them: "popen" runs the script again
            for each process; "spawn", "fork" and "forkserver" are those of ``multiprocessing``.
        uneven_inputs: What happens in a training epoch in which the ranks have different numbers of batches.
            "stop_together" ends the epoch as soon as one rank has no more batches. "pad" starts the shorter loaders
            again until the longest one ends. "join" does the same, but repeated batches do not count: gradients are
            the mean over the ranks that still have batches of their own.

    Attributes:
        watch: Watches over the other ranks; None before the first run.
        cause: The first error of a failed run, on any rank; None while the run goes well.
        exchange_group: The process group of this class's own collectives; None for that of the gradients.
        trace: Compares the collectives of the ranks; None unless ``LEYDEN_DEBUG_COLLECTIVES`` is set.
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
        self.exchange_group: Any = None
        self._logged = LoggedValues(self)
        self._differing: set[str] = set()  # monitored metrics of which was said that they differ between ranks

    # -- ranks --------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Take the ranks from the environment, or assign them, and choose the launcher."""
        print_briefly()
        _ = self.process_group_backend  # raises where the accelerator has none, before any process starts
        seed_of_environment()  # raises where it is none: every process would, when it divides its data
        self.environment = self.environment or LocalEnvironment()
        try:
            self.environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        except MisconfigurationException as error:
            if 0 < self.environment.local_rank() < self.num_processes:
                error.brief = ""  # type: ignore[attr-defined]  # the first process of the node prints the same
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
        """Become the process of ``local_rank``; called in processes that :class:`FunctionLauncher` has started."""
        self._set_ranks(local_rank)
        rank_zero_only.rank = self.global_rank

    @property
    def num_processes(self) -> int:
        """The number of processes of this node."""
        return len(self.parallel_devices)

    @property
    def world_size(self) -> int:
        """The number of processes on all nodes."""
        return self.environment.world_size() if self.environment is not None else 1

    @property
    def global_rank(self) -> int:
        """The number of this process among all, from 0."""
        return self.environment.global_rank() if self.environment is not None else 0

    @property
    def local_rank(self) -> int:
        """The number of this process among those of its node, from 0."""
        return self._local_rank or 0

    @property
    def node_rank(self) -> int:
        """The number of this node among all nodes, from 0."""
        return self.environment.node_rank() if self.environment is not None else 0

    @property
    def sampler_arguments(self) -> dict[str, int] | None:
        """Into how many parts the data are divided, and which of them this process takes."""
        return {"num_replicas": self.world_size, "rank": self.global_rank}

    @property
    def process_group_backend(self) -> str:
        """The backend of ``torch.distributed``."""
        return self._backend or self.accelerator.process_group_backend()

    @property
    def batchnorm_group(self) -> Any:
        """The process group over whose batches synchronised batch normalisation normalises; None for all."""
        return None

    def convert_sync_batchnorm(self, module: Module) -> Module:
        """Replace batch normalisation by one that normalises over the batches of all processes."""
        return synchronise_batchnorm(module, self.root_device, self.batchnorm_group)

    # -- data ---------------------------------------------------------------------------------------------

    def divide(self, loader: Any, training: bool) -> Any:
        """Make a loader of this process's part of the data, which :attr:`sampler_arguments` name."""
        arguments = self.sampler_arguments
        if arguments is None:
            return loader
        seed = self.broadcast(seed_of_environment())  # each rank may have been given its own
        return divided(loader, training, seed=seed, strategy=self, **arguments)

    def agree_on_epoch(self, fetcher: Fetcher) -> Fetcher:
        """Return a fetcher that ends the epoch after the same number of batches on all ranks, by ``uneven_inputs``."""
        return AgreedFetcher(fetcher.loader, self) if self.world_size > 1 else fetcher

    def agree_on_results(self, results: Results) -> None:
        """Compare the names that are to be reduced, and exchange the records if they differ."""
        self._logged.agree(results)

    def agree_on_value(self, name: str, value: Tensor | None) -> Tensor | None:
        """The value that rank 0 has of a monitored metric; says once if another rank's differs."""
        values = self.all_gather_object(None if value is None else float(value))
        if name not in self._differing and tell_of_difference(name, values):
            self._differing.add(name)
        if values[0] is None or self.is_global_zero:
            return value if self.is_global_zero else None
        return torch.tensor(values[0], dtype=getattr(value, "dtype", None), device=getattr(value, "device", None))

    # -- start and end ------------------------------------------------------------------------------------

    def setup_environment(self) -> None:
        """Set up the device, connect to the other processes and begin to watch over them."""
        super().setup_environment()
        assert self.environment is not None
        if "OMP_NUM_THREADS" not in os.environ:  # else each process would use all processors of the node
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // self.num_processes))
        rank, size = self.global_rank, self.world_size
        self.cause = self.trace = None
        self._logged = LoggedValues(self)
        is_connected = dist.is_initialized()
        self.watch = watch = (running_watch() if is_connected else None) or self._meet(rank, size)
        store = watch.begin()
        if not is_connected:
            backend = self.process_group_backend
            with watch.waiting_in(f"the connection through {backend}"):
                connect(watch.met, backend, rank, size, self.timeout, self.root_device)
        self.exchange_group = exchange_group()
        if CollectiveTrace.is_wanted():
            self.trace = CollectiveTrace(store, rank, size, self.timeout, watch.refuse_after_failure)
        compare_plugins(self.plugin_manager, self)

    def compare_settings(self, trainer: Trainer) -> None:
        """Refuse ranks whose Trainers are set up differently; called when a run has begun.

        Args:
            trainer: The Trainer of this rank.
        """
        compare_settings(trainer, self)

    def _meet(self, rank: int, size: int) -> Watch:
        """Begin to watch over all processes, once they have come."""
        assert self.environment is not None
        if dist.is_initialized():  # by the user
            return watch_over(_get_default_store(), rank, size)
        check: Any = getattr(self.launcher, "check", lambda: None)
        watch = watch_over(meet(self.environment, self.timeout, check), rank, size)
        atexit.register(leave)
        return watch

    def first_cause(self, error: BaseException) -> BaseException:
        """Tell the other ranks of an error of this one, or find the error of another rank that led to it."""
        cause = self.watch.first_cause(error) if self.watch is not None else error
        self.cause = self.cause or cause  # a later error comes from a hook for the first
        return cause

    def must_end(self, reason: str) -> str:
        """Agree with all ranks on whether the run ends with this batch, because one of them was asked to end."""
        return self.watch.ends_here(reason) if self.watch is not None else reason

    @hookimpl(tryfirst=True)
    def on_exception(self, exception: BaseException) -> None:
        """Tell the other ranks of the error, unless they know; of an interruption from the keyboard they do not."""
        self.first_cause(exception)
        if isinstance(exception, KeyboardInterrupt) and self.global_rank != 0:
            exception.brief = ""  # type: ignore[attr-defined]  # rank 0 prints the same

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Tell the watch that a batch begins."""
        if self.watch is not None:
            self.watch.begin_batch()

    @property
    def exchanges_gradients(self) -> bool:
        """Whether the backward pass that is about to run takes all processes."""
        return True

    def on_before_backward(self, loss: Tensor) -> None:
        """Tell the watch that gradients are about to be exchanged, for which this rank waits for the others."""
        if self.watch is not None and self.exchanges_gradients:
            self.watch.enter("the backward pass")

    @hookimpl(tryfirst=True)
    def on_after_backward(self) -> None:
        """Tell the watch that gradients have been exchanged."""
        if self.watch is not None:
            self.watch.leave_collective()

    def teardown(self, module: Module | None = None, error: BaseException | None = None) -> None:
        """Wait until all ranks have ended their run; the connections stay open for the next run."""
        self.trace = None
        if self.watch is not None:
            self.watch.end()
        super().teardown(module, error)
        if self.environment is not None:
            self.environment.teardown()

    @contextmanager
    def together(self, asked: Callable[[], str]) -> Generator[None, None, None]:
        """A block after the run which all processes leave together: if it fails in one, the others are told.

        Args:
            asked: Returns why this process was asked to end, or "".
        """
        if self.watch is not None:
            self.watch.begin()
        yield
        if self.watch is not None:
            self.watch.end(asked)

    def __copy__(self) -> ParallelStrategy:
        """A strategy of the same connections: Fabric makes one for each module."""
        twin = object.__new__(type(self))
        vars(twin).update(vars(self))
        return twin

    def __getstate__(self) -> dict[str, Any]:
        gone = dict.fromkeys(("watch", "trace", "exchange_group"))  # connections of this process; a copy has its own
        return {**vars(self), **gone}

    # -- collectives --------------------------------------------------------------------------------------

    @property
    def is_alone(self) -> bool:
        """Whether the run is failing on this rank: collectives then wait for no other and return what this rank has."""
        return self.watch is not None and self.watch.is_failing

    @contextmanager
    def collective(self, what: str, tensor: Tensor | None = None, group: Any = None) -> Generator[None, None, None]:
        """A block with a collective, which all processes must enter; the watch knows that this rank waits in it.

        Args:
            what: The name of the collective.
            tensor: The tensor that it exchanges, if it must have the same shape in all processes.
            group: The processes that enter; None for all.
        """
        if self.watch is None:
            yield
        elif group is not None:
            self.watch.refuse_after_failure()
            yield
        else:
            with self.watch.waiting_in(what, tensor):
                if self.trace is not None:
                    self.trace.enter(what, tensor)
                yield

    def reduce(self, tensor: Tensor, op: str = "mean", group: Any = None) -> Tensor:
        """Reduce a tensor over all processes.

        Args:
            tensor: Of the same shape in every process.
            op: "mean", "sum", "min" or "max".
            group: The processes that take part; None for all.

        Returns:
            A new tensor on the same device; a floating-point one for the mean of integers.
        """
        return self.reduce_as(f"reduce({op!r})", tensor, op, group)

    def reduce_as(self, what: str, tensor: Tensor, op: str, group: Any = None) -> Tensor:
        """:meth:`reduce`, of which an error of ranks that stand apart speaks as ``what``."""
        operation = _OPERATIONS.get(str(op).lower())
        if operation is None:
            raise MisconfigurationException(f"op={op!r} is not known; write mean, sum, min or max.")
        averages = str(op).lower() in ("mean", "avg")
        reduced = tensor.detach().to(self.root_device, copy=True).contiguous()
        if averages and not reduced.is_floating_point():
            reduced = reduced.to(torch.get_default_dtype())
        if self.is_alone:
            return reduced.to(tensor.device)
        with self.collective(what, reduced, group):
            dist.all_reduce(reduced, operation, group=group or self.exchange_group)
        return (reduced / dist.get_world_size(group) if averages else reduced).to(tensor.device)

    def reduce_logged(self, name: str, value: Tensor, op: str, group: Any, in_step: bool) -> Tensor | None:
        """Reduce a logged value together with a number made of its name, by which ranks see if others have another."""
        return self._logged.reduce(name, value, op, group, in_step)

    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        """Stack the tensors of all processes, which have the same shape, along a new first dimension.

        Raises:
            MisconfigurationException: They have not.
        """
        if not self.is_alone:
            with self.collective("all_gather", tensor, group):
                refuse_other_sizes(self, [f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"], group)
        return self.stack(tensor, group, sync_grads)

    def stack(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        """:meth:`all_gather` of tensors whose sizes were compared."""
        if self.is_alone:
            return torch.stack([tensor] * self.world_size)
        with self.collective("all_gather", tensor, group):
            if sync_grads:
                from torch.distributed.nn.functional import all_gather

                gathered: Any = all_gather(tensor.contiguous(), group or self.exchange_group or dist.group.WORLD)
                return torch.stack(tuple(gathered))
            moved = tensor.to(self.root_device).contiguous()
            parts = [torch.empty_like(moved) for _ in range(dist.get_world_size(group))]
            dist.all_gather(parts, moved, group=group or self.exchange_group)
        return torch.stack(parts).to(tensor.device)

    def gather_collection(self, data: Any, group: Any = None, sync_grads: bool = False) -> Any:
        """Gather a collection; what is no tensor becomes a list over the ranks."""
        return gather_collection(self, data, group, sync_grads)

    def all_gather_object(self, value: T, group: Any = None) -> list[T]:
        """The ``value`` of every process, in the order of ranks."""
        values: list[Any] = [value] * (self.world_size if group is None else dist.get_world_size(group))
        if self.is_alone:
            return values
        with self.collective("all_gather_object", group=group):
            dist.all_gather_object(values, value, group or self.exchange_group)
        return values

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        """Whether ``decision`` is True in all processes, or with ``all=False`` in any of them."""
        if self.is_alone:
            return decision
        vote = torch.tensor(int(decision), device=self.root_device)
        with self.collective("reduce_boolean_decision"):
            dist.all_reduce(vote, dist.ReduceOp.MIN if all else dist.ReduceOp.MAX, group=self.exchange_group)
        return bool(vote.item())

    def broadcast(self, value: T, src: int = 0) -> T:
        """The ``value`` of the process of rank ``src``; before the processes are connected, that of this process."""
        if not dist.is_initialized() or self.is_alone:
            return value
        values = [value]
        with self.collective("broadcast"):
            dist.broadcast_object_list(values, src, self.exchange_group)
        return values[0]

    def barrier(self, name: str | None = None) -> None:
        """Wait until all processes have called this; before they are connected, return at once."""
        if not dist.is_initialized() or self.is_alone:
            return
        ids = [self.root_device.index] if self.root_device.index is not None else None
        with self.collective(f"barrier({name!r})"):
            dist.barrier(self.exchange_group, device_ids=ids)

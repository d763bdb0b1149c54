"""FSDPStrategy: ``fully_shard`` divides parameters, gradients and optimizer states among the processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import lru_cache
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy
from torch.nn import Module

from leyden.plugins import CHECKPOINT_KEY, Precision
from leyden.utilities.empty_init import EmptyInit
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.objects import is_overridden
from leyden.utilities.rank_zero import rank_zero_info, rank_zero_warn
from leyden_ddp.weights import compare_tensors
from leyden_sharded import gradients
from leyden_sharded.checkpoints import ShardedCheckpoints
from leyden_sharded.clipping import clip_gradients
from leyden_sharded.explaining import explained
from leyden_sharded.initial import materialise, refuse_unset, take_from_rank_zero
from leyden_sharded.sharding import Sharding, checkpoint_activations, make_whole, shard
from leyden_sharded.units import Policy, units

# For each kind: whether there are replicas, and whether parameters are divided again after the forward pass.
KINDS = {
    "FULL_SHARD": (False, True),
    "SHARD_GRAD_OP": (False, False),
    "HYBRID_SHARD": (True, True),
    "_HYBRID_SHARD_ZERO2": (True, False),
}
_SHARDING = "_leyden_sharding"  # the attribute of a module that holds its Sharding from one run to the next


class FSDPStrategy(ShardedCheckpoints):
    """Each process keeps a part of the parameters, of the gradients and of the optimizer's state.

    A unit is a submodule whose parameters are gathered together, when it computes. Each process receives the average
    gradients of its own part only (ZeRO stages 2 and 3, Rajbhandari et al., 2020). After a run the module stays
    divided: ``validate``, ``test``, ``predict``, ``save_checkpoint`` and another ``fit`` use it as it is. For a whole
    module load a checkpoint.

    Args:
        auto_wrap_policy: Which submodules are units: a set of classes, the least number of parameters of a unit, or a
            function as in ``torch.distributed.fsdp.wrap``. None makes the whole module one unit. If
            ``configure_model`` calls ``fully_shard`` itself, the modules that it names are the units and this policy is
            not used.
        activation_checkpointing_policy: The submodules whose activations are computed again in the backward pass and
            not kept; the same kinds of value.
        cpu_offload: Whether parameters, gradients and optimizer state are kept on the host; True, or a
            ``CPUOffloadPolicy``.
        mixed_precision: The formats in which parameters are gathered and gradients are summed; None derives them from
            the Trainer's ``precision``.
        sharding_strategy: "FULL_SHARD" divides parameters again after the forward pass (stage 3), "SHARD_GRAD_OP"
            after the backward pass (stage 2). "HYBRID_SHARD" is "FULL_SHARD" among the processes of a node, with a
            replica on every node.
        state_dict_type: "full" or "sharded" checkpoints; see :class:`ShardedCheckpoints`.
        device_mesh: For "HYBRID_SHARD": the numbers (replicas, parts), or a mesh of these two dimensions.
        async_save: Whether sharded checkpoints are written in the background.
        process_group_backend: See :class:`ParallelStrategy`, also for the next three.
        timeout: How long the processes wait for each other.
        start_method: How the processes of a node start.
        uneven_inputs: What happens when the ranks have different numbers of training batches.
    """

    strategy_name = "fsdp"

    def __init__(
        self,
        *,
        auto_wrap_policy: Policy = None,
        activation_checkpointing_policy: Policy = None,
        cpu_offload: bool | CPUOffloadPolicy | None = None,
        mixed_precision: MixedPrecisionPolicy | None = None,
        sharding_strategy: Any = "FULL_SHARD",
        state_dict_type: Literal["full", "sharded"] = "full",
        device_mesh: tuple[int, int] | DeviceMesh | None = None,
        async_save: bool = False,
        process_group_backend: str | None = None,
        timeout: timedelta | None = None,
        start_method: Any = "popen",
        uneven_inputs: Any = "stop_together",
    ) -> None:
        options = {"timeout": timeout} if timeout is not None else {}
        super().__init__(
            state_dict_type, async_save, process_group_backend=process_group_backend, start_method=start_method,
            uneven_inputs=uneven_inputs, **options,
        )  # fmt: skip
        self._has_replicas, self._reshards = _kind(sharding_strategy)
        if device_mesh is not None and not self._has_replicas:
            raise MisconfigurationException(
                f'device_mesh={device_mesh!r} is for sharding_strategy="HYBRID_SHARD", and it is {sharding_strategy!r}.'
            )
        if mixed_precision is not None and not isinstance(mixed_precision, MixedPrecisionPolicy):
            raise MisconfigurationException(
                f"mixed_precision={mixed_precision!r} is no torch.distributed.fsdp.MixedPrecisionPolicy; give one."
            )
        self._policy, self._activations = auto_wrap_policy, activation_checkpointing_policy
        units(Module(), auto_wrap_policy, "auto_wrap_policy")  # refuses a wrong policy before processes start
        units(Module(), activation_checkpointing_policy, "activation_checkpointing_policy")
        self.cpu_offload, self.mixed_precision = cpu_offload, mixed_precision
        self._given_mesh = device_mesh
        self._mesh = device_mesh if isinstance(device_mesh, DeviceMesh) else None
        self._sharding: Sharding | None = None
        self._module: Any = None
        self._gradients: dict[str, Tensor] = {}
        self._is_gathered = self._has_told = False

    # -- the processes -------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Refuse a mesh that does not fit the processes, and a precision that offloading does not support."""
        super().connect()
        sizes, names = self._mesh_dimensions()
        if math.prod(sizes) != self.world_size:
            raise MisconfigurationException(
                f"The mesh of {' × '.join(f'{size} ({name})' for size, name in zip(sizes, names, strict=True))} has "
                f"{math.prod(sizes)} places, but devices and num_nodes make {self.world_size} processes."
            )
        if self.cpu_offload and getattr(self.precision, "scaler", None) and self.root_device.type != "cpu":
            raise MisconfigurationException(
                f"precision={self.precision.precision!r} scales gradients on the device, but cpu_offload keeps them on "
                "the host; write 'bf16-mixed'."
            )

    def _mesh_dimensions(self) -> tuple[tuple[int, ...], tuple[str, ...]]:
        if not self._has_replicas:
            return (self.world_size,), ("data_parallel",)
        if isinstance(self._given_mesh, DeviceMesh):
            return tuple(self._given_mesh.shape), ("replicate", "shard")
        return self._given_mesh or (self.num_nodes, self.num_processes), ("replicate", "shard")

    @property
    def process_group_backend(self) -> str:
        """The backend of the accelerator; with offloading, a backend for the host as well."""
        backend = super().process_group_backend
        kind = self.root_device.type
        return f"cpu:gloo,{kind}:{backend}" if self.cpu_offload and kind != "cpu" and ":" not in backend else backend

    def setup_environment(self) -> None:
        """Connect to the other processes and make the device mesh."""
        super().setup_environment()
        if self._mesh is None:
            self._mesh = _mesh(dist.group.WORLD, self.root_device.type, *self._mesh_dimensions())

    @property
    def device_mesh(self) -> DeviceMesh:
        """The mesh of all processes; ``configure_model`` has it as ``self.device_mesh``.

        Raises:
            RuntimeError: The processes are not connected yet.
        """
        if self._mesh is None:
            raise RuntimeError("There is no device mesh before the processes have met: ask for it in configure_model.")
        return self._mesh

    @property
    def _sharding_mesh(self) -> DeviceMesh | None:
        """The mesh among whose processes parameters are divided; None if FSDP divides none."""
        return self.device_mesh

    # -- the module ----------------------------------------------------------------------------------------------

    @contextmanager
    def module_init_context(self, empty_init: bool | None = None) -> Generator[None, None, None]:
        """The context in which modules are built: on the host, or on the meta device with ``empty_init=True``."""
        is_parent = self.launcher is not None and not self.launcher.takes_part and not dist.is_initialized()
        empty = (
            EmptyInit() if is_parent else torch.device("meta")
        )  # the parent process gets the values of whole tensors later
        with empty if empty_init else nullcontext(), self.precision.module_init_context():
            yield

    def setup_module(self, module: Module, training: bool = True) -> None:
        """Divide the module, unless an earlier run has done so, and load the values of rank 0 or of a checkpoint."""
        self.precision.convert_module(module)
        self._module = module
        known = module.__dict__.get(_SHARDING)
        compare_tensors(module, self, training)
        if known is not None:
            gradients.drop(known)
        self._sharding = known or self._shard(module)
        if self._sharding is not None:
            self._sharding.begin()
        home = torch.device("cpu") if self.cpu_offload else self.root_device
        unset = materialise(module, home, self.root_device)
        if self._sharding is None:
            module.to(self.root_device)
        _move_own_tensors(module, self.root_device)
        refuse_unset(unset - self._load_kept_state(module))
        self._is_set_up = True
        if self._sharding is not None and not training:
            self._sharding.gather_once()

    def _shard(self, module: Module) -> Sharding | None:
        take_from_rank_zero([*module.parameters(), *module.buffers()], self.root_device)
        checkpoint_activations(units(module, self._activations, "activation_checkpointing_policy"))
        if self._sharding_mesh is None:
            return None
        inner = units(module, self._policy, "auto_wrap_policy")
        if any(isinstance(part, FSDPModule) for part in module.modules()):
            if inner:
                rank_zero_warn("auto_wrap_policy is not used, because configure_model has divided the module itself.")
            inner = []
        on_host = self.cpu_offload
        offload = CPUOffloadPolicy(pin_memory=self.root_device.type != "cpu") if on_host is True else on_host
        sharding = shard(
            module, inner, getattr(module, "automatic_optimization", True), self._reshards, mesh=self._sharding_mesh,
            mp_policy=self.mixed_precision or _precision_policy(self.precision.precision),
            offload_policy=offload or OffloadPolicy(),
        )  # fmt: skip
        module.__dict__[_SHARDING] = sharding
        return sharding

    def setup_optimizers(self, optimizers: list[Any]) -> list[Any]:
        """Refuse an optimizer of parameters that the divided module no longer has."""
        known = set(self._module.parameters())
        for optimizer in optimizers:
            if any(p not in known for group in optimizer.param_groups for p in group["params"]):
                raise MisconfigurationException(
                    f"The {type(optimizer).__name__} has parameters that the divided module does not have; make it in "
                    "configure_optimizers, from self.parameters()."
                )
        return optimizers

    def step_function(self, module: Module, name: str) -> Callable[..., Any]:
        """A function that runs a step within the forward pass of the module that gathers the parameters."""
        step = super().step_function(module, name)

        def run(*args: Any, **kwargs: Any) -> Any:
            redirect = self._sharding.redirect if self._sharding is not None else None
            if redirect is None:
                return step(*args, **kwargs)
            output = redirect(name, self._wait_for_others(name), *args, **kwargs)
            if self.trace is not None and torch.is_grad_enabled():
                self.trace.enter("gradients")
            return output

        return run

    def first_cause(self, error: BaseException) -> BaseException:
        """Tell the other processes of an error, which is one of Leyden's if it is about divided parameters."""
        return super().first_cause(explained(error, self._module))

    def _wait_for_others(self, name: str) -> Callable[[], None]:
        """Tell the watch that this rank waits for the others to gather parameters.

        Returns:
            A function that tells the watch that parameters are gathered.
        """
        watch = self.watch
        if watch is None or self._is_gathered:
            return lambda: None
        watch.enter(name)
        if self.trace is not None:
            self.trace.enter(name)
        return watch.leave_collective

    def no_sync(self) -> AbstractContextManager[Any]:
        """A block in which backward passes do not exchange gradients; the next backward pass after it does."""
        return self._sharding.no_sync() if self._sharding is not None else super().no_sync()

    def clip_gradients(self, parameters: Iterable[Tensor], clip_val: float, algorithm: str) -> Tensor | None:
        """Clip gradients that are divided among the processes, unless the precision has its own way."""
        if is_overridden("clip_gradients", self.precision, Precision):
            return super().clip_gradients(parameters, clip_val, algorithm)
        return clip_gradients(parameters, clip_val, algorithm)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Free whole parameters that a forward pass without a backward pass has left; the step makes them outdated."""
        if self._sharding is not None:
            self._sharding.divide()

    # -- gradients of a run that goes on -------------------------------------------------------------------------

    def _add_gradients(self, ranks: list[Any], in_shards: bool) -> dict[str, Tensor]:
        return gradients.add(self, self._module, self._module.__dict__.get(_SHARDING), ranks, in_shards)

    def load_checkpoint(self, path: str, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint of either kind, and keep this process's gradients until training begins."""
        checkpoint = super().load_checkpoint(path, weights_only)
        ranks = checkpoint.get(CHECKPOINT_KEY, {}).get("ranks", [])
        self._gradients = {}
        if len(ranks) == self.world_size:
            own = ranks[self.global_rank]
            self._gradients, own["gradients"] = own["gradients"], {}
        return checkpoint

    def on_train_start(self) -> None:
        """Restore the gradients of the checkpoint, to which the first batch adds its own."""
        kept, self._gradients = self._gradients, {}
        if kept:
            gradients.put_back(self._module, self._sharding, kept, self._module.automatic_optimization)

    # -- evaluation ----------------------------------------------------------------------------------------------

    def on_validation_start(self) -> None:
        """Prepare for the batches of validation."""
        self._begin_evaluation("validation", self._module.trainer.num_val_batches)

    def on_test_start(self) -> None:
        """Prepare for the batches of a test."""
        self._begin_evaluation("test", self._module.trainer.num_test_batches)

    def on_predict_start(self) -> None:
        """Prepare for the batches of a prediction."""
        self._begin_evaluation("prediction", self._module.trainer.num_predict_batches)

    def on_validation_end(self) -> None:
        """Divide the parameters again."""
        self._end_evaluation()

    def on_test_end(self) -> None:
        """Divide the parameters again."""
        self._end_evaluation()

    def on_predict_end(self) -> None:
        """Divide the parameters again."""
        self._end_evaluation()

    def _begin_evaluation(self, what: str, batches: list[int | float]) -> None:
        """If the processes have different numbers of batches, gather all parameters, so that none waits for another."""
        sharding = self._sharding
        if sharding is None:
            return
        counts = self.all_gather_object(list(batches))
        if counts.count(counts[0]) == len(counts) and math.inf not in counts[0]:
            return
        self._is_gathered = True
        if not self._has_told:
            self._has_told = True
            rank_zero_info(
                f"The processes have {' and '.join(str(sum(count)) for count in counts)} {what} batches, so each "
                "process keeps all parameters during such an evaluation: gathering them in every batch takes all "
                f"processes. If memory does not allow it, limit the number of {what} batches to what all have."
            )
        with torch.inference_mode(False):
            sharding.gather()

    def _end_evaluation(self) -> None:
        if self._sharding is None:
            return
        if self._is_gathered:
            self._is_gathered = False
            self._sharding.release()
        self._sharding.divide()

    # -- the end -------------------------------------------------------------------------------------------------

    def teardown(self, module: Module | None = None, error: BaseException | None = None) -> None:
        """Leave the module divided on its device; make it whole if this process ends with the run.

        After a failed run the module is marked as such, so that the next run resets FSDP's state.
        """
        sharding, self._sharding, self._is_gathered = self._sharding, None, False
        if sharding is not None and error is None:
            sharding.is_running = False
            if module is not None and self.launcher is not None and not self.launcher.takes_part:
                make_whole(module)
        super().teardown(error=error)


@lru_cache(maxsize=8)
def _mesh(world: Any, kind: str, sizes: tuple[int, ...], names: tuple[str, ...]) -> DeviceMesh:
    """The mesh of a process group; all Trainers share one, because every new mesh opens connections that stay open."""
    return init_device_mesh(kind, sizes, mesh_dim_names=names)


def _kind(sharding_strategy: Any) -> tuple[bool, bool]:
    name = getattr(sharding_strategy, "name", sharding_strategy)
    if name == "NO_SHARD":
        raise MisconfigurationException("sharding_strategy='NO_SHARD' divides nothing; write strategy='ddp'.")
    if name not in KINDS:
        raise MisconfigurationException(f"sharding_strategy={sharding_strategy!r}: write {', '.join(list(KINDS)[:3])}.")
    return KINDS[name]


def _precision_policy(precision: str) -> MixedPrecisionPolicy:
    """Sum the gradients of 16-bit models in float32: a sum in 16 bits loses bits with every process."""
    sums_in_full = precision in ("16-true", "bf16-true")
    return MixedPrecisionPolicy(reduce_dtype=torch.float32) if sums_in_full else MixedPrecisionPolicy()


def _move_own_tensors(module: Module, device: torch.device) -> None:
    """Move tensors that are neither parameters nor buffers, those of metrics for example; FSDP leaves them.

    A submodule with such tensors overrides ``_apply`` to move them; PyTorch's own modules have none.
    """
    for part in module.modules():
        if not type(part)._apply.__module__.startswith("torch."):
            part.to(device)

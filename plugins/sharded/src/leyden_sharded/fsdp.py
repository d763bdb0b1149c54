"""FSDPStrategy: parameters, gradients and optimizer states divided among the processes by ``fully_shard``."""

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

from leyden.checkpoint.contents import OWN_KEY
from leyden.interfaces.precision import Precision
from leyden.utilities.empty_init import EmptyInit
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.overriding import is_overridden
from leyden.utilities.rank_zero import rank_zero_info, rank_zero_warn
from leyden_sharded import gradients
from leyden_sharded.checkpoints import ShardedCheckpoints
from leyden_sharded.clipping import clip_gradients
from leyden_sharded.initial import materialise, refuse_unset, take_from_rank_zero
from leyden_sharded.sharding import Sharding, checkpoint_activations, explaining, make_whole, shard
from leyden_sharded.units import Policy, units

# whether there are replicas, and whether parameters are divided again after the forward pass
KINDS = {
    "FULL_SHARD": (False, True),
    "SHARD_GRAD_OP": (False, False),
    "HYBRID_SHARD": (True, True),
    "_HYBRID_SHARD_ZERO2": (True, False),
}
_SHARDING = "_leyden_sharding"  # the module's attribute that keeps it divided from one run to the next


class FSDPStrategy(ShardedCheckpoints):
    """Each process keeps a part of the parameters, their gradients and the optimizer's state.

    Parameters are gathered unit by unit when they are needed, and gradients are averaged to the process that keeps
    the part (ZeRO stages 2 and 3, Rajbhandari et al., 2020). After a run the module stays divided: ``validate``,
    ``test``, ``predict``, ``save_checkpoint`` and another ``fit`` go on with it; for a whole one load a checkpoint.

    Args:
        auto_wrap_policy: Which submodules are units, gathered at once: a set of classes, the least number of
            parameters of a unit, or a function as in ``torch.distributed.fsdp.wrap``. None makes the whole module one
            unit. Modules that ``configure_model`` gave to ``fully_shard`` are units, and then there is no policy.
        activation_checkpointing_policy: Of which submodules what is within them is computed again in the backward
            pass instead of being kept; the same kinds of value.
        cpu_offload: Keep parameters, gradients and optimizer state on the host; True, or a ``CPUOffloadPolicy``.
        mixed_precision: In which formats parameters are gathered and gradients are summed, instead of what follows
            from the Trainer's ``precision``.
        sharding_strategy: "FULL_SHARD" divides parameters again after the forward pass (stage 3), "SHARD_GRAD_OP"
            after the backward pass (stage 2); "HYBRID_SHARD" divides among the processes of a node and keeps
            replicas on the others.
        state_dict_type: "full" or "sharded" checkpoints, see :class:`ShardedCheckpoints`.
        device_mesh: For "HYBRID_SHARD": (replicas, parts), or a mesh of these two dimensions.
        async_save: Write sharded checkpoints in the background.
        process_group_backend: See :class:`ParallelStrategy`, and for ``timeout``, ``start_method`` and
            ``uneven_inputs`` too.
        timeout: How long the processes wait for each other.
        start_method: How the processes of a node start.
        uneven_inputs: What to do when the ranks have different numbers of training batches.
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
        units(Module(), auto_wrap_policy, "auto_wrap_policy")  # a wrong one is said before processes start
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
        """Refuse a mesh that does not fit the processes, and what offloading can't do."""
        super().connect()
        sizes, names = self._mesh_dimensions()
        if math.prod(sizes) != self.world_size:
            raise MisconfigurationException(
                f"The mesh of {' × '.join(f'{size} ({name})' for size, name in zip(sizes, names, strict=True))} has "
                f"{math.prod(sizes)} places, but devices and num_nodes make {self.world_size} processes."
            )
        if self.cpu_offload and getattr(self.precision, "scaler", None) and self.root_device.type != "cpu":
            raise MisconfigurationException(
                f"precision={self.precision.precision!r} scales gradients on the device, and cpu_offload keeps them on "
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
        """The accelerator's; for offloading one of the host beside it."""
        backend = super().process_group_backend
        kind = self.root_device.type
        return f"cpu:gloo,{kind}:{backend}" if self.cpu_offload and kind != "cpu" and ":" not in backend else backend

    def setup_environment(self) -> None:
        """Meet the other processes and lay out the mesh."""
        super().setup_environment()
        if self._mesh is None:
            self._mesh = _mesh(dist.group.WORLD, self.root_device.type, *self._mesh_dimensions())

    @property
    def device_mesh(self) -> DeviceMesh:
        """The mesh of all processes; ``configure_model`` finds it as ``self.device_mesh``.

        Raises:
            RuntimeError: The processes have not met yet.
        """
        if self._mesh is None:
            raise RuntimeError("There is no device mesh before the processes have met: ask for it in configure_model.")
        return self._mesh

    @property
    def _sharding_mesh(self) -> DeviceMesh | None:
        """The mesh among which parameters are divided; None where they are not."""
        return self.device_mesh

    # -- the module ----------------------------------------------------------------------------------------------

    @contextmanager
    def module_init_context(self, empty_init: bool | None = None) -> Generator[None, None, None]:
        """Context in which modules are built: on the host, or on the meta device with ``empty_init=True``."""
        is_parent = self.launcher is not None and not self.launcher.takes_part and not dist.is_initialized()
        empty = EmptyInit() if is_parent else torch.device("meta")  # the parent takes over the values of whole tensors
        with empty if empty_init else nullcontext(), self.precision.module_init_context():
            yield

    def setup_module(self, module: Module, training: bool = True) -> None:
        """Divide the module, unless an earlier run has, and give it the values of rank 0 or of a checkpoint."""
        self.precision.convert_module(module)
        self._module = module
        known = module.__dict__.get(_SHARDING)
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
                rank_zero_warn("auto_wrap_policy is not used: configure_model has divided the module already.")
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
        """Refuse an optimizer of parameters that the module has no more."""
        known = set(self._module.parameters())
        for optimizer in optimizers:
            if any(p not in known for group in optimizer.param_groups for p in group["params"]):
                raise MisconfigurationException(
                    f"The {type(optimizer).__name__} has parameters that are none of the divided module's; make it in "
                    "configure_optimizers, from self.parameters()."
                )
        return optimizers

    def step_function(self, module: Module, name: str) -> Callable[..., Any]:
        """A step runs as one forward pass of what gathers the parameters."""
        step = super().step_function(module, name)

        def run(*args: Any, **kwargs: Any) -> Any:
            redirect = self._sharding.redirect if self._sharding is not None else None
            if redirect is None:
                return step(*args, **kwargs)
            output = redirect(name, self._wait_for_others(name), *args, **kwargs)
            if self.trace is not None and torch.is_grad_enabled():
                self.trace.enter("gradients")
            return output

        return explaining(run)

    def _wait_for_others(self, name: str) -> Callable[[], None]:
        """Tell the watch that this rank is about to wait for the others; returns what tells it that they have come."""
        watch = self.watch
        if watch is None or self._is_gathered:
            return lambda: None
        watch.enter(name)
        if self.trace is not None:
            self.trace.enter(name)
        return watch.leave_collective

    def no_sync(self) -> AbstractContextManager[Any]:
        """Gradients of backward passes within stay whole and on their process, to be exchanged with later ones."""
        return self._sharding.no_sync() if self._sharding is not None else super().no_sync()

    def clip_gradients(self, parameters: Iterable[Tensor], clip_val: float, algorithm: str) -> Tensor | None:
        """Clip gradients that are divided among the processes, unless the precision has its own way."""
        if is_overridden("clip_gradients", self.precision, Precision):
            return super().clip_gradients(parameters, clip_val, algorithm)
        return clip_gradients(parameters, clip_val, algorithm)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Let go of whole parameters that a forward pass without a backward pass left, which are about to be old."""
        if self._sharding is not None:
            self._sharding.divide()

    # -- gradients of a run that goes on -------------------------------------------------------------------------

    def _add_gradients(self, ranks: list[Any], in_shards: bool) -> dict[str, Tensor]:
        return gradients.add(self, self._module, self._module.__dict__.get(_SHARDING), ranks, in_shards)

    def load_checkpoint(self, path: str, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint of either kind, and keep the gradients of this process for when training begins."""
        checkpoint = super().load_checkpoint(path, weights_only)
        ranks = checkpoint.get(OWN_KEY, {}).get("ranks", [])
        self._gradients = {}
        if len(ranks) == self.world_size:
            own = ranks[self.global_rank]
            self._gradients, own["gradients"] = own["gradients"], {}
        return checkpoint

    def on_train_start(self) -> None:
        """Put back the gradients to which the first batch adds."""
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
        """Where the processes have different numbers of batches, gather all parameters: then none waits for another."""
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
                f"The processes have {' and '.join(str(sum(count)) for count in counts)} {what} batches, so each of "
                "them keeps all parameters in such an evaluation: gathered in every batch they would need every "
                f"process. Where memory does not allow it, limit the number of {what} batches to one that all have."
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
        """Leave the module divided on its device; made whole where its process ends with the run."""
        sharding, self._sharding, self._is_gathered = self._sharding, None, False
        if sharding is not None and error is None:
            sharding.is_running = False
            if module is not None and self.launcher is not None and not self.launcher.takes_part:
                make_whole(module)
        super().teardown(error=error)


@lru_cache(maxsize=8)
def _mesh(world: Any, kind: str, sizes: tuple[int, ...], names: tuple[str, ...]) -> DeviceMesh:
    """The mesh of a process group, one for all Trainers, since each new one opens connections that stay open."""
    return init_device_mesh(kind, sizes, mesh_dim_names=names)


def _kind(sharding_strategy: Any) -> tuple[bool, bool]:
    name = getattr(sharding_strategy, "name", sharding_strategy)
    if name == "NO_SHARD":
        raise MisconfigurationException("sharding_strategy='NO_SHARD' divides nothing; write strategy='ddp'.")
    if name not in KINDS:
        raise MisconfigurationException(f"sharding_strategy={sharding_strategy!r}: write {', '.join(list(KINDS)[:3])}.")
    return KINDS[name]


def _precision_policy(precision: str) -> MixedPrecisionPolicy:
    """Sums of 16-bit gradients lose bits with every process, so they are made in float32; autocast needs nothing."""
    sums_in_full = precision in ("16-true", "bf16-true")
    return MixedPrecisionPolicy(reduce_dtype=torch.float32) if sums_in_full else MixedPrecisionPolicy()


def _move_own_tensors(module: Module, device: torch.device) -> None:
    """Move what dividing the module does not: tensors that are neither parameters nor buffers, of metrics for example.

    A part that has such tensors moves them by an ``_apply`` of its own; PyTorch's own parts have none.
    """
    for part in module.modules():
        if not type(part)._apply.__module__.startswith("torch."):
            part.to(device)

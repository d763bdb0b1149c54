"""ModelParallelStrategy: tensor parallelism, written in ``configure_model``, combined with data parallelism."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal

from torch.distributed.device_mesh import DeviceMesh

from leyden.utilities.exceptions import MisconfigurationException
from leyden_sharded.fsdp import FSDPStrategy


class ModelParallelStrategy(FSDPStrategy):
    """Processes in two dimensions; those of a tensor-parallel group share the work on the same batch.

    ``configure_model`` divides the layers, for example by
    ``parallelize_module(part, self.device_mesh["tensor_parallel"], plan)``. If there are several groups, FSDP divides
    everything that ``configure_model`` has not given to ``fully_shard`` among ``self.device_mesh["data_parallel"]``.
    Each group gets its own part of the data.

    Args:
        data_parallel_size: The number of groups that get different data; "auto" is the number of nodes.
        tensor_parallel_size: The number of processes in a group; "auto" is the number of devices of a node.
        save_distributed_checkpoint: Whether checkpoints are sharded, and not full.
        process_group_backend: See :class:`ParallelStrategy`.
        timeout: How long the processes wait for each other.
        options: As those of :class:`FSDPStrategy`: ``auto_wrap_policy``, ``activation_checkpointing_policy``, …

    Example::

        def configure_model(self):
            parallelize_module(self.mlp, self.device_mesh["tensor_parallel"],
                               {"up": ColwiseParallel(), "down": RowwiseParallel()})
    """

    strategy_name = "model_parallel"
    start_methods = ("popen",)  # the others run configure_model in the parent process too, which has no mesh

    def __init__(
        self,
        data_parallel_size: Literal["auto"] | int = "auto",
        tensor_parallel_size: Literal["auto"] | int = "auto",
        save_distributed_checkpoint: bool = True,
        process_group_backend: str | None = None,
        timeout: timedelta | None = None,
        **options: Any,
    ) -> None:
        for name, size in (("data_parallel_size", data_parallel_size), ("tensor_parallel_size", tensor_parallel_size)):
            if size != "auto" and (not isinstance(size, int) or size < 1):
                raise MisconfigurationException(f'{name}={size!r}: write a number from 1, or "auto".')
        options.setdefault("state_dict_type", "sharded" if save_distributed_checkpoint else "full")
        super().__init__(process_group_backend=process_group_backend, timeout=timeout, **options)
        self._data_parallel_size, self._tensor_parallel_size = data_parallel_size, tensor_parallel_size

    def connect(self) -> None:
        """Refuse a precision with a loss scaler, which can't read gradients that are divided in different ways."""
        super().connect()
        if getattr(self.precision, "scaler", None) and self._mesh_dimensions()[0][1] > 1:
            raise MisconfigurationException(
                f"precision={self.precision.precision!r} scales gradients, but tensor parallelism divides them in "
                "different ways, which the scaler can't read; write 'bf16-mixed'."
            )

    def _mesh_dimensions(self) -> tuple[tuple[int, ...], tuple[str, ...]]:
        data = self.num_nodes if self._data_parallel_size == "auto" else self._data_parallel_size
        tensor = self.num_processes if self._tensor_parallel_size == "auto" else self._tensor_parallel_size
        return (data, tensor), ("data_parallel", "tensor_parallel")

    @property
    def sampler_arguments(self) -> dict[str, int] | None:
        """The number of tensor-parallel groups, among which the data are divided, and the number of this one."""
        groups, size = self._mesh_dimensions()[0]
        return {"num_replicas": groups, "rank": self.global_rank // size}

    @property
    def _sharding_mesh(self) -> DeviceMesh | None:
        return self.device_mesh["data_parallel"] if self._mesh_dimensions()[0][0] > 1 else None

    @property
    def batchnorm_group(self) -> Any:
        """The processes that get different data."""
        return self.device_mesh["data_parallel"].get_group()

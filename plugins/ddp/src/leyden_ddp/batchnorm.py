"""Batch normalisation over the batches of all processes, on every device whose backend can gather and sum."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import Function, once_differentiable
from torch.nn import Module, SyncBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm


class SynchronisedBatchNorm(_BatchNorm):
    """What ``BatchNorm1d``, ``2d`` and ``3d`` compute, with mean and variance over the batches of all processes.

    ``torch.nn.SyncBatchNorm`` needs the kernels of a GPU. This module uses ordinary operations: one all-gather in the
    forward pass and one all-reduce in the backward pass, both of 2 × features + 1 numbers. The batches of the processes
    may have different sizes, and some may be empty. In evaluation mode, and in a single process, it is plain batch
    normalisation. Its state dict is that of a ``BatchNorm``.

    Args:
        num_features: The number of channels C of an input (N, C) or (N, C, …); all arguments are those of
            ``BatchNorm1d``.

    Attributes:
        process_group: The processes over whose batches it normalises; None for all.
        is_apart: Whether a run of one process is under way, in which all modules are plain batch normalisation although
            the processes of an earlier run are still connected.
    """

    process_group: Any = None
    is_apart: ClassVar[bool] = False

    def forward(self, input: Tensor) -> Tensor:
        """Normalise a batch (N, C) or (N, C, …); in training mode all processes of the group must call this together.

        Raises:
            ValueError: The input has no channel dimension, or the batches of all processes have together only one
                value, or none, for each channel.
        """
        alone = not dist.is_available() or not dist.is_initialized() or dist.get_world_size(self.process_group) == 1
        if alone or self.is_apart or not self.training:
            output: Tensor = super().forward(input)
            return output
        self._check_input_dim(input)
        wide = input.to(torch.promote_types(input.dtype, torch.float32))  # sums in 16 bits would lose too much
        mean, variance, count = self._moments(wide)
        if self.track_running_stats:
            self._track(mean.detach(), variance.detach() * (count / (count - 1)))
        shape = [1, -1] + [1] * (input.dim() - 2)
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        normalised = (wide - mean.view(shape)) * scale.view(shape)
        if self.bias is not None:
            normalised = normalised + self.bias.view(shape)
        return normalised.to(input.dtype)

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (C), biased variance (C) and number of values of a channel (1), over all processes.

        The moments of the batches are combined as in Chan et al., 1979, because differences of sums of squares lose
        digits.
        """
        dimensions = [0, *range(2, x.dim())]
        count = x.numel() // x.size(1)
        own_mean = x.sum(dimensions) / max(count, 1)
        own_squares = (x - own_mean.view([1, -1] + [1] * (x.dim() - 2))).square().sum(dimensions)
        own = torch.cat([own_mean, own_squares, own_mean.new_tensor([count])])
        gathered: Any = _Gather.apply(own, self.process_group)  # type: ignore[no-untyped-call]
        means, squares, counts = gathered.split([x.size(1), x.size(1), 1], dim=1)
        total = counts.sum(0)
        if count < 2 and total <= 1:  # a count of 2 is enough, and saves reading the total
            raise ValueError(
                f"Batch normalisation needs more than 1 value for each channel, but the batches of all processes have "
                f"{int(total)} together; this one's has the shape {tuple(x.shape)}. Take larger batches."
            )
        mean = (counts * means).sum(0) / total
        variance = (squares + counts * (means - mean).square()).sum(0) / total
        return mean, variance, total

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        factor = self.momentum
        if factor is None:
            factor = 1.0 / float(self.num_batches_tracked)  # type: ignore[arg-type]
        for running, new in ((self.running_mean, mean), (self.running_var, variance)):
            if running is not None:
                running.lerp_(new.to(running.dtype), factor)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(
                f"Batch normalisation takes an input (N, C) or (N, C, …), but this one has the shape "
                f"{tuple(input.shape)}."
            )


class _Gather(Function):
    """Stacks the vectors of all processes; backward adds up their gradients, as every loss depends on every vector."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, group: Any) -> Tensor:
        ctx.group = group
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, own.contiguous(), group=group)
        return torch.stack(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total[dist.get_rank(ctx.group)], None


def synchronise_batchnorm(module: Module, device: torch.device, group: Any = None) -> Module:
    """Replace batch normalisation by one that normalises over the batches of all processes.

    Args:
        module: The module, whose submodules are replaced in place. Parameters and buffers stay the same objects.
        device: Where the module will run. On CUDA the replacement is PyTorch's own ``SyncBatchNorm``.
        group: The processes over whose batches to normalise; None for all.

    Returns:
        ``module``, or its replacement if it is batch normalisation itself.
    """
    kind: type[_BatchNorm] = SyncBatchNorm if device.type == "cuda" else SynchronisedBatchNorm
    replaced: dict[_BatchNorm, Module] = {}  # a module that is used in two places stays one module
    for path, part in list(module.named_modules(remove_duplicate=False)):
        if not isinstance(part, _BatchNorm) or isinstance(part, kind):
            continue
        if part not in replaced:
            replaced[part] = _pytorchs(part, group) if kind is SyncBatchNorm else _ours(part, group)
        if not path:
            return replaced[part]
        module.set_submodule(path, replaced[part])
    return module


def _pytorchs(part: _BatchNorm, group: Any) -> Module:
    converted: Module = SyncBatchNorm.convert_sync_batchnorm(part, group)
    return converted


def _ours(part: _BatchNorm, group: Any) -> Module:
    converted = SynchronisedBatchNorm.__new__(SynchronisedBatchNorm)
    converted.__dict__.update(part.__dict__)  # with hooks and other attributes that have been set
    if group is not None:
        converted.process_group = group
    return converted

"""Batch normalisation over the batches of all processes, on any device whose backend can gather and sum."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import Function, once_differentiable
from torch.nn import Module, SyncBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm


class SynchronisedBatchNorm(_BatchNorm):
    """What ``BatchNorm1d``, ``2d`` and ``3d`` compute, with mean and variance over the batches of all processes.

    ``torch.nn.SyncBatchNorm`` does so by kernels of a GPU; this module is made of ordinary operations, one gathering
    in the forward pass and one sum in the backward pass, both of 2 × features + 1 numbers. Batches may have different
    sizes, and none of them needs a sample. In evaluation mode, and in a single process, it is plain batch
    normalisation; the state dict is that of a ``BatchNorm`` in any case.

    Args:
        num_features: Channels C of an input (N, C) or (N, C, …); and the others as those of ``BatchNorm1d``.

    Attributes:
        process_group: The processes over whose batches it normalises; None for all.
    """

    process_group: Any = None

    def forward(self, input: Tensor) -> Tensor:
        """Normalise a batch (N, C) or (N, C, …); all processes of the group must do so at once in training mode.

        Raises:
            ValueError: The input has no dimension of channels, or the batches of all processes have together no more
                than one value for each channel.
        """
        alone = not dist.is_available() or not dist.is_initialized() or dist.get_world_size(self.process_group) == 1
        if alone or not self.training:
            output: Tensor = super().forward(input)
            return output
        self._check_input_dim(input)
        wide = input.to(torch.promote_types(input.dtype, torch.float32))  # 16 bits are too few for sums
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
        """Mean (C), biased variance (C) and number of values of a channel (1), of all processes.

        The moments of the parts are put together as in Chan et al., 1979: sums of squares would cancel.
        """
        dimensions = [0, *range(2, x.dim())]
        count = x.numel() // x.size(1)
        own_mean = x.sum(dimensions) / max(count, 1)
        own_squares = (x - own_mean.view([1, -1] + [1] * (x.dim() - 2))).square().sum(dimensions)
        own = torch.cat([own_mean, own_squares, own_mean.new_tensor([count])])
        gathered: Any = _Gather.apply(own, self.process_group)  # type: ignore[no-untyped-call]
        means, squares, counts = gathered.split([x.size(1), x.size(1), 1], dim=1)
        total = counts.sum(0)
        if count < 2 and total <= 1:  # others may have more, but then none of them looks
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
    """Stacks a vector of each process; the loss of every process depends on each of them."""

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
    """Replace batch normalisation by the one that sees the batches of all processes; what is so already stays.

    Args:
        module: Its submodules are replaced in place; parameters and buffers remain the objects that they were.
        device: Where it will run: PyTorch's own ``SyncBatchNorm`` is taken where that has kernels.
        group: The processes whose batches count; None for all.

    Returns:
        ``module``, or what replaces it if it is batch normalisation itself.
    """
    kind: type[_BatchNorm] = SyncBatchNorm if device.type == "cuda" else SynchronisedBatchNorm
    replaced: dict[_BatchNorm, Module] = {}  # one that is used in two places stays one
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
    converted.__dict__.update(part.__dict__)  # with hooks, and whatever else has been set
    if group is not None:
        converted.process_group = group
    return converted

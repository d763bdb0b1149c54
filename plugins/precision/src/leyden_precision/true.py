"""The "true" precisions: weights, buffers and batches are cast to one dtype, and new tensors have it too."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.parameter import is_lazy

from leyden.plugins import Precision
from leyden.utilities.batch import map_collection


class _TruePrecision(Precision):
    """Base class; casts floating-point tensors only, so complex tensors keep their dtype."""

    dtype: torch.dtype
    # Unlike Module.to(dtype), these methods leave the states of torchmetrics in float32, where they do not overflow.
    _casts: ClassVar[dict[torch.dtype, Callable[[Module], Module]]] = {
        torch.float16: Module.half,
        torch.bfloat16: Module.bfloat16,
        torch.float64: Module.double,
    }

    def module_init_context(self) -> AbstractContextManager[None]:
        """Return a context in which new modules have the dtype, so that they need no cast afterwards."""
        return default_dtype(self.dtype)

    def convert_module(self, module: Module) -> Module:
        """Cast the module's parameters and buffers; those of lazy modules get the dtype that they will have."""
        places: list[Any] = [of for part in module.modules() for of in (part._parameters, part._buffers)]
        lazy = [(of, name, tensor) for of in places for name, tensor in of.items() if is_lazy(tensor)]
        for of, name, _ in lazy:
            of[name] = None  # PyTorch can't cast what has no shape to bfloat16 by Module.bfloat16
        try:
            return self._casts[self.dtype](module)
        finally:
            for of, name, tensor in lazy:
                tensor.data = tensor.data.to(self.dtype)
                of[name] = tensor

    def convert_input(self, data: Any) -> Any:
        """Cast the tensors of a batch."""
        if isinstance(data, Tensor):
            return data.to(self.dtype) if data.is_floating_point() else data
        return map_collection(data, self.convert_input)

    def forward_context(self) -> AbstractContextManager[None]:
        """Return the context for the steps, in which new tensors have the dtype."""
        return default_dtype(self.dtype)


class HalfPrecision(_TruePrecision):
    """Computes and stores everything in 16 bits, which needs half the memory of float32.

    There is no float32 copy of the weights, so small updates are lost; "bf16-mixed" keeps them.

    Args:
        precision: "16-true" (float16) or "bf16-true" (bfloat16).

    Raises:
        ValueError: ``precision`` has another value.

    Example::

        trainer = Trainer(precision="bf16-true")
    """

    def __init__(self, precision: str = "16-true") -> None:
        dtypes = {"16-true": torch.float16, "bf16-true": torch.bfloat16}
        if precision not in dtypes:
            raise ValueError(f"HalfPrecision({precision!r}) is not known; write '16-true' or 'bf16-true'.")
        self.precision, self.dtype = precision, dtypes[precision]


class DoublePrecision(_TruePrecision):
    """Computes and stores everything in float64.

    Example::

        trainer = Trainer(precision="64-true")
    """

    precision = "64-true"
    dtype = torch.float64


@contextmanager
def default_dtype(dtype: torch.dtype) -> Generator[None, None, None]:
    """Set PyTorch's default dtype in the block, which new floating-point tensors have."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)

"""One number format for everything: weights, buffers and batches are cast to it, and new tensors have it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import Module

from leyden.plugins import Precision
from leyden.utilities.batch import map_collection


class _TruePrecision(Precision):
    """What the formats share; floating-point tensors alone are cast, so complex numbers stay as they are."""

    dtype: torch.dtype
    # Not Module.to(dtype): these leave the sums of torchmetrics objects in float32, where they do not overflow.
    _casts: ClassVar[dict[torch.dtype, Callable[[Module], Module]]] = {
        torch.float16: Module.half,
        torch.bfloat16: Module.bfloat16,
        torch.float64: Module.double,
    }

    def module_init_context(self) -> AbstractContextManager[None]:
        """Context in which modules are built in the format, with no cast afterwards."""
        return default_dtype(self.dtype)

    def convert_module(self, module: Module) -> Module:
        """Cast parameters and buffers."""
        return self._casts[self.dtype](module)

    def convert_input(self, data: Any) -> Any:
        """Cast the tensors of a batch."""
        if isinstance(data, Tensor):
            return data.to(self.dtype) if data.is_floating_point() else data
        return map_collection(data, self.convert_input)

    def forward_context(self) -> AbstractContextManager[None]:
        """Context of the steps, in which new tensors have the format."""
        return default_dtype(self.dtype)


class HalfPrecision(_TruePrecision):
    """Everything in 16 bits: half the memory of float32, and no float32 copy of the weights.

    Small updates are lost in so few bits; "bf16-mixed" keeps them.

    Args:
        precision: "16-true" (float16) or "bf16-true" (bfloat16).

    Raises:
        ValueError: ``precision`` is neither.

    Example::

        trainer = Trainer(precision="bf16-true")
    """

    def __init__(self, precision: str = "16-true") -> None:
        dtypes = {"16-true": torch.float16, "bf16-true": torch.bfloat16}
        if precision not in dtypes:
            raise ValueError(f"HalfPrecision({precision!r}) is not known; write '16-true' or 'bf16-true'.")
        self.precision, self.dtype = precision, dtypes[precision]


class DoublePrecision(_TruePrecision):
    """Everything in float64.

    Example::

        trainer = Trainer(precision="64-true")
    """

    precision = "64-true"
    dtype = torch.float64


@contextmanager
def default_dtype(dtype: torch.dtype) -> Generator[None, None, None]:
    """A block in which floating-point tensors are made in ``dtype`` unless their maker says otherwise."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)

"""What leyden-cuda brings to Leyden."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """CUDA devices, and the search for free ones."""
    options = {"priority": 100, "aliases": ["gpu", "CUDAAccelerator"]}
    yield Component("accelerator", "cuda", "leyden_cuda.accelerator:CUDAAccelerator", options)
    finding = "find_usable_cuda_devices"
    yield Component("accelerator_function", finding, f"leyden_cuda.devices:{finding}")

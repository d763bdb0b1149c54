"""The plugin's hooks: the CUDA accelerator and ``find_usable_cuda_devices``."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide the accelerator, and the function that finds free GPUs."""
    options = {"priority": 100, "aliases": ["gpu", "CUDAAccelerator"]}
    yield Component("accelerator", "cuda", "leyden_cuda.accelerator:CUDAAccelerator", options)
    finding = "find_usable_cuda_devices"
    yield Component("accelerator_function", finding, f"leyden_cuda.devices:{finding}")

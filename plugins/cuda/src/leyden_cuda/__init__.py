"""NVIDIA's GPUs, and AMD's under ROCm, which PyTorch calls "cuda" too, as an accelerator of Leyden."""

from leyden_cuda.devices import find_usable_cuda_devices

__all__ = ["find_usable_cuda_devices"]

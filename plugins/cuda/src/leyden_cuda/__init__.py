"""The CUDA accelerator of Leyden, for NVIDIA GPUs and, with ROCm, AMD GPUs, which PyTorch calls "cuda" too."""

from leyden_cuda.devices import find_usable_cuda_devices

__all__ = ["find_usable_cuda_devices"]

"""The CUDA accelerator: what is special about CUDA compared with PyTorch's other devices."""

from __future__ import annotations

import os
from functools import cache

import torch

from leyden.accelerators import Accelerator
from leyden.utilities.rank_zero import rank_zero_info, rank_zero_warn

AMPERE = 8  # major compute capability of the first GPUs with bfloat16 arithmetic and TF32


class CUDAAccelerator(Accelerator):
    """NVIDIA GPUs or, with ROCm, AMD GPUs.

    Example::

        trainer = Trainer(accelerator="cuda", devices=[0, 2])
    """

    device_type = "cuda"

    @classmethod
    def is_available(cls) -> bool:
        """Whether a GPU is visible. Does not initialize CUDA, since a process that has done so can't be forked."""
        return cls.auto_device_count() > 0

    def set_options(self, deterministic: bool, benchmark: bool | None) -> None:
        """Make cuBLAS deterministic if asked, and set whether cuDNN chooses algorithms by timing them.

        Args:
            deterministic: Whether the same input must give the same bits in every run.
            benchmark: Whether cuDNN times its algorithms. None leaves cuDNN's setting, but turns it off if
                ``deterministic``.
        """
        if deterministic:
            # cuBLAS reads this variable when it starts; without it, deterministic matrix products raise an error
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            if benchmark:
                rank_zero_warn(
                    "benchmark=True lets cuDNN choose algorithms by timing them, so runs differ although "
                    "deterministic is set; leave benchmark out."
                )
            benchmark = bool(benchmark)
        if benchmark is not None:
            torch.backends.cudnn.benchmark = benchmark

    def setup_device(self, device: torch.device) -> None:
        """Make ``device`` current; log once if float32 matrix products could be faster.

        Raises:
            MisconfigurationException: ``device`` is not a CUDA device.
        """
        super().setup_device(device)
        _suggest_matmul_precision(device)

    def supports_precision(self, precision: str) -> bool:
        """Whether a visible GPU supports ``precision``; GPUs before Ampere only emulate bfloat16, which is slow."""
        if not precision.startswith("bf16") or torch.version.hip is not None:
            return True
        count = self.auto_device_count()
        return any(torch.cuda.get_device_capability(index)[0] >= AMPERE for index in range(count))


@cache
def _suggest_matmul_precision(device: torch.device) -> None:
    if torch.cuda.get_device_capability(device)[0] < AMPERE or torch.get_float32_matmul_precision() != "highest":
        return
    rank_zero_info(
        f"{torch.cuda.get_device_name(device)} ({device}) has tensor cores, which float32 matrix products use only "
        "if you allow it: torch.set_float32_matmul_precision('high') is faster and a little less exact."
    )

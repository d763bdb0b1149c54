"""CUDA: what PyTorch's generic device module does not say about it."""

from __future__ import annotations

import os
from functools import cache

import torch

from leyden.accelerators import Accelerator
from leyden.utilities.rank_zero import rank_zero_info, rank_zero_warn

AMPERE = 8  # major compute capability of the first GPUs with bfloat16 arithmetic and TF32


class CUDAAccelerator(Accelerator):
    """NVIDIA GPUs, or AMD's under ROCm.

    Example::

        trainer = Trainer(accelerator="cuda", devices=[0, 2])
    """

    device_type = "cuda"

    @classmethod
    def is_available(cls) -> bool:
        """Whether a GPU is visible, asked without starting CUDA, which would forbid to fork afterwards."""
        return cls.auto_device_count() > 0

    def set_options(self, deterministic: bool, benchmark: bool | None) -> None:
        """Set what determinism needs of cuBLAS, and whether cuDNN chooses its algorithms by timing them.

        Args:
            deterministic: Whether the same input must give the same bits in every run.
            benchmark: Whether cuDNN times its algorithms; None leaves its setting, or turns it off for determinism.
        """
        if deterministic:
            # cuBLAS reads it when its first handle is made; without it deterministic matrix products raise.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            if benchmark:
                rank_zero_warn(
                    "benchmark=True lets cuDNN choose algorithms by timing them, so that runs differ although "
                    "deterministic is set; leave benchmark out."
                )
            benchmark = bool(benchmark)
        if benchmark is not None:
            torch.backends.cudnn.benchmark = benchmark

    def setup_device(self, device: torch.device) -> None:
        """Make ``device`` current, and say once where float32 matrix products leave speed unused.

        Raises:
            MisconfigurationException: If ``device`` is not a CUDA device.
        """
        super().setup_device(device)
        _suggest_matmul_precision(device)

    def supports_precision(self, precision: str) -> bool:
        """Whether a visible GPU computes in ``precision``: bfloat16 is emulated, slowly, before Ampere."""
        if not precision.startswith("bf16") or torch.version.hip is not None:
            return True
        count = self.auto_device_count()
        return any(torch.cuda.get_device_capability(index)[0] >= AMPERE for index in range(count))


@cache
def _suggest_matmul_precision(device: torch.device) -> None:
    if torch.cuda.get_device_capability(device)[0] < AMPERE or torch.get_float32_matmul_precision() != "highest":
        return
    rank_zero_info(
        f"{torch.cuda.get_device_name(device)} ({device}) has tensor cores that float32 matrix products do not use "
        "unless you allow it: torch.set_float32_matmul_precision('high') is faster and a little less exact."
    )

"""Each test process has one thread and sees no device except the CPU."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
# The kit forks processes, which PyTorch does not allow after a backward pass if it has found another device.
os.environ.update(TORCH_DEVICE_BACKEND_AUTOLOAD="0", CUDA_VISIBLE_DEVICES="")

"""One thread for each test process, on the processor alone."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
# The kit forks processes, which PyTorch's autograd forbids after a backward pass where it knows another device.
os.environ.update(TORCH_DEVICE_BACKEND_AUTOLOAD="0", CUDA_VISIBLE_DEVICES="")

"""Lets the tests import the module beside them, and the processes that they spawn too; on the processor alone."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
# The kit forks processes, which PyTorch's autograd forbids after a backward pass where it knows another device.
os.environ.update(TORCH_DEVICE_BACKEND_AUTOLOAD="0", CUDA_VISIBLE_DEVICES="")
sys.path.append(str(Path(__file__).parent))

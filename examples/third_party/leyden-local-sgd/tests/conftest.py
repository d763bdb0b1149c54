"""Lets the tests and the processes that they spawn import the module beside them; hides all devices except the CPU."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
# The kit forks processes, which PyTorch does not allow after a backward pass if it has found another device.
os.environ.update(TORCH_DEVICE_BACKEND_AUTOLOAD="0", CUDA_VISIBLE_DEVICES="")
sys.path.append(str(Path(__file__).parent))

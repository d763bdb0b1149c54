"""Lets the tests import the modules beside them, since test modules are imported by path, not as a package."""

import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parent))
torch.set_num_threads(1)

"""Lets the tests import helpers of the core's tests: plugins that are made for one test, a quiet Trainer."""

import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[3] / "core" / "tests"))
torch.set_num_threads(1)

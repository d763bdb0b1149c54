"""Lets the tests import a helper of the core's tests, which makes plugins for one test."""

import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[3] / "core" / "tests"))
torch.set_num_threads(1)

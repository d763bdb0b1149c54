"""Lets the tests import the modules beside them, and what the core's tests share: a run that is killed, for one."""

import sys
from pathlib import Path

import torch

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[3] / "core" / "tests")]
torch.set_num_threads(1)

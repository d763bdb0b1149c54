"""Lets the tests import the modules beside them, and helpers of the core's tests and of leyden-ddp's tests."""

import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[3]
sys.path += [str(path) for path in (Path(__file__).parent, ROOT / "core" / "tests", ROOT / "plugins" / "ddp" / "tests")]
torch.set_num_threads(1)

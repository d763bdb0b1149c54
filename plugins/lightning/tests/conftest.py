"""Lets the tests import what the core's tests share: plugins that are made for one test."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[3] / "core" / "tests"))

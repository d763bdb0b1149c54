"""Lets the scenarios import `parity_harness`: test modules here are imported by path, not as a package."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

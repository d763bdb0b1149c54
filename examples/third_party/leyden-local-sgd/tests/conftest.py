"""Lets the tests import the module beside them, and the processes that they spawn too."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.append(str(Path(__file__).parent))

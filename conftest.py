"""For all tests of the repository: one thread each, so that several of them share a small machine."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

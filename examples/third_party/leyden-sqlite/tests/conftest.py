"""Makes each test process use one thread."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

"""One thread each, as for all tests of the repository."""

import torch

torch.set_num_threads(1)

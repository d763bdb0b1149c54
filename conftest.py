"""For all tests of the repository: one thread each, so that several share a small machine; none leaves a trace."""

import logging
import os
import warnings
from collections.abc import Iterator
from types import ModuleType

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader

from leyden.utilities.rank_zero import rank_zero_only

torch.set_num_threads(1)


@pytest.fixture
def lightning() -> ModuleType:
    """pytorch-lightning, whose import and runs may warn as they like."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pytorch_lightning
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    return pytorch_lightning


@pytest.fixture(autouse=True)
def _a_process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test that trains as another rank, or seeds everything, leaves this process to the next test as it found it.

    `monkeypatch.delenv` alone does not: it does not restore the absence of a variable that was not there.
    """
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    environment = dict(os.environ)
    yield
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
    for cls in (DataLoader, BatchSampler):
        _unwrap(cls)


def _unwrap(cls: type) -> None:
    """Undo what pytorch-lightning does to a class and leaves so where a loader that it asks for raises."""
    for kind in (cls, *cls.__subclasses__()):
        for name in ("__init__", "__setattr__", "__delattr__"):
            if (old := f"__old{name}") in vars(kind):
                setattr(kind, name, vars(kind)[old])
                delattr(kind, old)

"""For all tests of the repository: one thread each, so that several share a small machine; none leaves a trace."""

import os
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader

from leyden.utilities.rank_zero import rank_zero_only

torch.set_num_threads(1)

# Whose tests start processes, kill some, or install packages: what PyTorch, the system and the index do at such moments
# is not always the same (PyTorch's DDP.join hangs now and then in forked processes, a killed worker may be noticed by
# its torn connection). There a test fails if it fails twice in a row, and the summary counts the first time.
OF_PROCESSES = tuple(f"plugins/{name}/" for name in ("ddp", "deepspeed", "fabric", "sharded", "testing"))
OF_PROCESSES += ("tests/packaging/", "tests/third_party/")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have tests of processes run a second time before they fail, where pytest-rerunfailures is installed."""
    if not config.pluginmanager.hasplugin("rerunfailures"):
        return
    for item in items:
        if item.nodeid.startswith(OF_PROCESSES):
            item.add_marker(pytest.mark.flaky(reruns=1))


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

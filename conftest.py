"""For all tests of the repository: one thread each, so that several share a small machine; each starts as rank 0."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from leyden.utilities.rank_zero import rank_zero_only


@pytest.fixture(autouse=True)
def _rank_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that trains as another rank leaves this process to the next test as rank 0."""
    monkeypatch.setattr(rank_zero_only, "rank", 0)

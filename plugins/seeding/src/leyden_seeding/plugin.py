"""What leyden-seeding brings to Leyden."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from typing import Any

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """The way of seeding by sample, for which ``seed_everything`` looks by its name."""
    yield Component("worker_seeding", "sample", "leyden_seeding.samples:SampleSeeded")


@hookimpl(wrapper=True)
def leyden_prepare_loader() -> Generator[None, Any, Any]:
    """Seed by sample, where ``seed_everything(seed, workers="sample")`` was called in this process or its parent."""
    loader = yield
    if os.environ.get("PL_SEED_WORKERS") != "sample":
        return loader
    from leyden_seeding.samples import seeded

    return seeded(loader, int(os.environ["PL_GLOBAL_SEED"]))

"""The plugin of leyden-seeding: provides the way of seeding "sample" and applies it to loaders."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from typing import Any

from leyden import Component, hookimpl
from leyden.utilities.rng import seed_of_environment


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide seeding by sample; ``seed_everything(workers="sample")`` finds it by this name."""
    yield Component("worker_seeding", "sample", "leyden_seeding.samples:SampleSeeded")


@hookimpl(wrapper=True)
def leyden_prepare_loader() -> Generator[None, Any, Any]:
    """Seed by sample if ``seed_everything(seed, workers="sample")`` was called in this process or its parent."""
    loader = yield
    if os.environ.get("PL_SEED_WORKERS") != "sample":
        return loader
    from leyden_seeding.samples import seeded

    return seeded(loader, seed_of_environment())

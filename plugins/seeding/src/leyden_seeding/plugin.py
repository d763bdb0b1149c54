"""The plugin of leyden-seeding: provides the way of seeding "sample" and applies it to loaders."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from typing import Any

from leyden import Component, Trainer, hookimpl
from leyden.utilities.rng import seed_of_environment


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide seeding by sample; ``seed_everything(workers="sample")`` finds it by this name."""
    yield Component("worker_seeding", "sample", "leyden_seeding.samples:SampleSeeded")


@hookimpl
def leyden_iteration() -> type[Any]:
    """Have resumed runs go on in the middle of an epoch without reading what is behind."""
    from leyden_seeding.iterations import PlacedIteration

    return PlacedIteration


@hookimpl(wrapper=True, tryfirst=True)  # so that what keeps the states of workers is what a loader has
def leyden_prepare_loader(owner: Any, training: bool) -> Generator[None, Any, Any]:
    """Seed by sample if ``seed_everything(seed, workers="sample")`` was called; keep what workers draw in a fit."""
    loader = yield
    if os.environ.get("PL_SEED_WORKERS") == "sample":
        from leyden_seeding.samples import seeded

        loader = seeded(loader, seed_of_environment())
    if getattr(loader, "num_workers", 0) and isinstance(owner, Trainer):
        from leyden_seeding.workers import keeping

        loader = keeping(loader, training, owner.global_rank)
    return loader

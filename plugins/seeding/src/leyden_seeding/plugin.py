"""The plugin of leyden-seeding: provides the way of seeding "sample" and applies it to loaders."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from typing import Any

from leyden import Component, Trainer, hookimpl
from leyden.utilities.rng import seed_of_environment


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide ways of seeding; ``seed_everything(workers="sample")`` finds them by name, and True is "rank"."""
    yield Component("worker_seeding", "rank", "leyden_seeding.workers:seeded_by_rank")
    yield Component("worker_seeding", "sample", "leyden_seeding.samples:SampleSeeded")


@hookimpl
def leyden_iteration() -> type[Any]:
    """Have resumed runs go on in the middle of an epoch without reading what is behind."""
    from leyden_seeding.iterations import PlacedIteration

    return PlacedIteration


@hookimpl(wrapper=True, tryfirst=True)  # so that what keeps the states of workers is what a loader has
def leyden_prepare_loader(owner: Any, training: bool) -> Generator[None, Any, Any]:
    """Seed as ``seed_everything(workers=...)`` was told, and keep what workers draw in a fit."""
    loader, way = (yield), os.environ.get("PL_SEED_WORKERS")
    if way == "sample":
        from leyden_seeding.samples import seeded

        loader = seeded(loader, seed_of_environment())
    elif way in ("1", "rank"):
        from leyden_seeding.workers import seeded_by_rank

        loader = seeded_by_rank(loader, owner.global_rank)
    if getattr(loader, "num_workers", 0) and isinstance(owner, Trainer):
        from leyden_seeding.workers import keeping

        loader = keeping(loader, training, owner.global_rank)
    return loader

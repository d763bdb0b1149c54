"""Random states: seeds them, collects them and restores them."""

import os
import random
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, cast

import numpy
import torch

from leyden.utilities.rank_zero import rank_zero_info

MAX_SEED = 2**32 - 1


def seed_everything(seed: int | None = None, workers: bool | str = False, verbose: bool = True) -> int:
    """Seed the random generators of Python, NumPy and PyTorch, on the CPU and every device.

    Args:
        seed: From 0 to 2**32 - 1; by default the environment variable ``PL_GLOBAL_SEED``, or else 0.
        workers: True gives each worker of each loader its own seed, derived from this one. A text names a plugin's way
            of seeding. With "sample" the random numbers that a map-style dataset draws for an item depend only on
            seed, epoch and index, for any number of workers and processes. Both come with leyden-seeding.
        verbose: Whether to log the seed.

    Returns:
        The seed.

    Raises:
        ValueError: The seed is not a number from 0 to 2**32 - 1, or no installed plugin has that way of seeding.
    """
    seed = seed_of_environment() if seed is None else int(seed)
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed={seed} is out of range; write a number from 0 to {MAX_SEED}.")
    if not isinstance(workers, str) and workers not in (True, False):
        raise ValueError(f'workers={workers!r} is not known; write True, False or a name such as "sample".')
    if workers:  # imported only here, since discovery is in a layer above this one
        way = workers if isinstance(workers, str) else "rank"
        import_module("leyden.plugin_system.discovery").discover().component("worker_seeding", way)
    if verbose:
        rank_zero_info(f"Seed set to {seed}")
    os.environ["PL_GLOBAL_SEED"] = str(seed)
    os.environ["PL_SEED_WORKERS"] = workers if isinstance(workers, str) else str(int(workers))
    seed_host(seed)
    torch.manual_seed(seed)
    return seed


def seed_of_environment() -> int:
    """The seed in the environment variable ``PL_GLOBAL_SEED``; 0 where it is not set.

    Raises:
        ValueError: It is not a number from 0 to 2**32 - 1.
    """
    text = os.environ.get("PL_GLOBAL_SEED", "0")
    if not text.isdecimal() or int(text) > MAX_SEED:
        raise ValueError(f"PL_GLOBAL_SEED={text!r} in the environment is no seed; set a number from 0 to {MAX_SEED}.")
    return int(text)


def seed_host(seed: int) -> None:
    """Seed the CPU's generators of Python, NumPy and PyTorch, but not those of other devices."""
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


def collect_rng_states(accelerator: Any = None, device: torch.device | None = None) -> dict[str, Any]:
    """The random states of this process, as plain data."""
    name, keys, position, has_gauss, gauss = cast(Any, numpy.random.get_state())
    states = {
        "python": random.getstate(),
        "torch": torch.get_rng_state(),
        "numpy": (str(name), torch.from_numpy(keys.astype("int64")), int(position), int(has_gauss), float(gauss)),
        "device": accelerator.get_rng_state(device) if accelerator is not None else None,
    }
    return {name: state for name, state in states.items() if state is not None}


def set_rng_states(states: Mapping[str, Any], accelerator: Any = None, device: torch.device | None = None) -> None:
    """Put back what :func:`collect_rng_states` returned."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    torch.set_rng_state(states["torch"])
    name, keys, *rest = states["numpy"]
    numpy.random.set_state((name, keys.numpy().astype("uint32"), *rest))
    if accelerator is not None and "device" in states:
        accelerator.set_rng_state(states["device"], device)


@contextmanager
def isolate_rng(accelerator: Any = None, device: torch.device | None = None) -> Generator[None, None, None]:
    """Restore the random states after the block, whatever the block draws."""
    states = collect_rng_states(accelerator, device)
    try:
        yield
    finally:
        set_rng_states(states, accelerator, device)

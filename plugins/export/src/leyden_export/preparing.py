"""Prepares a module for export: an example input on its device, and evaluation mode."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from leyden import LightningDataModule, LightningModule
from leyden.utilities import MisconfigurationException
from leyden.utilities.objects import is_overridden


def example_call(
    module: LightningModule, method: str, argument: str, given: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return example arguments and keyword arguments for ``forward``, on the module's device.

    Args:
        module: The module.
        method: The method that the user called, for the error text.
        argument: The argument of that method that takes an example, for the error text.
        given: The example: one tensor, a tuple of arguments, or a dict of keyword arguments; None means the module's
            ``example_input_array``.

    Raises:
        MisconfigurationException: There is no example.
    """
    sample = module.example_input_array if given is None else given
    if sample is None:
        raise MisconfigurationException(
            f"{method} needs an example input: give {argument}=..., or set self.example_input_array."
        )
    sample = transferred(module, sample)
    if isinstance(sample, Mapping):
        return (), dict(sample)
    return (tuple(sample) if isinstance(sample, (tuple, list)) else (sample,)), {}


def transferred(module: LightningModule, batch: Any) -> Any:
    """Move a batch to the module's device by the batch transfer hooks of the data module or the module."""
    try:
        datamodule = getattr(module.trainer, "datamodule", None)
    except RuntimeError:  # the module has no Trainer
        datamodule = None

    def hook(name: str) -> Any:
        theirs = datamodule is not None and is_overridden(name, datamodule, LightningDataModule)
        return getattr(datamodule if theirs else module, name)

    batch = hook("on_before_batch_transfer")(batch, 0)
    batch = hook("transfer_batch_to_device")(batch, module.device, 0)
    return hook("on_after_batch_transfer")(batch, 0)


@contextmanager
def evaluating(module: LightningModule) -> Generator[None, None, None]:
    """Run the block without gradients and in evaluation mode; restore each submodule's mode afterwards."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode

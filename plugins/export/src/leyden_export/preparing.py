"""A module made ready for export: an example of its inputs where it is, and evaluation mode."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from leyden import LightningModule
from leyden.mixins.hooks import DataHooks
from leyden.utilities import MisconfigurationException
from leyden.utilities.objects import is_overridden


def example_call(
    module: LightningModule, method: str, argument: str, given: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments and keywords of an example call of ``forward``, where the module is.

    Args:
        module: The module.
        method: What the user called, for the error.
        argument: The argument in which an example can be given, for the error.
        given: The example, one tensor, a tuple of arguments, or a dict of keywords; None is the module's own.

    Raises:
        MisconfigurationException: There is no example.
    """
    sample = module.example_input_array if given is None else given
    if sample is None:
        raise MisconfigurationException(
            f"{method} needs an example of the inputs: give {argument}=..., or set self.example_input_array."
        )
    sample = transferred(module, sample)
    if isinstance(sample, Mapping):
        return (), dict(sample)
    return (tuple(sample) if isinstance(sample, (tuple, list)) else (sample,)), {}


def transferred(module: LightningModule, batch: Any) -> Any:
    """The batch after the hooks of the data module, or of the module, that bring one to the device."""
    try:
        datamodule = getattr(module.trainer, "datamodule", None)
    except RuntimeError:  # no Trainer has it
        datamodule = None

    def hook(name: str) -> Any:
        theirs = datamodule is not None and is_overridden(name, datamodule, DataHooks)
        return getattr(datamodule if theirs else module, name)

    batch = hook("on_before_batch_transfer")(batch, 0)
    batch = hook("transfer_batch_to_device")(batch, module.device, 0)
    return hook("on_after_batch_transfer")(batch, 0)


@contextmanager
def evaluating(module: LightningModule) -> Generator[None, None, None]:
    """Without gradients and in evaluation mode, and each submodule back in its own mode afterwards."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode

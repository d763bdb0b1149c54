"""GradientNormPercentiles: logs percentiles of recent gradient norms without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

import leyden as pl
from leyden.callbacks import Callback
from leyden.utilities import MisconfigurationException


class GradientNormPercentiles(Callback):
    """Logs percentiles of the total gradient norm over the last steps, before clipping.

    They help to choose ``gradient_clip_val``: a value near the 90th percentile does not change ordinary steps and
    limits the others. Seetharaman et al., "AutoClip" (https://arxiv.org/abs/2007.14469), propose clipping by a
    percentile of past norms. Steps with an infinite or NaN norm, which occur with float16, are left out and counted.

    It logs ``grad_norm/p50`` and so on, and ``grad_norm/nonfinite``, the fraction of the last steps that was left out.
    With several optimizers the names have the optimizer's index: ``grad_norm/0/p50``. With several processes the
    gradients are those of rank 0; strategies that average gradients have the same in every process.

    Args:
        percentiles: The percentiles to log, from 0 to 100.
        window: The number of last steps to use, at least 1.

    Raises:
        MisconfigurationException: A percentile or the window is out of range.

    Example::

        trainer = Trainer(callbacks=GradientNormPercentiles(percentiles=(50, 90, 99)))
    """

    def __init__(self, percentiles: Sequence[float] = (10, 50, 90, 99), window: int = 200) -> None:
        if not percentiles or not all(0 <= p <= 100 for p in percentiles):
            raise MisconfigurationException(f"percentiles={percentiles!r} must be numbers from 0 to 100, at least one.")
        if not isinstance(window, int) or isinstance(window, bool) or window < 1:
            raise MisconfigurationException(f"window={window!r} must be a number of steps, at least 1.")
        self.percentiles = tuple(percentiles)
        self.window = window
        self._norms: list[Tensor] = []  # for each optimizer its last norms, NaN before the first steps
        self._steps: list[int] = []

    @property
    def state_key(self) -> str:
        """The class's name with the arguments."""
        return self._generate_state_key(percentiles=self.percentiles, window=self.window)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make a tensor for each optimizer's norms on the device.

        Raises:
            MisconfigurationException: The strategy divides the parameters, so no process has whole gradients.
        """
        if any(hasattr(parameter, "full_tensor") for parameter in pl_module.parameters()):
            raise MisconfigurationException(
                f"GradientNormPercentiles needs whole gradients, but strategy={trainer.strategy.strategy_name!r} "
                "divides them among the processes; leave the callback out."
            )
        if len(self._norms) != len(trainer.optimizers):
            self._norms = [torch.full((self.window,), torch.nan) for _ in trainer.optimizers]
            self._steps = [0] * len(self._norms)
        self._norms = [norms.to(pl_module.device) for norms in self._norms]
        self._fractions = torch.tensor(self.percentiles, device=pl_module.device) / 100

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        """Store the norm of this step and log the percentiles."""
        index = next(i for i, known in enumerate(trainer.optimizers) if known is optimizer)
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms, steps = self._norms[index], self._steps[index]
        norms[steps % self.window] = get_total_norm(gradients)
        self._steps[index] = steps = steps + 1

        finite = torch.where(norms.isfinite(), norms, torch.nan)
        values = torch.nanquantile(finite, self._fractions)
        stored = min(steps, self.window)
        prefix = f"grad_norm/{index}/" if len(self._norms) > 1 else "grad_norm/"
        metrics = {f"{prefix}p{p:g}": value for p, value in zip(self.percentiles, values, strict=True)}
        metrics[f"{prefix}nonfinite"] = 1 - finite.isfinite().sum() / stored
        pl_module.log_dict(metrics, on_step=True, on_epoch=False)

    def start_anew(self) -> None:
        """Forget the norms of another fit."""
        self._norms, self._steps = [], []

    def state_dict(self) -> dict[str, Any]:
        """Return the norms, so that a resumed run continues with them."""
        return {"norms": [norms.cpu() for norms in self._norms], "steps": list(self._steps)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._norms, self._steps = list(state_dict["norms"]), list(state_dict["steps"])

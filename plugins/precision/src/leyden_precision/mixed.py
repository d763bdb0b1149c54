"""Mixed precision: float32 weights, steps under autocast to a 16-bit format, and scaled gradients for float16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import LBFGS, Optimizer

from leyden.accelerators import Accelerator
from leyden.plugins import Precision
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.rank_zero import rank_zero_info

DTYPES = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


class MixedPrecision(Precision):
    """Steps run under ``torch.autocast``; weights, gradients and optimizers stay in float32.

    With float16 the loss is scaled up before ``backward``, so that small gradients do not vanish, and gradients are
    scaled back before ``on_before_optimizer_step``, clipping and the step. A step whose gradients overflowed is
    skipped, and the scale halved.

    Args:
        precision: "16-mixed" (float16) or "bf16-mixed" (bfloat16, which needs no scaling).
        device: A device type such as "cuda"; by default that of the Trainer's accelerator.
        scaler: What scales in "16-mixed"; by default a ``torch.amp.GradScaler`` as PyTorch makes it.

    Attributes:
        scaler: What scales; None in "bf16-mixed".

    Raises:
        ValueError: ``precision`` is neither of the two.
        MisconfigurationException: A scaler was given for "bf16-mixed".

    Example::

        trainer = Trainer(precision="bf16-mixed")
        trainer = Trainer(plugins=MixedPrecision("16-mixed", scaler=torch.amp.GradScaler(init_scale=1024.0)))
    """

    def __init__(self, precision: str, device: str | None = None, scaler: GradScaler | None = None) -> None:
        if precision not in DTYPES:
            raise ValueError(f"MixedPrecision({precision!r}) is not known; write '16-mixed' or 'bf16-mixed'.")
        if scaler is not None and precision == "bf16-mixed":
            raise MisconfigurationException(
                f"precision='bf16-mixed' scales nothing, but was given {scaler!r}; leave the scaler out."
            )
        self.precision, self.device, self.scaler = precision, device, scaler
        # ids of optimizers, since the scale was last adjusted
        self._unscaled: set[int] = set()
        self._stepped: set[int] = set()
        self._skipped: Tensor | int = 0
        self._told = 0

    @property
    def skipped_steps(self) -> int:
        """Steps skipped so far because of inf or nan in the gradients; reading it waits for the device.

        Several optimizers that step one after the other, with no backward in between, count as one.
        """
        return int(self._skipped)

    def setup(self, accelerator: Accelerator) -> None:
        """Take the device type from the accelerator, and make the scaler for it.

        Raises:
            MisconfigurationException: This was made for another device type, or PyTorch has no autocast for it.
        """
        kind = accelerator.device_type
        if self.device not in (None, kind):
            raise MisconfigurationException(
                f"MixedPrecision is for the device {self.device!r}, but the accelerator's is {kind!r}; leave out "
                "device, and make a new one for every Trainer."
            )
        if not torch.amp.is_autocast_available(kind):
            raise MisconfigurationException(
                f"precision={self.precision!r}: PyTorch has no autocast for the device {kind!r}; write '32-true'."
            )
        self.device = kind
        if self.scaler is None and self.precision == "16-mixed":
            self.scaler = GradScaler(kind)

    def forward_context(self) -> torch.autocast:
        """Autocast of the steps."""
        assert self.device is not None
        # Without the cache, gradients of several uses of a weight add up in float32, and a cast made under no_grad
        # is not the one that is trained, as it was before PyTorch 2.10.
        return torch.autocast(self.device, DTYPES[self.precision], cache_enabled=False)

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Scale; the first loss after a step is the first that the adjusted scale applies to."""
        if self.scaler is None:
            return loss
        self._adjust_scale()
        return self.scaler.scale(loss)

    def unscale_gradients(self, optimizer: Optimizer) -> None:
        """Divide the gradients by the scale, once per step, and look for inf and nan."""
        if self.scaler is None or not _has_gradients(optimizer):
            return
        if id(optimizer) in self._stepped:  # it steps again with no backward in between
            self._adjust_scale()
        if id(optimizer) not in self._unscaled:
            self.scaler.unscale_(optimizer)
            self._unscaled.add(id(optimizer))

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any] | None = None, **arguments: Any) -> Any:
        """Step, unless gradients overflowed.

        Raises:
            MisconfigurationException: LBFGS, whose step evaluates the loss several times, in "16-mixed".
        """
        if self.scaler is None:
            return super().optimizer_step(optimizer, closure, **arguments)
        if isinstance(optimizer, LBFGS):
            raise MisconfigurationException(
                "LBFGS can't be used with precision='16-mixed': its step needs several scaled losses; write "
                "'bf16-mixed' or '32-true'."
            )
        result = closure() if closure is not None else None
        if not _has_gradients(optimizer):  # training_step returned None: the scaler would find nothing to check
            return result
        returned = self.scaler.step(optimizer, **arguments)
        self._stepped.add(id(optimizer))
        return returned if closure is None else result

    def state_dict(self) -> dict[str, Any]:
        """The scaler's state, and how many steps were skipped."""
        self._adjust_scale()
        state = self.scaler.state_dict() if self.scaler is not None else {}
        return {**state, "skipped_steps": self.skipped_steps} if state else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""
        if self.scaler is not None:
            self.scaler.load_state_dict(state_dict)
            self._skipped = self._told = state_dict.get("skipped_steps", 0)

    def teardown(self) -> None:
        """Say how many steps were skipped, if any were since this was last said."""
        self._adjust_scale()
        skipped = self.skipped_steps
        if self.scaler is not None and skipped > self._told:
            self._told = skipped
            rank_zero_info(
                f"{skipped} optimizer step{'s were' if skipped > 1 else ' was'} skipped in all, because of inf or nan "
                f"in float16 gradients; the loss scale is {self.scaler.get_scale():g} now."
            )

    def _adjust_scale(self) -> None:
        """Let the scaler adjust the scale, after all optimizers that use gradients of the present one have stepped."""
        if self.scaler is None or not self._stepped:
            return
        one = torch.ones((), device=self.device)
        before = self.scaler.scale(one)
        self.scaler.update()
        self._skipped = self._skipped + (self.scaler.scale(one) < before)  # on the device: nothing waits for it
        self._unscaled.clear()
        self._stepped.clear()


def _has_gradients(optimizer: Optimizer) -> bool:
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])

"""Mixed precision: float32 weights, steps under autocast to 16 bits, and loss scaling for float16."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
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
    """Runs steps under ``torch.autocast``; weights, gradients and optimizer states stay in float32.

    With float16 the loss is multiplied by a scale before ``backward``, so that small gradients do not become 0. The
    gradients are divided by the scale before ``on_before_optimizer_step``, clipping and the step. If gradients
    overflow, the step is skipped and the scale is halved. A skipped step moves neither ``global_step`` nor schedules.
    An optimizer with ``fused=True`` on a GPU decides there whether it steps, and nothing waits to know: it always
    counts.

    Args:
        precision: "16-mixed" (float16) or "bf16-mixed" (bfloat16, which needs no scaling).
        device: A device type such as "cuda"; by default that of the Trainer's accelerator.
        scaler: The gradient scaler for "16-mixed"; by default a ``torch.amp.GradScaler`` with PyTorch's defaults.

    Attributes:
        scaler: The gradient scaler; None in "bf16-mixed".
        has_skipped: Whether the last step was skipped, as far as the host knows.

    Raises:
        ValueError: ``precision`` has another value.
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
                f"precision='bf16-mixed' needs no scaler, but was given {scaler!r}; leave the scaler out."
            )
        self.precision, self.device, self.scaler = precision, device, scaler
        # ids of the optimizers that were unscaled and stepped since the scale was last adjusted
        self._unscaled: set[int] = set()
        self._stepped: set[int] = set()
        self._skipped: Tensor | int = 0
        self._reported = 0

    @property
    def skipped_steps(self) -> int:
        """Number of steps skipped so far because of infinite or NaN gradients; reading it waits for the device.

        Several optimizers that step without a backward in between count as one step.
        """
        return int(self._skipped)

    def setup(self, accelerator: Accelerator) -> None:
        """Get the device type from the accelerator and make the scaler for it.

        Raises:
            MisconfigurationException: ``device`` is another device type, or PyTorch has no autocast for the type.
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
        """Return the autocast context for the steps."""
        assert self.device is not None
        # The cache is off for two reasons: the gradients of a weight that is used several times are then added up in
        # float32, and before PyTorch 2.10 a cast cached under no_grad was used in training.
        return torch.autocast(self.device, DTYPES[self.precision], cache_enabled=False)

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Scale the loss. The first loss after a step adjusts the scale before that."""
        if self.scaler is None:
            return loss
        self._adjust_scale()
        return self.scaler.scale(loss)

    def unscale_gradients(self, optimizer: Optimizer) -> None:
        """Divide the gradients by the scale, once per step, and check them for infinite and NaN values."""
        if self.scaler is None or not _has_gradients(optimizer):
            return
        if id(optimizer) in self._stepped:  # the optimizer steps again without a backward in between
            self._adjust_scale()
        if id(optimizer) not in self._unscaled:
            self.scaler.unscale_(optimizer)
            self._unscaled.add(id(optimizer))

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any] | None = None, **arguments: Any) -> Any:
        """Step, unless gradients overflowed.

        Raises:
            MisconfigurationException: The optimizer is LBFGS, whose step evaluates the loss several times, and the
                precision is "16-mixed".
            RuntimeError: Gradients overflow at every scale, so that no step would ever be taken again.
        """
        if self.scaler is None:
            return super().optimizer_step(optimizer, closure, **arguments)
        if isinstance(optimizer, LBFGS):
            raise MisconfigurationException(
                "LBFGS can't be used with precision='16-mixed': its step needs several scaled losses; write "
                "'bf16-mixed' or '32-true'."
            )
        result = closure() if closure is not None else None
        self.has_skipped = False
        if not _has_gradients(optimizer):  # training_step returned None; the scaler raises an error without gradients
            return result
        with _steps_of(optimizer) as stepped:
            returned = self.scaler.step(optimizer, **arguments)
        self.has_skipped = not any(stepped)
        self._stepped.add(id(optimizer))
        if self.has_skipped and self.scaler.get_scale() == 0:
            raise RuntimeError(
                "The gradients are infinite or NaN at every loss scale, down to 0, so the loss or a weight is. "
                "Trainer(detect_anomaly=True) names the operation."
            )
        return returned if closure is None else result

    def state_dict(self) -> dict[str, Any]:
        """Return the scaler's state and the number of skipped steps."""
        self._adjust_scale()
        state = self.scaler.state_dict() if self.scaler is not None else {}
        return {**state, "skipped_steps": self.skipped_steps} if state else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        if self.scaler is not None:
            self.scaler.load_state_dict(state_dict)
            self._skipped = self._reported = state_dict.get("skipped_steps", 0)

    def teardown(self) -> None:
        """Log how many steps were skipped, if there are more than were last logged."""
        self._adjust_scale()
        skipped = self.skipped_steps
        if self.scaler is not None and skipped > self._reported:
            self._reported = skipped
            rank_zero_info(
                f"{skipped} optimizer step{'s were' if skipped > 1 else ' was'} skipped in total because of infinite "
                f"or NaN float16 gradients; the loss scale is {self.scaler.get_scale():g} now."
            )

    def _adjust_scale(self) -> None:
        """Let the scaler adjust the scale if an optimizer has stepped; call it when the old scale is no longer used."""
        if self.scaler is None or not self._stepped:
            return
        one = torch.ones((), device=self.device)
        before = self.scaler.scale(one)
        self.scaler.update()
        self._skipped = self._skipped + (self.scaler.scale(one) < before)  # stays on the device, so nothing waits
        self._unscaled.clear()
        self._stepped.clear()


@contextmanager
def _steps_of(optimizer: Any) -> Generator[list[bool], None, None]:
    """A block; the list that it gets has True for each step that the optimizer takes, False for one that does nothing.

    The scaler calls a fused optimizer in any case, which then looks at ``found_inf`` itself. On the host that is known
    at once; on a device it would have to be waited for.
    """
    stepped: list[bool] = []

    def note(*_: Any) -> None:
        found = getattr(optimizer, "found_inf", None)
        stepped.append(not (isinstance(found, Tensor) and found.device.type == "cpu" and bool(found)))

    if not isinstance(optimizer, Optimizer):
        yield [True]
        return
    handle = optimizer.register_step_pre_hook(note)
    try:
        yield stepped
    finally:
        handle.remove()


def _has_gradients(optimizer: Optimizer) -> bool:
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])

"""One training batch: forward, backward, optimizer step. What never changes in a fit is decided when this is built.

training_step                                   in the precision's context
on_before_zero_grad, zero_grad                  at the first batch of an accumulation
on_before_backward, backward, on_after_backward
on_before_optimizer_step, clip, step            at the last batch of an accumulation
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from leyden.interfaces.precision import Precision
from leyden.loops.optimizer import LightningOptimizer
from leyden.module import LightningModule
from leyden.plugin_system.hooks import hookimpl
from leyden.plugin_system.table import nothing
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.objects import is_overridden
from leyden.utilities.rank_zero import rank_zero_warn

if TYPE_CHECKING:
    from leyden.trainer.run import Run


class BatchStep:
    """The core's ``leyden_optimize_batch``: automatic and manual optimisation.

    Args:
        run: The fit.

    Attributes:
        accumulating: Whether the batch that runs, or ran last, only adds to the gradients.
        weight: How much the running batch counts among those of the other processes.
        optimizers: The optimizers, as the strategy made them.
        wrapped: The same as the user's steps see them.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.module, self.strategy, self.trainer = run, run.module, run.strategy, run.trainer
        self._metrics, self._progress = run.metrics, run.progress
        module, precision = run.module, run.strategy.precision
        self.automatic = module.automatic_optimization
        self.accumulating = False
        self.weight = 1.0
        step = run.strategy.step_function(module, "training_step")
        self._training_step = run.timed(f"[Strategy]{type(run.strategy).__name__}.training_step", step)
        self._takes_batch_idx = takes_arguments(module.training_step, 2)
        # None where the precision or the module has nothing of its own, so that a batch does not call it
        self._forward_context = _own(precision, "forward_context", Precision)
        self._scale_loss = _own(precision, "scale_loss", Precision)
        self._unscale = _own(precision, "unscale_gradients", Precision)
        self._own_zero_grad = _own(module, "optimizer_zero_grad", LightningModule)
        self._own_backward = _own(module, "backward", LightningModule)
        self._own_step = _own(module, "optimizer_step", LightningModule)
        self._own_clipping = _own(module, "configure_gradient_clipping", LightningModule)
        self._clip = run.strategy.clip_gradients
        self._precision_step = precision.optimizer_step
        self._plain_precision = _own(precision, "optimizer_step", Precision) is None
        self._warned_of_none = False
        self.use_optimizers([])

    def use_optimizers(self, optimizers: Iterable[Any]) -> None:
        """Step these optimizers, wrapped or not, from now on."""
        self.optimizers = [o.optimizer if type(o) is LightningOptimizer else o for o in optimizers]
        self.optimizer = self.optimizers[0] if self.optimizers else None
        self.wrapped = [LightningOptimizer(optimizer, self) for optimizer in self.optimizers]
        in_line = self._own_step is None and self._plain_precision and not any(map(_needs_closure, self.optimizers))
        self._with_closure = not in_line and bool(self.optimizers)
        # what a closure returns for a skipped batch: an optimizer that requires one reads it as a number
        self._no_loss = torch.zeros(()) if any(map(_requires_closure, self.optimizers)) else None

    @hookimpl(trylast=True)
    def leyden_optimize_batch(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Train on one batch; returns its outputs, ``{}`` for a skipped one."""
        if not self.automatic:
            return self._forward_backward(batch, batch_idx, every=1)
        every = self.trainer.accumulate_grad_batches
        self.accumulating = every > 1 and (batch_idx + 1) % every != 0 and not self._progress.is_last_batch
        if self.accumulating:
            with self.strategy.no_sync():
                return self._forward_backward(batch, batch_idx, every)
        if self._with_closure:
            outputs = self._step_with_closure(batch, batch_idx, every)
        else:
            outputs = self._forward_backward(batch, batch_idx, every)
            if self.optimizer is not None:
                self.before_step(self.optimizer)
                self.optimizer.step()
        self._progress.optimizer_steps += 1
        return outputs

    def _forward_backward(self, batch: Any, batch_idx: int, every: int) -> dict[str, Any]:
        """Run training_step, and in automatic optimisation what follows before the optimizer's step."""
        arguments = (batch, batch_idx) if self._takes_batch_idx else (batch,)
        metrics = self._metrics
        outer, metrics.hook = metrics.hook, "training_step"
        try:
            if self._forward_context is None:
                output = self._training_step(*arguments)
            else:
                with self._forward_context():
                    output = self._training_step(*arguments)
            if not self.automatic:
                return _read_manual(output)
            loss, outputs = self._read(output, every)
            if batch_idx % every == 0:
                self._zero_grad(batch_idx)
            if loss is not None:
                self.backward(loss)
            return outputs
        finally:
            metrics.hook = outer

    def _read(self, output: Any, every: int) -> tuple[Tensor | None, dict[str, Any]]:
        """The loss to go backward on, and the outputs that ``on_train_batch_end`` gets."""
        rest: dict[str, Any] = {}
        if isinstance(output, Mapping):
            if "loss" not in output:
                raise MisconfigurationException(
                    f"training_step returned a dict without 'loss', with: {', '.join(map(str, output)) or 'nothing'}."
                )
            rest = _detached({k: v for k, v in output.items() if k != "loss"})
            output = output["loss"]
        if output is None:
            self._warn_of_none()
            return None, {}
        if not isinstance(output, Tensor):
            raise MisconfigurationException(
                f"training_step returned {output!r} of type {type(output).__name__}; return the loss as a tensor, "
                "a dict with 'loss', or None to skip the batch."
            )
        loss = output / every if every > 1 else output
        return loss, {"loss": loss.detach(), **rest}

    def _warn_of_none(self) -> None:
        if not self._warned_of_none:
            self._warned_of_none = True
            rank_zero_warn("training_step returned None: the batch is skipped. (Said once.)")

    def _zero_grad(self, batch_idx: int) -> None:
        if self.optimizer is None:
            return
        hooks = self.run.hooks
        if hooks.on_before_zero_grad is not nothing:
            hooks.on_before_zero_grad(self.optimizer)
        if self._own_zero_grad is None:
            self.optimizer.zero_grad()
        else:
            self._own_zero_grad(self._progress.epoch, batch_idx, self.optimizer)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Backward with its hooks, on the scaled loss where the precision scales."""
        hooks = self.run.hooks
        if self.weight != 1.0:  # a process without batches of its own adds nothing to the gradients
            loss = loss * self.weight
        if self._scale_loss is not None:
            loss = self._scale_loss(loss)
        if hooks.on_before_backward is not nothing:
            hooks.on_before_backward(loss)
        try:
            if self._own_backward is None:
                loss.backward(*args, **kwargs)
            else:
                self._own_backward(loss, *args, **kwargs)
        except RuntimeError as error:
            if loss.requires_grad and loss.numel() == 1:
                raise
            raise MisconfigurationException(
                f"The loss is a tensor of shape {tuple(loss.shape)} {'with' if loss.requires_grad else 'without'} a "
                "gradient; it must be one number, computed from parameters that require gradients."
            ) from error
        if hooks.on_after_backward is not nothing:
            hooks.on_after_backward()

    def before_step(self, optimizer: Any) -> None:
        """Unscale, call ``on_before_optimizer_step``, and clip in automatic optimisation."""
        hooks = self.run.hooks
        if self._unscale is not None:
            self._unscale(optimizer)
        if hooks.on_before_optimizer_step is not nothing:
            hooks.on_before_optimizer_step(optimizer)
        if not self.automatic:
            return
        value, algorithm = self.trainer.gradient_clip_val, self.trainer.gradient_clip_algorithm
        if self._own_clipping is not None:
            with self._metrics.scope("configure_gradient_clipping"):
                self._own_clipping(optimizer, gradient_clip_val=value, gradient_clip_algorithm=algorithm)
        elif value:
            self.clip_gradients(optimizer, value, algorithm)

    def clip_gradients(self, optimizer: Any, value: float | None, algorithm: str | None) -> None:
        """Clip an optimizer's gradients; what is None comes from the Trainer."""
        value = value if value is not None else self.trainer.gradient_clip_val
        algorithm = str(algorithm or self.trainer.gradient_clip_algorithm or "norm")
        if algorithm not in ("norm", "value"):
            raise MisconfigurationException(
                f'gradient_clip_algorithm={algorithm!r} is not known; write "norm" or "value".'
            )
        if value is None or value <= 0:
            return
        if self._unscale is not None and not self.automatic:
            self._unscale(optimizer.optimizer if type(optimizer) is LightningOptimizer else optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if parameters:  # none after a skipped batch
            self._clip(parameters, value, algorithm)

    # -- with a closure: LBFGS, an overridden optimizer_step, optimizers that are not PyTorch's own ---------

    def _step_with_closure(self, batch: Any, batch_idx: int, every: int) -> dict[str, Any]:
        outputs: dict[str, Any] = {}
        ran = False

        def closure() -> Any:
            nonlocal ran
            ran = True
            outputs.clear()
            outputs.update(self._forward_backward(batch, batch_idx, every))
            return outputs.get("loss", self._no_loss)

        with self._metrics.scope("optimizer_step"):
            if self._own_step is not None:
                self._own_step(self._progress.epoch, batch_idx, self.wrapped[0], closure)
            else:
                self.step_optimizer(self.optimizer, closure)
        if not ran:
            raise MisconfigurationException(
                f"optimizer_step of {type(self.module).__name__}, or the optimizer, did not call the closure, which "
                "runs forward and backward; pass it on, optimizer.step(closure=optimizer_closure), or call it."
            )
        return outputs

    def step_optimizer(self, optimizer: Any, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        """One step of one optimizer; in manual optimisation it is counted here."""

        def whole() -> Any:
            with torch.enable_grad():
                result = closure() if closure is not None else None
            self.before_step(optimizer)
            return result

        if self.automatic or closure is not None:
            result = self._precision_step(optimizer, whole, **kwargs)
        else:
            self.before_step(optimizer)
            result = self._precision_step(optimizer, **kwargs)
        if not self.automatic:
            self._progress.optimizer_steps += 1
        return result

    # -- for checkpoints ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The gradients to which the next batch adds, by parameter; {} where it clears them.

        Only the user knows when that is in manual optimisation, so there all that exist are kept.
        """
        if self.automatic and not self._progress.is_accumulating(self.trainer.accumulate_grad_batches):
            return {}
        return {
            name: parameter.grad for name, parameter in self.module.named_parameters() if parameter.grad is not None
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""
        for name, parameter in self.module.named_parameters():
            if name in state:
                parameter.grad = state[name].to(parameter.device)


def _read_manual(output: Any) -> dict[str, Any]:
    """The outputs that ``on_train_batch_end`` gets in manual optimisation, where ``training_step`` does all itself."""
    if output is None:
        return {}
    if isinstance(output, Tensor):
        return {"loss": output.detach()}
    if isinstance(output, Mapping):
        return _detached(output)
    raise MisconfigurationException(
        f"training_step returned {output!r} of type {type(output).__name__}; in manual optimisation return a "
        "tensor, a dict, or None."
    )


def _detached(outputs: Mapping[str, Any]) -> dict[str, Any]:
    detached: dict[str, Any] = tree_map_only(Tensor, Tensor.detach, dict(outputs))
    return detached


def _own(target: Any, name: str, base: type) -> Callable[..., Any] | None:
    """The target's method where it overrides that of ``base``, else None."""
    return getattr(target, name) if is_overridden(name, target, base) else None


def _needs_closure(optimizer: Any) -> bool:
    """Whether an optimizer must be given the closure.

    PyTorch's own optimizers, but for those that require one, run it before anything else, so that running it
    in line is the same; of any other optimizer that is not known.
    """
    return not type(optimizer).__module__.startswith("torch.optim") or _requires_closure(optimizer)


def _requires_closure(optimizer: Any) -> bool:
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is closure.empty


def takes_arguments(function: Callable[..., Any], count: int) -> bool:
    """Whether a function takes ``count`` positional arguments."""
    return takes_any(function) or takes_named(function, count)


def takes_any(function: Callable[..., Any]) -> bool:
    """Whether a function takes any number of positional arguments, ``*args``."""
    return any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(function).parameters.values())


def takes_named(function: Callable[..., Any], count: int) -> bool:
    """Whether a function has names for ``count`` positional arguments."""
    parameters = inspect.signature(function).parameters.values()
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters) >= count

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
from leyden.loops.optimizers import LightningOptimizer
from leyden.module import LightningModule
from leyden.plugin_system.hooks import hookimpl
from leyden.plugin_system.table import nothing
from leyden.utilities import MisconfigurationException, rank_zero_warn
from leyden.utilities.objects import is_overridden

if TYPE_CHECKING:
    from leyden.trainer.run import Run


class BatchStep:
    """The core's ``leyden_optimize_batch``: automatic and manual optimisation.

    Args:
        run: The fit.

    Attributes:
        weight: How much the running batch counts among those of the other processes.
        optimizers: The optimizers, as the strategy made them.
        wrapped: The same as the user's steps see them.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.module, self.strategy, self.trainer = run, run.module, run.strategy, run.trainer
        self._metrics, self._progress = run.metrics, run.progress
        module, precision = run.module, run.strategy.precision
        self.automatic = module.automatic_optimization
        self.weight, self._warned_of_none = 1.0, False
        self._index, self._parts = 0, 1  # the batch's place among those of its step; by how many its loss is divided
        step = run.strategy.step_function(module, "training_step")
        self._training_step = run.timed(f"[Strategy]{type(run.strategy).__name__}.training_step", step)
        self._takes_batch_idx = argument_count(module.training_step, 2, 2) == 2
        # None where the precision or the module has nothing of its own, so that a batch does not call it
        self._forward_context = own_method(precision, "forward_context", Precision)
        self._scale_loss = own_method(precision, "scale_loss", Precision)
        self._unscale = own_method(precision, "unscale_gradients", Precision)
        self._own_zero_grad = own_method(module, "optimizer_zero_grad", LightningModule)
        self._own_backward = own_method(module, "backward", LightningModule)
        self._own_step = own_method(module, "optimizer_step", LightningModule)
        self._own_clipping = own_method(module, "configure_gradient_clipping", LightningModule)
        self._precision_step = precision.optimizer_step
        self.use_optimizers([])

    def use_optimizers(self, optimizers: Iterable[Any]) -> None:
        """Step these optimizers, wrapped or not, from now on."""
        self.optimizers = [o.optimizer if type(o) is LightningOptimizer else o for o in optimizers]
        self.optimizer = self.optimizers[0] if self.optimizers else None
        self.wrapped = [LightningOptimizer(optimizer, self) for optimizer in self.optimizers]
        required = any(map(_requires_closure, self.optimizers))
        if required and self.automatic and self.trainer.accumulate_grad_batches > 1:
            raise self._many_evaluations()
        # PyTorch's own optimizers run a closure before anything else, unless they require one. So the loop may run it
        # itself, before the step. How other optimizers use a closure is not known.
        known = not required and all(type(o).__module__.startswith("torch.optim") for o in self.optimizers)
        plain = self._own_step is None and own_method(self.strategy.precision, "optimizer_step", Precision) is None
        self._with_closure = bool(self.optimizers) and not (plain and known)
        # what the closure returns for a skipped batch: an optimizer that requires a closure reads it as a number
        self._no_loss = torch.zeros(()) if required else None

    @hookimpl(trylast=True)
    def leyden_optimize_batch(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Train on one batch; returns its outputs, ``{}`` for a skipped one."""
        if not self.automatic:
            return self._forward_backward(batch, batch_idx)
        progress, every = self._progress, self.trainer.accumulate_grad_batches
        self._index = batch_idx % every
        self._parts = min(every, self.run.loop.max_batches - batch_idx + self._index)
        progress.stepped = self._index + 1 == every or progress.is_last_batch
        if not progress.stepped:
            with self.strategy.no_sync():
                return self._forward_backward(batch, batch_idx)
        if self._with_closure:
            outputs = self._step_with_closure(batch, batch_idx)
        else:
            outputs = self._forward_backward(batch, batch_idx)
            if self.optimizer is not None and "step" in vars(self.wrapped[0]):  # a scheduler, say, has replaced it
                self.wrapped[0].step()
            elif self.optimizer is not None:
                self.before_step(self.optimizer)
                self.optimizer.step()
        progress.optimizer_steps += progress.stepped
        return outputs

    def _forward_backward(self, batch: Any, batch_idx: int) -> dict[str, Any]:
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
            loss, outputs = self._read(output)
            if not self.automatic:
                return outputs
            if self._index == 0 and self.optimizer is not None:
                self._zero_grad(self.optimizer, batch_idx)
            if loss is not None:
                self.backward(loss)
            return outputs
        finally:
            metrics.hook = outer

    def _read(self, output: Any) -> tuple[Tensor | None, dict[str, Any]]:
        """The loss to go backward on, and the outputs that ``on_train_batch_end`` gets.

        In manual optimisation there need be no loss, and a dict may hold anything.
        """
        is_dict = isinstance(output, Mapping)
        outputs: dict[str, Any] = tree_map_only(Tensor, Tensor.detach, dict(output)) if is_dict else {}
        loss = output.get("loss", output) if is_dict else output
        if loss is None and self.automatic:
            if not self._warned_of_none:
                self._warned_of_none = True
                rank_zero_warn("training_step returned None: the batch is skipped. (Said once.)")
            return None, {}
        if isinstance(loss, Tensor):
            loss = loss / self._parts if self._parts > 1 else loss
            outputs["loss"] = loss.detach()
        elif self.automatic or not (is_dict or loss is None):
            found = f"{loss!r} of type {type(loss).__name__}"
            if is_dict and loss is output:
                found = f"a dict without 'loss', with: {', '.join(map(str, output)) or 'nothing'}"
            wanted = "the loss as a tensor, a dict with 'loss', or None to skip the batch"
            wanted = wanted if self.automatic else "a tensor, a dict, or None"
            raise MisconfigurationException(f"training_step returned {found}; return {wanted}.")
        return loss, outputs

    def _zero_grad(self, optimizer: Any, batch_idx: int) -> None:
        hooks = self.run.hooks
        if hooks.on_before_zero_grad is not nothing:
            hooks.on_before_zero_grad(optimizer)
        if self._own_zero_grad is None:
            optimizer.zero_grad()
        else:
            self._own_zero_grad(self._progress.epoch, batch_idx, optimizer)

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
            found = f"of shape {tuple(loss.shape)} {'with' if loss.requires_grad else 'without'} a gradient"
            wanted = "one number, computed from parameters that require gradients"
            raise MisconfigurationException(f"The loss is a tensor {found}; it must be {wanted}.") from error
        if hooks.on_after_backward is not nothing:
            hooks.on_after_backward()

    def before_step(self, optimizer: Any) -> None:
        """Unscale, call ``on_before_optimizer_step``, and clip in automatic optimisation."""
        hooks = self.run.hooks
        if self._parts != self._index + 1:
            self.rescale_gradients(optimizer, self._parts / (self._index + 1))
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

    def rescale_gradients(self, optimizer: Any, factor: float) -> None:
        """Make gradients a mean again where an epoch has ended earlier than could be known when losses were divided."""
        self._parts = self._index + 1
        for gradient in (p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
            gradient.detach().mul_(factor)

    def clip_gradients(self, optimizer: Any, value: float | None, algorithm: str | None) -> None:
        """Clip an optimizer's gradients; what is None comes from the Trainer."""
        value = value if value is not None else self.trainer.gradient_clip_val
        algorithm = str(algorithm or self.trainer.gradient_clip_algorithm or "norm")
        if algorithm not in ("norm", "value"):
            raise MisconfigurationException(f'gradient_clip_algorithm={algorithm!r}: write "norm" or "value".')
        if value is None or value <= 0:
            return
        if self._unscale is not None and not self.automatic:
            self._unscale(optimizer.optimizer if type(optimizer) is LightningOptimizer else optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if parameters:  # none after a skipped batch
            self.strategy.clip_gradients(parameters, value, algorithm)

    # -- with a closure: LBFGS, an overridden optimizer_step, optimizers that are not PyTorch's own ---------

    def _step_with_closure(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        outputs: dict[str, Any] = {}
        ran = False

        def closure() -> Any:
            nonlocal ran
            if ran and self._index:
                raise self._many_evaluations()
            ran = True
            outputs.clear()
            outputs.update(self._forward_backward(batch, batch_idx))
            return outputs.get("loss", self._no_loss)

        with self._metrics.scope("optimizer_step"):
            if self._own_step is not None:
                self._own_step(self._progress.epoch, batch_idx, self.wrapped[0], closure)
            else:
                self.wrapped[0].step(closure)
        if not ran:
            raise MisconfigurationException(
                f"optimizer_step of {type(self.module).__name__}, or the optimizer, did not call the closure, which "
                "runs forward and backward; write optimizer.step(closure=optimizer_closure), or call it."
            )
        return outputs

    def step_optimizer(self, optimizer: Any, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        """One step of one optimizer; in manual optimisation it is counted here."""

        def whole() -> Any:
            assert closure is not None
            with torch.enable_grad():
                result = closure()
            self.before_step(optimizer)
            return result

        if closure is None:
            self.before_step(optimizer)
        result = self._precision_step(optimizer, whole if closure is not None else None, **kwargs)
        stepped = not self.strategy.precision.has_skipped
        if self.automatic:
            self._progress.stepped = stepped
        else:
            self._progress.optimizer_steps += stepped
        return result

    def _many_evaluations(self) -> MisconfigurationException:
        return MisconfigurationException(
            f"{type(self.optimizer).__name__} evaluates the loss several times in a step, and with "
            f"accumulate_grad_batches={self.trainer.accumulate_grad_batches} only the last of the batches is still "
            "there; write accumulate_grad_batches=1 and use larger batches."
        )

    # -- for checkpoints ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The gradients to which the next batch adds, by parameter; {} where it clears them.

        Only the user knows when that is in manual optimisation, so there all that exist are kept.
        """
        if self.automatic and not self._progress.is_accumulating(self.trainer.accumulate_grad_batches):
            return {}
        return {name: p.grad for name, p in self.module.named_parameters() if p.grad is not None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""
        for name, parameter in self.module.named_parameters():
            if name in state:
                parameter.grad = state[name].to(parameter.device)


def own_method(target: Any, name: str, base: type) -> Callable[..., Any] | None:
    """The target's method where it overrides that of ``base``, else None."""
    return getattr(target, name) if is_overridden(name, target, base) else None


def _requires_closure(optimizer: Any) -> bool:
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is closure.empty


def argument_count(function: Callable[..., Any], most: int, of_any: int) -> int:
    """How many positional arguments a function is given.

    Args:
        function: The function.
        most: How many there are.
        of_any: How many a function is given that takes any number, unless it has names for more.
    """
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    named = sum(kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds)
    return min(most, max(named, of_any) if inspect.Parameter.VAR_POSITIONAL in kinds else named)

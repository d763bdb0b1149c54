"""Fabric: a hand-written loop with Leyden's accelerators, strategies, precisions, loggers and checkpoint IO."""

from __future__ import annotations

import copy
import os
import weakref
from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils.data import DataLoader

from leyden import LightningModule
from leyden.strategies import Strategy
from leyden.utilities.exceptions import CheckpointCorruptedError
from leyden.utilities.rank_zero import rank_zero_deprecation
from leyden.utilities.rng import seed_everything
from leyden_fabric import state as saved
from leyden_fabric.attached import FabricRunner
from leyden_fabric.preparing import compile_in_place, follow_parameters, prepare_loader, refuse_wrapped
from leyden_fabric.processes import Processes
from leyden_fabric.reporting import Reporting
from leyden_fabric.wrappers import FabricModule, FabricOptimizer, strategy_hook, uncompiled, unwrapped


class Fabric(Processes, Reporting):
    """Runs a loop of your own on any accelerator, in any number of processes and in any precision.

    Args:
        accelerator: "cpu", "cuda", "mps" or any installed one, "gpu" for whichever GPU there is, "auto" for the
            best that is available, or an instance.
        strategy: How several devices work together, by name or as an instance; "auto" chooses.
        devices: How many devices (int), which ones (list, "0, 1"), -1 for all, or "auto".
        num_nodes: The number of machines.
        precision: "32-true" or any installed one, e.g. "bf16-mixed"; 32, 16 and 64 mean their usual modes.
        plugins: Component instances (precision, environment, checkpoint IO), pluggy plugins, or names.
        callbacks: One object or a list of several; :meth:`call` calls their methods.
        loggers: One logger or several, by name or as instances; True for the default one.

    Raises:
        MisconfigurationException: An argument, or a combination, can't work.

    Example::

        fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp", precision="bf16-mixed")
        fabric.launch()
        model, optimizer = fabric.setup(model, optimizer)
        loader = fabric.setup_dataloaders(loader)
        for x, y in loader:
            loss = torch.nn.functional.mse_loss(model(x), y)
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()
    """

    # -- setting up ---------------------------------------------------------------------------------------

    def setup(
        self,
        module: Module,
        *optimizers: Any,
        scheduler: Any = None,
        move_to_device: bool = True,
        _reapply_compile: bool = True,
    ) -> Any:
        """Prepare a module, and the optimizers of its parameters, for training.

        Args:
            module: The module.
            optimizers: Its optimizers.
            scheduler: A learning rate scheduler, which is returned as it is.
            move_to_device: Whether the module is moved to the device. Strategies that override ``setup_module`` move
                it in any case.
            _reapply_compile: Whether a module from ``torch.compile`` is compiled again, with the same settings, after
                the strategy has wrapped it, so that the wrapper is compiled too.

        Returns:
            The module, or with optimizers a tuple of the module, the optimizers, and the scheduler if there is one.

        Raises:
            ValueError: The module or an optimizer was set up already.
            RuntimeError: :meth:`launch` must be called first.
        """
        self._require_met()
        refuse_wrapped("setup", "module", (module,))
        refuse_wrapped("setup", "optimizer", optimizers)
        strategy = copy.copy(self._strategy)
        compiled, original = module, uncompiled(module) if _reapply_compile else module
        before = dict(original.named_parameters())
        if move_to_device or type(strategy).setup_module is not Strategy.setup_module:
            strategy.setup_module(original)
        else:
            self._precision.convert_module(original)
        if original is not compiled:
            compile_in_place(original, compiled)
        follow_parameters(optimizers, before, dict(original.named_parameters()))
        wrapped = FabricModule(original, strategy, self)
        made = [FabricOptimizer(o, strategy, self) for o in strategy.setup_optimizers(list(optimizers))]
        self._module_strategies.append(weakref.ref(strategy))
        if isinstance(original, LightningModule):
            original.trainer = FabricRunner(self, wrapped, made).trainer  # type: ignore[assignment]  # its stand-in
            if original not in self._callbacks:
                self._callbacks.append(original)
        self.call("on_after_setup", fabric=self, module=wrapped)
        if not optimizers:
            return wrapped
        return (wrapped, *made) if scheduler is None else (wrapped, *made, scheduler)

    def setup_module(self, module: Module, move_to_device: bool = True, _reapply_compile: bool = True) -> FabricModule:
        """Prepare a module whose optimizers are set up later, or that is only evaluated; see :meth:`setup`."""
        wrapped: FabricModule = self.setup(module, move_to_device=move_to_device, _reapply_compile=_reapply_compile)
        return wrapped

    def setup_optimizers(self, *optimizers: Any) -> Any:
        """Prepare optimizers of modules that have been set up.

        Returns:
            The optimizer, or a tuple of several.

        Raises:
            ValueError: No optimizer was given, or one was set up already.
            RuntimeError: An optimizer has parameters on the meta device, or :meth:`launch` must be called first.
        """
        self._require_met()
        if not optimizers:
            raise ValueError("setup_optimizers() was given no optimizer; give it one or more.")
        refuse_wrapped("setup_optimizers", "optimizer", optimizers)
        if any(p.is_meta for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]):
            raise RuntimeError(
                "An optimizer has parameters on the meta device, which the module no longer has; make it after "
                "fabric.setup_module(model), of the model that this returns."
            )
        strategies = self._set_up
        strategy = (
            strategies[0] if len(strategies) == 1 else self._strategy
        )  # of several strategies it is not known which one
        made = [FabricOptimizer(o, strategy, self) for o in strategy.setup_optimizers(list(optimizers))]
        return made[0] if len(made) == 1 else tuple(made)

    def setup_dataloaders(
        self, *dataloaders: Any, use_distributed_sampler: bool = True, move_to_device: bool = True
    ) -> Any:
        """Make loaders that give each process its part of the data, on its device.

        Args:
            dataloaders: DataLoaders, which are not changed.
            use_distributed_sampler: Whether the data are divided among the processes; a loader with a
                DistributedSampler is left as it is.
            move_to_device: Whether batches are moved to the device.

        Returns:
            The loader, or a list of several.

        Raises:
            ValueError: No loader was given, or one was set up already.
            TypeError: A loader is no DataLoader.
            RuntimeError: :meth:`launch` must be called first.
        """
        self._require_met()
        if not dataloaders:
            raise ValueError("setup_dataloaders() was given no loader; give it one or more.")
        refuse_wrapped("setup_dataloaders", "loader", dataloaders)
        for loader in dataloaders:
            if not isinstance(loader, DataLoader):
                raise TypeError(f"setup_dataloaders() takes DataLoaders, and was given a {type(loader).__name__}.")
        made = [prepare_loader(self, loader, use_distributed_sampler, move_to_device) for loader in dataloaders]
        return made[0] if len(made) == 1 else made

    @property
    def _set_up(self) -> list[Strategy]:
        """The strategies of all modules that still exist, in the order in which the modules were set up."""
        return [strategy for ref in self._module_strategies if (strategy := ref()) is not None]

    def to_device(self, obj: Any) -> Any:
        """Move a module (in place), a tensor or a collection of tensors to this process's device."""
        if isinstance(obj, Module):
            self._accelerator.setup_device(self.device)
            return obj.to(self.device)
        return self._strategy.batch_to_device(obj)

    def init_module(self, empty_init: bool | None = None) -> AbstractContextManager[Any]:
        """A block in which modules are built on the device and in the format of the precision.

        Args:
            empty_init: True leaves parameters uninitialised, for a large model whose weights come from a checkpoint.
                None lets the strategy decide.
        """
        self._require_met()
        return self._strategy.module_init_context(empty_init)

    def sharded_model(self) -> AbstractContextManager[Any]:
        """The old name of :meth:`init_module`."""
        rank_zero_deprecation("fabric.sharded_model() is the old name of fabric.init_module().")
        return self.init_module()

    def init_tensor(self) -> AbstractContextManager[Any]:
        """A block in which tensors are made on this process's device and in the format of the precision."""
        stack = ExitStack()
        stack.enter_context(self.device)
        stack.enter_context(self._precision.module_init_context())
        return stack

    # -- in the loop --------------------------------------------------------------------------------------

    def backward(self, tensor: Tensor, *args: Any, model: FabricModule | None = None, **kwargs: Any) -> None:
        """Call ``tensor.backward()`` with what precision and strategy add to it.

        Args:
            tensor: The loss.
            args: Arguments for ``Tensor.backward``.
            model: The module whose loss it is; needed if several modules of manual optimisation were set up.
            kwargs: Keyword arguments for ``Tensor.backward``.
        """
        strategies = self._set_up if model is None else [uncompiled(model)._strategy]
        if strategies and not self._keeps_gradients:
            self._take_part()
        loss = self._precision.scale_loss(tensor)
        for strategy in strategies:
            strategy_hook(strategy, "on_before_backward", loss)
        self._in_backward = True
        try:
            loss.backward(*args, **kwargs)
        finally:
            self._in_backward = False
        for strategy in strategies:
            strategy_hook(strategy, "on_after_backward")

    def _refuse_plain_backward(self, gradient: Tensor) -> None:
        if not self._in_backward:
            raise RuntimeError(
                f"precision={self._precision.precision!r} needs fabric.backward(loss) instead of loss.backward()."
            )

    def clip_gradients(
        self,
        module: Module,
        optimizer: Any,
        clip_val: float | None = None,
        max_norm: float | None = None,
        norm_type: float | str = 2.0,
        error_if_nonfinite: bool | None = None,
    ) -> Tensor | None:
        """Clip the gradients of an optimizer's parameters, either by ``clip_val`` or by ``max_norm``.

        Args:
            module: The module that was set up.
            optimizer: Its optimizer.
            clip_val: The bound of each element.
            max_norm: The bound of the norm of all gradients together.
            norm_type: The p of that p-norm; "inf" is possible.
            error_if_nonfinite: Whether a norm that is nan or infinite raises a RuntimeError. The default is True,
                except under a precision with a loss scaler, which skips steps whose gradients overflow.

        Returns:
            The norm before clipping; None with ``clip_val``.

        Raises:
            ValueError: Both bounds were given, or none.
            RuntimeError: The norm is nan or infinite, see ``error_if_nonfinite``.
        """
        if (clip_val is None) == (max_norm is None):
            raise ValueError(f"clip_val={clip_val!r} and max_norm={max_norm!r}: give one of the two.")
        optimizer, strategy = unwrapped(optimizer, self._strategy)
        self._precision.unscale_gradients(optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if clip_val is not None:
            strategy.clip_gradients(parameters, clip_val, "value")
            return None
        assert max_norm is not None
        if norm_type == 2:
            norm = strategy.clip_gradients(parameters, max_norm, "norm")
        else:
            norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm, float(norm_type))
            norm = (
                norm.full_tensor() if hasattr(norm, "full_tensor") else norm
            )  # a norm of divided gradients is divided itself
        if error_if_nonfinite is None:
            error_if_nonfinite = getattr(self._precision, "scaler", None) is None
        if error_if_nonfinite and norm is not None and not torch.isfinite(norm):
            raise RuntimeError(
                f"The norm of the gradients is {norm.item()}, which is non-finite, so they can't be clipped. Find the "
                "cause, or pass error_if_nonfinite=False."
            )
        return norm

    def autocast(self) -> AbstractContextManager[Any]:
        """A block in the context of the precision, for operations outside of the module's ``forward``."""
        return self._precision.forward_context()

    def no_backward_sync(self, module: Module, enabled: bool = True) -> AbstractContextManager[Any]:
        """A block in which backward passes do not exchange gradients; the next pass outside of it does.

        Args:
            module: The module that was set up.
            enabled: False makes the block do nothing, for the last pass of an accumulation.

        Raises:
            TypeError: The module was not set up.
        """
        module = uncompiled(module)
        if not isinstance(module, FabricModule):
            raise TypeError(
                f"no_backward_sync() was given a {type(module).__name__} that was not set up; give it what "
                "fabric.setup() returned."
            )
        return self._keeping_gradients(module._strategy) if enabled else nullcontext()

    @contextmanager
    def _keeping_gradients(self, strategy: Strategy) -> Generator[None, None, None]:
        self._keeps_gradients = True
        try:
            with strategy.no_sync():
                yield
        finally:
            self._keeps_gradients = False

    # -- checkpoints --------------------------------------------------------------------------------------

    def save(self, path: str | Path, state: dict[str, Any], filter: saved.Filters | None = None) -> None:
        """Write a checkpoint; called by all processes.

        Args:
            path: A path or URL.
            state: A name for each thing to save: a module, an optimizer, another object with ``state_dict`` and
                ``load_state_dict``, or plain data.
            filter: For some of the names, a function of a key and a value of that state, which returns whether to save
                the value.

        Raises:
            MisconfigurationException: ``filter`` does not fit ``state``.
        """
        self._strategy.save_checkpoint(saved.collect(self, self._strategy, state, filter), os.fspath(path))
        self.barrier("save")

    def load(
        self,
        path: str | Path,
        state: dict[str, Any] | None = None,
        strict: bool = True,
        *,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint and load what it holds into ``state``; called by all processes.

        Args:
            path: A path or URL.
            state: A dict as :meth:`save` was given: its objects load their state, its plain values are replaced.
            strict: Whether the checkpoint must hold everything in ``state``, and exactly the keys of each module.
            weights_only: False brings any object back as it was, which can run code of the file; only for files from a
                trusted source.

        Returns:
            The part of the checkpoint that is not in ``state``; all of it if ``state`` is None.

        Raises:
            KeyError: The checkpoint lacks something, and ``strict`` is True.
            RuntimeError: It is damaged, or holds objects that only ``weights_only=False`` loads.
        """
        try:
            checkpoint = self._strategy.load_checkpoint(os.fspath(path), weights_only)
        except CheckpointCorruptedError as error:
            if "are no data" not in str(error):
                raise
            advice = "pass weights_only=False only if you trust where it comes from, since that runs its code."
            raise RuntimeError(f"{str(path)!r} holds objects that are no data; {advice}") from error
        for part in self.plugin_manager.named("checkpoint_loader", "state"):
            part.load()(checkpoint, weights_only, saved.modules_of(self._strategy, state or {}))
        if state:
            saved.restore(self._strategy, state, checkpoint, strict)
        self.barrier("load")
        return checkpoint

    def load_raw(self, path: str | Path, obj: Any, strict: bool = True, *, weights_only: bool | None = None) -> None:
        """Load a file that holds the state of one module or optimizer, as ``torch.save(obj.state_dict(), path)`` does.

        Args:
            path: A path or URL.
            obj: The module or optimizer.
            strict: Whether a module's keys must be exactly those of the file.
            weights_only: As in :meth:`load`.

        Raises:
            TypeError: ``obj`` has no ``load_state_dict``.
        """
        checkpoint = self._strategy.load_checkpoint(os.fspath(path), weights_only)
        if not saved.put(self._strategy, obj, checkpoint, strict):
            raise TypeError(f"load_raw() was given a {type(obj).__name__}; give it a module or an optimizer.")

    @staticmethod
    def seed_everything(seed: int | None = None, workers: Any = None, verbose: bool = True) -> int:
        """Seed Python, numpy and PyTorch, and the workers of loaders unless ``workers`` is False; returns the seed."""
        return seed_everything(seed, True if workers is None else workers, verbose)

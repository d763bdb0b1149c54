"""LightningModule: a ``torch.nn.Module`` that says how it is trained, validated, tested and used."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from inspect import getmembers
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from leyden.metrics import LogOptions
from leyden.mixins.hooks import CheckpointHooks, DataHooks, ModelHooks
from leyden.mixins.hparams import CheckpointLoading
from leyden.plugin_system.discovery import discover
from leyden.utilities import MisconfigurationException, rank_zero_warn

if TYPE_CHECKING:
    from typing_extensions import Self

    from leyden.interfaces.logger import Logger
    from leyden.interfaces.runner import Runner
    from leyden.trainer import Trainer


def _of_runner(path: str, default: Any, doc: str) -> Any:
    """A property of a module that is an attribute of whoever runs it.

    Args:
        path: Where it is, from the runner: "strategy.global_rank".
        default: What it is for a module that nobody runs.
        doc: What it is.
    """
    find = attrgetter(path)
    return property(lambda module: find(module._runner) if module._runner is not None else default, doc=doc)


class RunnerProperties:
    """What a module shows of whoever runs it."""

    fabric: Any = _of_runner("fabric", None, "What runs the hand-written loop of this module; None under a Trainer.")
    loggers: Sequence[Logger] = _of_runner("loggers", (), "All loggers.")
    current_epoch: int = _of_runner("current_epoch", 0, "Epochs finished so far; 0 without a Trainer.")
    global_step: int = _of_runner("global_step", 0, "Optimizer steps taken so far; 0 without a Trainer.")
    global_rank: int = _of_runner("strategy.global_rank", 0, "This process among all; 0 without a Trainer.")
    local_rank: int = _of_runner("strategy.local_rank", 0, "This process on its node; 0 without a Trainer.")


class LightningModule(ModelHooks, DataHooks, CheckpointHooks, CheckpointLoading, RunnerProperties, Module):
    """Override ``training_step`` and ``configure_optimizers``, and whatever else should differ.

    Example::

        class Classifier(LightningModule):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Linear(64, 10)

            def training_step(self, batch, batch_idx):
                x, y = batch
                return torch.nn.functional.cross_entropy(self.layer(x), y)

            def configure_optimizers(self):
                return torch.optim.Adam(self.parameters(), lr=1e-3)

    Attributes:
        automatic_optimization: Whether the Trainer goes backward and steps; set it to False to do so yourself.
        example_input_array: An input for ``forward`` (a tensor, a tuple of arguments, a dict of keywords) for
            summaries and exports.
        strict_loading: Whether a checkpoint must have exactly the module's keys.
    """

    automatic_optimization = True
    example_input_array = cast(Any, None)  # no annotation, which TorchScript would hold the value to
    strict_loading = True
    # Annotated, since TorchScript looks for annotations up to the first class with some, and can't read `Trainer`.
    __jit_unused_properties__: ClassVar[list[str]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._runner: Runner | None = None
        self._toggled: dict[Tensor, bool] = {}

    # -- what a model overrides -------------------------------------------------------------------------

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor | Mapping[str, Any] | None:
        """Take ``(batch)`` or ``(batch, batch_idx)``; return the loss, a dict with it, or None to skip the batch."""
        raise NotImplementedError

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """Take ``(batch)``, ``(batch, batch_idx)`` or ``(batch, batch_idx, dataloader_idx)``; log metrics."""
        raise NotImplementedError

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        """As ``validation_step``, on the test data."""
        raise NotImplementedError

    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        """As ``validation_step``; what it returns is collected. By default the model is called on the batch."""
        return self(args[0] if args else kwargs["batch"])

    def configure_optimizers(self) -> Any:
        """Return an optimizer; a list; two lists (optimizers, schedulers); a dict or a tuple of dicts; or None."""
        raise NotImplementedError

    def configure_callbacks(self) -> Any:
        """Return callbacks of the model's own; they replace the Trainer's of the same type."""
        return []

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute gradients of ``loss``."""
        loss.backward(*args, **kwargs)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Step the optimizer. The closure runs forward and backward: an override must pass it on or call it."""
        optimizer.step(closure=optimizer_closure)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Clear the gradients."""
        optimizer.zero_grad()

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Step a scheduler; ``metric`` is what it monitors, or None."""
        if metric is None:
            scheduler.step()
        else:
            scheduler.step(metric)

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip gradients with what the Trainer was given; override to clip otherwise."""
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    # -- logging ----------------------------------------------------------------------------------------

    def log(
        self,
        name: str,
        value: Any,
        prog_bar: bool = False,
        logger: bool | None = None,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: str | Callable[[Any], Any] = "mean",
        enable_graph: bool = False,
        sync_dist: bool = False,
        sync_dist_group: Any | None = None,
        add_dataloader_idx: bool = True,
        batch_size: int | None = None,
        metric_attribute: str | None = None,
        rank_zero_only: bool = False,
    ) -> None:
        """Log one number under a name.

        Args:
            name: Its name; the same in every process.
            value: A number, a tensor of one element, an object that an installed plugin logs, of torchmetrics say, or a
                mapping of these, possibly nested: ``{"a": 1}`` is logged as ``name/a``.
            prog_bar: Show it in the progress bar.
            logger: Send it to the loggers; yes by default.
            on_step: Log this step's value. By default in training steps only.
            on_epoch: Log the epoch's reduced value. By default everywhere but in training steps.
            reduce_fx: "mean" (weighted by batch size), "min", "max", "sum", or a function of the stacked values.
            enable_graph: Keep the autograd graph of the value.
            sync_dist: Reduce over processes.
            sync_dist_group: The process group to reduce over.
            add_dataloader_idx: Add ``/dataloader_idx_N`` where there are several evaluation loaders.
            batch_size: The weight in the mean; by default the first dimension of the batch's first tensor.
            metric_attribute: For a metric object that is no attribute of the module: what it is called.
            rank_zero_only: Only rank 0 calls this; nothing is reduced over processes.

        Raises:
            MisconfigurationException: It has no meaning in the hook that runs, or differs from an earlier call.
            ValueError: The value is no single number.
        """
        if self._runner is None:
            rank_zero_warn(f"self.log({name!r}, …) does nothing: the module is not attached to a Trainer.")
            return
        options = LogOptions(
            prog_bar, logger, on_step, on_epoch, reduce_fx, enable_graph, sync_dist, sync_dist_group,
            add_dataloader_idx, metric_attribute, rank_zero_only,
        )  # fmt: skip
        self._runner.log(name, value, options, batch_size)

    def log_dict(self, dictionary: Mapping[str, Any], *args: Any, **options: Any) -> None:
        """Log several values with the same options, which are those of :meth:`log`.

        Args:
            dictionary: The values by name.
            args: Options in the order of :meth:`log`.
            options: Options by name.
        """
        for name, value in dictionary.items():
            self.log(name, value, *args, **options)

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print once, on rank 0, without tearing the progress bar."""
        (print if self._runner is None else self._runner.print)(*args, **kwargs)

    # -- manual optimisation ----------------------------------------------------------------------------

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        """The optimizer, or the list of several.

        Args:
            use_pl_optimizer: Wrapped, so that its ``step`` counts and calls the hooks; else PyTorch's own objects.
        """
        runner = self._require_runner()
        optimizers = runner.wrapped_optimizers if use_pl_optimizer else runner.optimizers
        return optimizers[0] if len(optimizers) == 1 else list(optimizers)

    def lr_schedulers(self) -> Any:
        """None, the scheduler, or the list of several."""
        schedulers = self._require_runner().lr_schedulers
        return (schedulers[0] if len(schedulers) == 1 else schedulers) if schedulers else None

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """``loss.backward()`` in manual optimisation, with the precision's scaling and the hooks."""
        if self.automatic_optimization:
            raise MisconfigurationException(
                "manual_backward is for manual optimisation; set self.automatic_optimization = False in __init__."
            )
        self._require_runner().backward(loss, *args, **kwargs)

    def clip_gradients(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip the gradients of an optimizer's parameters.

        Args:
            optimizer: Whose parameters.
            gradient_clip_val: The bound; by default the Trainer's; nothing happens without one.
            gradient_clip_algorithm: "norm" (of all gradients together, the default) or "value" (of each element).
        """
        self._require_runner().clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def toggle_optimizer(self, optimizer: Any) -> None:
        """Require gradients for this optimizer's parameters and for no other's; see :meth:`untoggle_optimizer`."""
        for other in self._require_runner().optimizers:
            for parameter in _parameters(other):
                self._toggled.setdefault(parameter, parameter.requires_grad)
                parameter.requires_grad = False
        for parameter in _parameters(optimizer):
            parameter.requires_grad = self._toggled.get(parameter, parameter.requires_grad)

    def untoggle_optimizer(self, optimizer: Any) -> None:
        """Undo :meth:`toggle_optimizer`."""
        for parameter, required in self._toggled.items():
            parameter.requires_grad = required
        self._toggled = {}

    @contextmanager
    def toggled_optimizer(self, optimizer: Any) -> Generator[None, None, None]:
        """A block with :meth:`toggle_optimizer` before and :meth:`untoggle_optimizer` after it."""
        self.toggle_optimizer(optimizer)
        try:
            yield
        finally:
            self.untoggle_optimizer(optimizer)

    # -- where it is ------------------------------------------------------------------------------------

    @property
    def trainer(self) -> Trainer:
        """The Trainer that runs this module.

        Raises:
            RuntimeError: There is none yet.
        """
        return self._require_runner().trainer  # type: ignore[no-any-return]

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        self._attach(trainer.run if trainer is not None else None)

    def _attach(self, runner: Runner | None) -> None:
        """Let this module, and those in it, know who runs them."""
        for module in self.modules():
            if isinstance(module, LightningModule):
                module._runner = runner

    def _require_runner(self) -> Runner:
        if self._runner is None:
            raise RuntimeError(f"{type(self).__qualname__} is not attached to a Trainer.")
        return self._runner

    @property
    def device(self) -> torch.device:
        """The device of the run that is under way, else that of the parameters."""
        if self._runner is not None and self._runner.is_running:
            return self._runner.strategy.root_device
        tensor: Tensor | None = next(chain(self.parameters(), self.buffers()), None)
        return tensor.device if tensor is not None else torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """The type of the first floating-point parameter, else PyTorch's default."""
        return next((p.dtype for p in self.parameters() if p.is_floating_point()), torch.get_default_dtype())

    @property
    def device_mesh(self) -> Any:
        """The ``DeviceMesh`` of the run's strategy, for ``configure_model``; None where it has none."""
        return getattr(self._runner.strategy, "device_mesh", None) if self._runner is not None else None

    @property
    def logger(self) -> Logger | None:
        """The first logger, or None."""
        return next(iter(self.loggers), None)

    # -- export: of forward in evaluation mode; every submodule is back in its own mode afterwards --------------

    def to_onnx(self, file_path: str | os.PathLike[str] | None = None, input_sample: Any = None, **kwargs: Any) -> Any:
        """Export the module as ONNX, by ``torch.onnx.export``.

        Args:
            file_path: The file to write; None writes nothing.
            input_sample: An example input; ``example_input_array`` by default.
            kwargs: Arguments of ``torch.onnx.export``, such as ``dynamic_shapes`` for batches of any size.

        Returns:
            The ``ONNXProgram``; None from PyTorch's older exporter.

        Raises:
            MisconfigurationException: There is no example input.
            ModuleNotFoundError: A package that PyTorch needs for the export is not installed.
            UnknownComponentError: The exporter is not installed.
        """
        return discover().component("exporter", "onnx").load()(self, file_path, input_sample, **kwargs)

    def to_torchscript(
        self,
        file_path: str | os.PathLike[str] | None = None,
        method: str | None = "script",
        example_inputs: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Export the module as TorchScript.

        Args:
            file_path: The file to write, a path or a URL; None writes nothing.
            method: "script" compiles ``forward``, "trace" records the operations that it does for an example input.
            example_inputs: The example input for "trace"; ``example_input_array`` by default.
            kwargs: Arguments of ``torch.jit.script`` or ``torch.jit.trace``.

        Returns:
            The ``torch.jit.ScriptModule``, in evaluation mode.

        Raises:
            MisconfigurationException: ``method`` has another value, or there is no example input to trace.
            UnknownComponentError: The exporter is not installed.
        """
        return discover().component("exporter", "torchscript").load()(self, file_path, method, example_inputs, **kwargs)

    # -- the rest ---------------------------------------------------------------------------------------

    def all_gather(self, data: Any, group: Any | None = None, sync_grads: bool = False) -> Any:
        """Gather tensors or numbers, or a collection of them, from all processes: a new first dimension of that size.

        Text, None and what else is no tensor become lists over the processes. In a single process nothing is added.

        Args:
            data: The data, of the same structure in every process; the tensors have the same shapes.
            group: The processes that take part; None for all.
            sync_grads: Whether gradients flow back to the processes.

        Raises:
            MisconfigurationException: Tensors of the processes have different sizes.
        """
        return self._require_runner().strategy.gather_collection(data, group, sync_grads)

    def freeze(self) -> Self:
        """Require no gradients and go into evaluation mode."""
        return self.requires_grad_(False).eval()

    def unfreeze(self) -> Self:
        """Require gradients everywhere and go into training mode."""
        return self.requires_grad_(True).train()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_runner": None}


# TorchScript would compile every property; those of the user's own classes it may.
LightningModule.__jit_unused_properties__ = [
    name for name, member in getmembers(LightningModule) if isinstance(member, property)
]


def _parameters(optimizer: Any) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]

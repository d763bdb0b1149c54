"""The modules, optimizers and loaders that ``Fabric.setup`` returns: wrappers around the user's own objects."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterator
from functools import partial, wraps
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Module

from leyden.plugins import Precision, set_epoch
from leyden.strategies import Strategy
from leyden.utilities.batch import map_collection

if TYPE_CHECKING:
    from leyden_fabric.fabric import Fabric

STEPS = ("training_step", "validation_step", "test_step", "predict_step")


class FabricModule(Module):
    """Wraps the user's module; ``forward`` runs in the context of the precision and through the strategy.

    Attributes and methods are those of the user's module. A method that runs the model must be marked by
    :meth:`mark_forward_method`; the steps of a LightningModule are marked already.

    Args:
        module: The user's module.
        strategy: The strategy that has set up this module and no other.
        fabric: The Fabric.
    """

    def __init__(self, module: Module, strategy: Strategy, fabric: Fabric) -> None:
        super().__init__()
        self._strategy, self._fabric = strategy, fabric
        self._forward_methods = {name for name in STEPS if hasattr(module, name)}
        self._wraps = type(strategy).step_function is not Strategy.step_function
        precision = strategy.precision
        self._changes_format = precision.precision != Precision.precision
        self._scales = type(precision).scale_loss is not Precision.scale_loss
        self._original = module

    @property
    def module(self) -> Module:
        """The user's own module."""
        return self._original

    @property
    def device(self) -> torch.device:
        """The device of the parameters, or that of the process if there are none."""
        tensor: Tensor | None = next(self.parameters(), None)
        return self._fabric.device if tensor is None else tensor.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the first floating-point parameter, or PyTorch's default type if there is none."""
        return next((p.dtype for p in self.parameters() if p.is_floating_point()), torch.get_default_dtype())

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the user's module; floating-point results are cast to PyTorch's default type."""
        return self._run("__call__", *args, **kwargs)

    def mark_forward_method(self, method: MethodType | str) -> None:
        """Let a method run the model as ``forward`` does, through the strategy.

        Args:
            method: A method of the user's module, or its name.

        Raises:
            TypeError: ``method`` is neither of these.
            ValueError: ``method`` is ``forward`` itself.
            AttributeError: The module has no such method.
        """
        if not isinstance(method, (MethodType, str)):
            raise TypeError(f"mark_forward_method({method!r}): give a method of the module, or its name.")
        name = method if isinstance(method, str) else method.__name__
        if name == "forward":
            raise ValueError("forward is a forward method already; mark others.")
        if not inspect.ismethod(getattr(self._original, name, None)):
            raise AttributeError(f"{type(self._original).__name__} has no method {name!r} that could be marked.")
        self._forward_methods.add(name)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The state of the user's module, under its own names."""
        return self._original.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load a state into the user's module."""
        return self._original.load_state_dict(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> FabricModule:
        """A copy of the user's module, set up as this one; the strategy and the Fabric are not copied."""
        twin: FabricModule = self._fabric.setup(copy.deepcopy(self._original, memo))
        twin._forward_methods = set(self._forward_methods)
        return twin

    def _run(self, name: str, *args: Any, **kwargs: Any) -> Any:
        precision = self._strategy.precision
        args, kwargs = precision.convert_input((args, kwargs))
        with precision.forward_context():
            output = self._strategy.step_function(self._original, name)(*args, **kwargs)
        return self._returned(output) if self._changes_format or self._scales else output

    def _returned(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return map_collection(value, self._returned)
        if self._changes_format and value.is_floating_point():
            value = value.to(torch.get_default_dtype())
        if self._scales and value.grad_fn is not None:
            value.register_hook(self._fabric._refuse_plain_backward)
        return value

    def _guarded(self, method: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Wrap a method so that it refuses to run the model without the strategy, which would miss the gradients."""

        def refuse(*_: Any) -> None:
            raise RuntimeError(
                f"{type(self._original).__name__}.{name}() runs the model without the strategy "
                f"{self._strategy.strategy_name!r}; write model.mark_forward_method({name!r}) after fabric.setup()."
            )

        @wraps(method)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            handles = [module.register_forward_pre_hook(refuse) for module in self._original.modules()]
            try:
                return method(*args, **kwargs)
            finally:
                for handle in handles:
                    handle.remove()

        return guarded

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("_forward_methods", ()):
            return partial(self._run, name)
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "_original" not in self.__dict__.get("_modules", {}):
                raise
        value = getattr(self._original, name)
        return self._guarded(value, name) if self._wraps and inspect.ismethod(value) else value

    def __setattr__(self, name: str, value: Any) -> None:
        original = self.__dict__.get("_modules", {}).get("_original")
        own = original is None or name in self.__dict__ or hasattr(type(self), name)
        if original is not None and (not own or hasattr(original, name)):
            setattr(original, name, value)
        if own:
            super().__setattr__(name, value)


class FabricOptimizer:
    """Wraps an optimizer; ``step`` calls the precision and the strategy.

    Everything else is that of the optimizer. ``isinstance(x, torch.optim.Adam)`` is True for a wrapped Adam. A copy
    wraps a copy of the optimizer; pickled it is the optimizer.

    Args:
        optimizer: The optimizer that the strategy has made from the user's.
        strategy: That strategy.
        fabric: The Fabric.
    """

    def __init__(self, optimizer: Any, strategy: Strategy, fabric: Fabric) -> None:
        self._optimizer, self._strategy, self._fabric = optimizer, strategy, fabric

    @property
    def optimizer(self) -> Any:
        """The wrapped optimizer."""
        return self._optimizer

    def step(self, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        """Step.

        Args:
            closure: Computes the loss and its gradients before the step.
            kwargs: Further arguments for the optimizer's ``step``.

        Returns:
            What the optimizer's ``step`` returned.
        """
        optimizer, precision = self._optimizer, self._strategy.precision

        def prepare() -> None:
            precision.unscale_gradients(optimizer)
            strategy_hook(self._strategy, "on_before_optimizer_step", optimizer)

        def whole() -> Any:
            assert closure is not None
            with torch.enable_grad():
                loss = closure()
            prepare()
            return loss

        if closure is None:
            prepare()
        output = precision.optimizer_step(optimizer, None if closure is None else whole, **kwargs)
        self._fabric.call("on_after_optimizer_step", strategy=self._strategy, optimizer=optimizer)
        return output

    def state_dict(self) -> dict[str, Any]:
        """The whole state of the optimizer, collected from all processes."""
        return self._strategy.optimizer_state_dict(self._optimizer)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        self._strategy.load_optimizer_state_dict(self._optimizer, state_dict)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._optimizer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_optimizer"], name)

    def __copy__(self) -> FabricOptimizer:
        return FabricOptimizer(copy.copy(self._optimizer), self._strategy, self._fabric)

    def __deepcopy__(self, memo: dict[int, Any]) -> FabricOptimizer:
        return FabricOptimizer(copy.deepcopy(self._optimizer, memo), self._strategy, self._fabric)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._optimizer.__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return f"Fabric{self._optimizer!r}"


class FabricDataLoader:
    """Wraps a loader; it moves batches to the device, and tells the sampler that each pass is another epoch.

    Args:
        loader: The loader of this process's part of the data.
        to_device: Moves a batch to the device; None leaves batches on the host.
        device: The device; None if batches stay on the host.
    """

    def __init__(self, loader: Any, to_device: Callable[[Any], Any] | None, device: torch.device | None) -> None:
        self._loader, self._to_device, self.device = loader, to_device, device
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        set_epoch(self._loader, self._epoch)
        self._epoch += 1
        return iter(self._loader) if self._to_device is None else map(self._to_device, self._loader)

    def state_dict(self) -> dict[str, Any]:
        """The number of passes that have begun, and the state of the loader if it has one.

        With the number, the next pass after a restart is shuffled as it would have been.
        """
        inner = {"loader": self._loader.state_dict()} if hasattr(self._loader, "state_dict") else {}
        return {"epoch": self._epoch, **inner}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        self._epoch = state_dict["epoch"]
        if "loader" in state_dict:
            self._loader.load_state_dict(state_dict["loader"])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.__dict__["_loader"], name)


def uncompiled(obj: Any) -> Any:
    """The module that ``torch.compile`` was given; any other object as it is."""
    compiler = sys.modules.get("torch._dynamo.eval_frame")  # not imported here, because that takes seconds
    return obj._orig_mod if compiler is not None and isinstance(obj, compiler.OptimizedModule) else obj


def is_wrapped(obj: object) -> bool:
    """Whether an object is a module, an optimizer or a loader that a Fabric has returned from its ``setup`` methods."""
    return isinstance(uncompiled(obj), (FabricModule, FabricOptimizer, FabricDataLoader))


def unwrapped(obj: Any, strategy: Strategy) -> tuple[Any, Strategy]:
    """Unwrap a module or an optimizer.

    Args:
        obj: A wrapper, or any other object.
        strategy: The strategy of the Fabric.

    Returns:
        The user's module or the strategy's optimizer, and the strategy that has set it up. Any other object is returned
        itself, with ``strategy``.
    """
    obj = uncompiled(obj)
    if isinstance(obj, FabricModule):
        return obj.module, obj._strategy
    return (obj.optimizer, obj._strategy) if type(obj) is FabricOptimizer else (obj, strategy)


def strategy_hook(strategy: Strategy, name: str, *args: Any) -> None:
    """Call the hook ``name`` of a strategy, if it has a method of that name."""
    hook = getattr(strategy, name, None)
    if hook is not None:
        hook(*args)

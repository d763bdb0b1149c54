"""What ``Fabric.setup`` and its like return: the user's module, optimizer and loader, with the strategy in between."""

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

from leyden.data.samplers import set_epoch
from leyden.interfaces.precision import Precision
from leyden.interfaces.strategy import Strategy
from leyden.utilities.batch import map_collection

if TYPE_CHECKING:
    from leyden_fabric.fabric import Fabric

STEPS = ("training_step", "validation_step", "test_step", "predict_step")


class FabricModule(Module):
    """The user's module, whose ``forward`` runs in the precision's context and through the strategy's wrapper.

    Attributes and methods are the user's module's. Methods that run the model must be marked by
    :meth:`mark_forward_method`; the steps of a LightningModule are.

    Args:
        module: The user's module.
        strategy: The strategy that has set it up, and none other.
        fabric: The Fabric of which this is.
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
        """The device of the parameters, or that of the process where there are none."""
        tensor: Tensor | None = next(self.parameters(), None)
        return self._fabric.device if tensor is None else tensor.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the first floating-point parameter, else PyTorch's default."""
        return next((p.dtype for p in self.parameters() if p.is_floating_point()), torch.get_default_dtype())

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the user's module computes; floating-point results have PyTorch's default type again."""
        return self._run("__call__", *args, **kwargs)

    def mark_forward_method(self, method: MethodType | str) -> None:
        """Have a method run the model as ``forward`` does.

        Args:
            method: A method of the user's module, or its name.

        Raises:
            TypeError: It is neither.
            ValueError: It is ``forward`` itself.
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
        """A copy of the user's module, set up as this one was: what strategy and Fabric have is not copied."""
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
        """A method that refuses to run the model past the strategy's wrapper, which would not see its gradients."""

        def refuse(*_: Any) -> None:
            raise RuntimeError(
                f"{type(self._original).__name__}.{name}() runs the model past the strategy "
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
    """Passes everything on to the user's optimizer; ``step`` goes through the precision.

    ``isinstance(x, torch.optim.Adam)`` is true of a wrapped Adam.

    Args:
        optimizer: The optimizer that the strategy made of the user's.
        strategy: That strategy.
        fabric: The Fabric of which this is.
    """

    def __init__(self, optimizer: Any, strategy: Strategy, fabric: Fabric) -> None:
        self._optimizer, self._strategy, self._fabric = optimizer, strategy, fabric

    @property
    def optimizer(self) -> Any:
        """What is wrapped."""
        return self._optimizer

    def step(self, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        """Step, after ``closure`` where one is given, which computes the loss and its gradients."""
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
        """The optimizer's whole state, whatever part of it each process has."""
        return self._strategy.optimizer_state_dict(self._optimizer)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""
        self._strategy.load_optimizer_state_dict(self._optimizer, state_dict)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._optimizer)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # while it is copied or unpickled there is no optimizer yet
            raise AttributeError(name)
        return getattr(self.__dict__["_optimizer"], name)

    def __repr__(self) -> str:
        return f"Fabric{self._optimizer!r}"


class FabricDataLoader:
    """The user's loader, whose batches are on the device of the process; each pass is another epoch for its sampler.

    Args:
        loader: The loader, with this process's part of the data.
        to_device: Moves a batch; None leaves it on the host.
        device: Where to.
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
        """How many passes have begun, so that the next after a restart is shuffled as it would have been.

        With it the state of a loader that keeps one.
        """
        inner = {"loader": self._loader.state_dict()} if hasattr(self._loader, "state_dict") else {}
        return {"epoch": self._epoch, **inner}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""
        self._epoch = state_dict["epoch"]
        if "loader" in state_dict:
            self._loader.load_state_dict(state_dict["loader"])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.__dict__["_loader"], name)


def uncompiled(obj: Any) -> Any:
    """The module that ``torch.compile`` was given, or ``obj`` if it is none of its."""
    compiler = sys.modules.get("torch._dynamo.eval_frame")  # an import of seconds, had nobody used it
    return obj._orig_mod if compiler is not None and isinstance(obj, compiler.OptimizedModule) else obj


def is_wrapped(obj: object) -> bool:
    """Whether a module, an optimizer or a loader is what a Fabric has set up."""
    return isinstance(uncompiled(obj), (FabricModule, FabricOptimizer, FabricDataLoader))


def unwrapped(obj: Any, strategy: Strategy) -> tuple[Any, Strategy]:
    """The user's module or the strategy's optimizer, and the strategy that has set it up.

    Args:
        obj: What is wrapped; anything else is returned as it is, with ``strategy``.
        strategy: The Fabric's.
    """
    obj = uncompiled(obj)
    if isinstance(obj, FabricModule):
        return obj.module, obj._strategy
    return (obj.optimizer, obj._strategy) if type(obj) is FabricOptimizer else (obj, strategy)


def strategy_hook(strategy: Strategy, name: str, *args: Any) -> None:
    """Call one of the hooks of a run that a strategy may have as methods."""
    hook = getattr(strategy, name, None)
    if hook is not None:
        hook(*args)

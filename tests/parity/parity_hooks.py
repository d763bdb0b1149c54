"""The names of Lightning's hooks, and subclasses that write down each call of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

BOTH = [
    "setup",
    "teardown",
    "on_fit_start",
    "on_fit_end",
    "on_train_start",
    "on_train_end",
    "on_train_epoch_start",
    "on_train_epoch_end",
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    *(
        f"on_{stage}_{point}"
        for stage in ("validation", "test", "predict")
        for point in ("start", "end", "epoch_start", "epoch_end", "batch_start", "batch_end")
    ),
    "on_save_checkpoint",
    "on_load_checkpoint",
]
CALLBACK_HOOKS = [
    *BOTH,
    "on_sanity_check_start",
    "on_sanity_check_end",
    "on_exception",
    "state_dict",
    "load_state_dict",
]
MODULE_HOOKS = [
    *BOTH,
    "prepare_data",
    "configure_model",
    "configure_callbacks",
    "on_validation_model_zero_grad",
    "on_validation_model_eval",
    "on_test_model_eval",
    "on_predict_model_eval",
]
OVERRIDE_POINTS = [
    "on_validation_model_train",
    "on_test_model_train",
    "configure_optimizers",
    "training_step",
    "validation_step",
    "test_step",
    "predict_step",
    "train_dataloader",
    "val_dataloader",
    "test_dataloader",
    "predict_dataloader",
    "on_before_batch_transfer",
    "transfer_batch_to_device",
    "on_after_batch_transfer",
    "backward",
    "optimizer_step",
    "optimizer_zero_grad",
    "lr_scheduler_step",
    "configure_gradient_clipping",
]
DATAMODULE_HOOKS = [
    "prepare_data",
    "setup",
    "teardown",
    "train_dataloader",
    "val_dataloader",
    "test_dataloader",
    "predict_dataloader",
    "on_before_batch_transfer",
    "transfer_batch_to_device",
    "on_after_batch_transfer",
    "on_exception",
    "state_dict",
    "load_state_dict",
]

Record = Callable[[Any, str, Mapping[str, Any]], None]


def record_methods(cls: type, names: Iterable[str], record: Record) -> type:
    """A subclass of ``cls``, of the same name, that calls ``record(instance, name, arguments)`` before each method."""
    members = {name: recorded(name, getattr(cls, name), record) for name in names if hasattr(cls, name)}
    return type(cls.__name__, (cls,), {**members, "__module__": cls.__module__, "__qualname__": cls.__qualname__})


def recorded(name: str, method: Callable[..., Any], record: Record) -> Callable[..., Any]:
    """``method`` with ``record`` before it, as a function with the same parameters.

    It is compiled from text: frameworks read a hook's parameters, so that ``*args`` would not be the same hook.
    """
    signature = inspect.signature(method)
    fixed = [p for p in list(signature.parameters.values())[1:] if p.kind is p.POSITIONAL_OR_KEYWORD]
    rest = [
        str(p.replace(annotation=p.empty))
        for p in signature.parameters.values()
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    defaults = {f"default_{p.name}": p.default for p in fixed if p.default is not p.empty}
    head = [f"{p.name}=default_{p.name}" if p.default is not p.empty else p.name for p in fixed]
    names = [p.name for p in fixed]
    pairs = ", ".join(f"{name!r}: {name}" for name in names)
    source = (
        f"def {name}({', '.join(['self', *head, *rest])}):\n"
        f"    record(self, {name!r}, {{{pairs}}})\n"
        f"    return method({', '.join(['self', *names, *rest])})\n"
    )
    namespace: dict[str, Any] = {"record": record, "method": method, **defaults}
    exec(source, namespace)
    function: Callable[..., Any] = namespace[name]
    return function

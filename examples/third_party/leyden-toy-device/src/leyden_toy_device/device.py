"""A device in pure Python, on the place that PyTorch keeps for devices which it does not know (PrivateUse1).

The toy's memory is the host's, and it computes on the host: every operation that reaches it is done on tensors of the
CPU that show the same memory, and its results are shown as the toy's. Showing one as the other is DLPack, the
exchange format for tensors, with the device's number in it replaced (https://dmlc.github.io/dlpack/latest/).

PyTorch calls :func:`autoload` when it is imported, as the entry point in the group ``torch.backends`` asks it to. Its
part of this, ``_setup_privateuseone_for_python_backend``, is experimental.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "toy"
_UNCLAIMED = "privateuseone"  # what PyTorch calls the place while nobody has it
_HOST, _TOY = 1, 12  # kDLCPU and kDLExtDev of DLPack
_DEVICE_AT = ctypes.sizeof(ctypes.c_void_p)  # of the device's number in a DLTensor, behind the address of the data

_address_in = ctypes.pythonapi.PyCapsule_GetPointer
_address_in.restype, _address_in.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_libraries: list[torch.library.Library] = []  # PyTorch forgets the kernels of one that is collected


class ToyModule:
    """``torch.toy``: what PyTorch and an accelerator ask of a device's module; there is one toy."""

    def is_available(self) -> bool:
        """Always."""
        return True

    def is_initialized(self) -> bool:
        """Always: there is nothing to start."""
        return True

    def device_count(self) -> int:
        """One."""
        return 1

    def current_device(self) -> int:
        """The only one."""
        return 0

    def set_device(self, device: Any) -> None:
        """Make ``device`` current: there is no choice."""

    def synchronize(self, device: Any = None) -> None:
        """Wait for what is queued: nothing ever is."""

    def manual_seed_all(self, seed: int) -> None:
        """Seed the toy's generators: it draws from the CPU's, which PyTorch has seeded."""

    def _is_in_bad_fork(self) -> bool:
        return False


def autoload() -> None:
    """Make the toy known to PyTorch if the place for it is free; PyTorch calls this when it is imported.

    Later would do only before the first backward pass of a process, in which PyTorch's autograd counts the devices.
    """
    if torch._C._get_privateuse1_backend_name() == _UNCLAIMED:
        register()


def register() -> None:
    """Make the toy known to PyTorch; once in a process, which can't be undone.

    Raises:
        RuntimeError: Another device has the place.
    """
    owner = torch._C._get_privateuse1_backend_name()
    if owner == NAME and _libraries:
        return
    if owner != _UNCLAIMED:
        raise RuntimeError(
            f"PyTorch has one place for devices that it does not know, and in this process {owner!r} has it; use the "
            "toy in a process of its own."
        )
    _setup_privateuseone_for_python_backend(NAME, backend_module=ToyModule())
    everything, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    _libraries.extend((everything, aten))
    everything.fallback(_on_host, "PrivateUse1")
    for name, kernel in KERNELS.items():
        aten.impl(name, kernel, "PrivateUse1")


def _shown(tensor: Tensor, device: int) -> Tensor:
    """The same memory as a tensor of another device."""
    capsule = torch._C._to_dlpack(tensor)
    ctypes.c_int32.from_address(_address_in(capsule, b"dltensor") + _DEVICE_AT).value = device
    with torch.inference_mode(False):  # a view of a weight is an ordinary tensor even where others are not
        shown: Tensor = torch._C._from_dlpack(capsule)
    return shown


def _host(tensor: Tensor) -> Tensor:
    return _shown(tensor, _HOST) if tensor.device.type == NAME else tensor


def _on_host(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """Any operation, done on the host's view of the arguments."""
    outs = {argument.name for argument in operation._schema.arguments if argument.is_out} & kwargs.keys()
    views: dict[int, tuple[Tensor, Tensor]] = {}

    def to_host(value: Any) -> Any:
        if isinstance(value, Tensor) and value.device.type == NAME:
            view = _host(value)
            views[id(view)] = view, value
            return view
        return torch.device("cpu") if isinstance(value, torch.device) and value.type == NAME else value

    def to_toy(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.device.type != "cpu":
            return value
        return views[id(value)][1] if id(value) in views else _shown(value, _TOY)

    host_args, host_kwargs = tree_map(to_host, (args, kwargs))
    for name in outs:  # may have another size than the result, and what shows other memory can't be resized
        host_kwargs[name] = torch.empty(0, dtype=kwargs[name].dtype)
    result = operation(*host_args, **host_kwargs)
    for name in outs:
        _put(kwargs[name], host_kwargs[name])
        views[id(host_kwargs[name])] = host_kwargs[name], kwargs[name]
    return tree_map(to_toy, result)


def _put(out: Tensor, result: Tensor) -> None:
    """Have a tensor of the toy's hold a result: in its own memory, which others may show too, if that has the size."""
    if out.shape == result.shape:
        _host(out).copy_(result)
    else:
        out.data = _shown(result, _TOY)


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    """What ``to`` and ``copy_`` are made of, in either direction."""
    _host(target).copy_(_host(source))
    return target


def _set_storage(tensor: Tensor, storage: torch.UntypedStorage) -> Tensor:
    """A tensor of all that a storage of the toy's holds; ``torch.save`` reads it so."""
    memory = (ctypes.c_uint8 * storage.nbytes()).from_address(storage.data_ptr())
    memory.owner = storage  # type: ignore[attr-defined]  # so that it lives as long as what shows it
    tensor.data = _shown(torch.frombuffer(memory, dtype=tensor.dtype), _TOY)
    return tensor


def _convolution(*args: Any) -> Any:
    """Convolution, which PyTorch expects of a device under a name of its own."""
    return _on_host(torch.ops.aten.convolution.default, *args)


def _convolution_backward(gradient: Tensor, inputs: Tensor, weight: Tensor, *options: Any) -> Any:
    """Its backward pass, which on the host asks for the size of the bias too, by which ``options`` begins not."""
    bias_size = [gradient.shape[1]] if options[-1][2] else None
    return _on_host(torch.ops.aten.convolution_backward.default, gradient, inputs, weight, bias_size, *options)


KERNELS: dict[str, Callable[..., Any]] = {
    "_copy_from": _copy_from,
    "convolution_overrideable": _convolution,
    "convolution_backward_overrideable": _convolution_backward,
    "set_.source_Storage": _set_storage,
}

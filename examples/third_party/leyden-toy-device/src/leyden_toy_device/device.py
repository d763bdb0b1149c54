"""A device in pure Python, in PyTorch's slot for unknown devices (PrivateUse1).

The toy uses the CPU and its memory. Every operation runs on CPU tensors that are views of the same memory, and its
results become views on the toy. The views are made with DLPack, an exchange format for tensors, by changing the device
number in it (https://dmlc.github.io/dlpack/latest/).

PyTorch calls :func:`autoload` when it is imported, because of the entry point in the group ``torch.backends``. The
function ``_setup_privateuseone_for_python_backend`` of PyTorch is experimental.
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
_UNCLAIMED = "privateuseone"  # PyTorch's name for the slot while no device uses it
_HOST, _TOY = 1, 12  # kDLCPU and kDLExtDev of DLPack
_DEVICE_AT = ctypes.sizeof(ctypes.c_void_p)  # offset of the device number in a DLTensor, after the address of the data

_address_in = ctypes.pythonapi.PyCapsule_GetPointer
_address_in.restype, _address_in.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_libraries: list[torch.library.Library] = []  # PyTorch unregisters the kernels of a library that is garbage-collected


class ToyModule:
    """``torch.toy``: the functions that PyTorch and an accelerator need from a device's module; there is one toy."""

    def is_available(self) -> bool:
        """Return True."""
        return True

    def is_initialized(self) -> bool:
        """Return True, since nothing needs initialising."""
        return True

    def device_count(self) -> int:
        """Return 1."""
        return 1

    def current_device(self) -> int:
        """Return 0, the index of the only device."""
        return 0

    def set_device(self, device: Any) -> None:
        """Do nothing, since there is only one device."""

    def synchronize(self, device: Any = None) -> None:
        """Do nothing, since no work is ever queued."""

    def manual_seed_all(self, seed: int) -> None:
        """Do nothing, since the toy uses the CPU's generator, which PyTorch seeds."""

    def _is_in_bad_fork(self) -> bool:
        return False


def autoload() -> None:
    """Register the toy in PyTorch if the slot is free; PyTorch calls this when it is imported.

    It must be registered before the first backward pass of a process, in which PyTorch's autograd counts the devices.
    """
    if torch._C._get_privateuse1_backend_name() == _UNCLAIMED:
        register()


def register() -> None:
    """Register the toy in PyTorch; a second call does nothing, and it can't be undone.

    Raises:
        RuntimeError: Another device uses the slot.
    """
    owner = torch._C._get_privateuse1_backend_name()
    if owner == NAME and _libraries:
        return
    if owner != _UNCLAIMED:
        raise RuntimeError(
            f"PyTorch has only one slot for unknown devices, and in this process {owner!r} uses it; use the toy in "
            "another process."
        )
    _setup_privateuseone_for_python_backend(NAME, backend_module=ToyModule())
    everything, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    _libraries.extend((everything, aten))
    everything.fallback(_on_host, "PrivateUse1")
    for name, kernel in KERNELS.items():
        aten.impl(name, kernel, "PrivateUse1")


def _view(tensor: Tensor, device: int) -> Tensor:
    """Return a tensor of another device that is a view of the same memory."""
    capsule = torch._C._to_dlpack(tensor)
    ctypes.c_int32.from_address(_address_in(capsule, b"dltensor") + _DEVICE_AT).value = device
    with torch.inference_mode(False):  # the view of a weight must be an ordinary tensor, even in inference mode
        view: Tensor = torch._C._from_dlpack(capsule)
    return view


def _host(tensor: Tensor) -> Tensor:
    return _view(tensor, _HOST) if tensor.device.type == NAME else tensor


def _on_host(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """Run any operation on CPU views of the arguments."""
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
        return views[id(value)][1] if id(value) in views else _view(value, _TOY)

    host_args, host_kwargs = tree_map(to_host, (args, kwargs))
    for name in outs:  # an out tensor may have another size than the result, and a view can't be resized
        host_kwargs[name] = torch.empty(0, dtype=kwargs[name].dtype)
    result = operation(*host_args, **host_kwargs)
    for name in outs:
        _store_result(kwargs[name], host_kwargs[name])
        views[id(host_kwargs[name])] = host_kwargs[name], kwargs[name]
    return tree_map(to_toy, result)


def _store_result(out: Tensor, result: Tensor) -> None:
    """Store a result in a tensor of the toy; if the sizes match, in its own memory, which may have other views."""
    if out.shape == result.shape:
        _host(out).copy_(result)
    else:
        out.data = _view(result, _TOY)


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    """Copy in either direction; PyTorch uses it for ``to`` and ``copy_``."""
    _host(target).copy_(_host(source))
    return target


def _set_storage(tensor: Tensor, storage: torch.UntypedStorage) -> Tensor:
    """Make ``tensor`` a view of a whole storage of the toy, as ``torch.save`` needs to read it."""
    memory = (ctypes.c_uint8 * storage.nbytes()).from_address(storage.data_ptr())
    memory.owner = storage  # type: ignore[attr-defined]  # keeps the storage alive as long as its views
    tensor.data = _view(torch.frombuffer(memory, dtype=tensor.dtype), _TOY)
    return tensor


def _convolution(*args: Any) -> Any:
    """Compute a convolution, for which PyTorch calls unknown devices by a special operation name."""
    return _on_host(torch.ops.aten.convolution.default, *args)


def _convolution_backward(gradient: Tensor, inputs: Tensor, weight: Tensor, *options: Any) -> Any:
    """Compute the backward pass of a convolution; the CPU's operation also needs the size of the bias."""
    bias_size = [gradient.shape[1]] if options[-1][2] else None
    return _on_host(torch.ops.aten.convolution_backward.default, gradient, inputs, weight, bias_size, *options)


KERNELS: dict[str, Callable[..., Any]] = {
    "_copy_from": _copy_from,
    "convolution_overrideable": _convolution,
    "convolution_backward_overrideable": _convolution_backward,
    "set_.source_Storage": _set_storage,
}

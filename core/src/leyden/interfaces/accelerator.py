"""Accelerator: one type of device. To name the device type is enough; PyTorch answers the rest."""

import re
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from leyden.utilities import MisconfigurationException


class Accelerator:
    """One device type, by means of PyTorch's generic device modules.

    An author *must* set :attr:`device_type`. For a device that does not keep copies and computations in order,
    :attr:`non_blocking_transfer` *must* be False. Every method asks ``torch.get_device_module(device_type)`` and *may*
    be overridden where a device differs. Where that module lacks a function (``set_device``, ``synchronize``,
    ``empty_cache``, ``memory_stats``, ``get_rng_state``), the method assumes that the device needs none and does
    nothing. Availability, counting and parsing are class methods, because the class is asked before there is an
    instance: ``accelerator="auto"`` must not touch a device that is missing.

    Example::

        # leyden_npu/accelerator.py; the package has an entry point npu = "leyden_npu.plugin" in the group leyden
        import torch_npu  # makes the device known to PyTorch
        from leyden.accelerators import Accelerator

        class NPUAccelerator(Accelerator):
            device_type = "npu"

        # leyden_npu/plugin.py
        from leyden import Component, hookimpl

        @hookimpl
        def leyden_components():
            yield Component("accelerator", "npu", "leyden_npu.accelerator:NPUAccelerator", {"priority": 50})

    Attributes:
        device_type: What PyTorch calls the device, as in ``torch.device("npu", 0)``.
        non_blocking_transfer: Whether copies to the device may run in the background. True needs a device that starts a
            computation only after the copies that were queued before it.
    """

    device_type: ClassVar[str]
    non_blocking_transfer: ClassVar[bool] = True

    @classmethod
    def device_module(cls) -> Any:
        """PyTorch's module for this device type, such as ``torch.cuda``.

        Raises:
            RuntimeError: This build of PyTorch has none.
        """
        return torch.get_device_module(cls.device_type)

    @classmethod
    def _call(cls, name: str, *arguments: Any) -> Any:
        """Call a function of the device's module; None where the module has no such function."""
        try:
            function = getattr(cls.device_module(), name, None)
        except RuntimeError:  # PyTorch has no module for the device: "meta", for example
            return None
        return function(*arguments) if function is not None else None

    @classmethod
    def name(cls) -> str:
        """The name that users see."""
        return cls.device_type

    @classmethod
    def is_available(cls) -> bool:
        """Whether at least one such device can be used now."""
        return bool(cls._call("is_available"))

    @classmethod
    def auto_device_count(cls) -> int:
        """How many devices ``devices="auto"`` means."""
        count = cls._call("device_count")
        return int(cls.is_available() if count is None else count)

    @classmethod
    def process_group_backend(cls) -> str:
        """The name of the ``torch.distributed`` backend that connects processes on such devices.

        Raises:
            MisconfigurationException: PyTorch knows no backend for this device type.
        """
        try:
            return str(torch.distributed.get_default_backend_for_device(cls.device_type))
        except ValueError as error:
            raise MisconfigurationException(
                f"torch.distributed has no backend for the device {cls.device_type!r}; train in one process with "
                "strategy='single_device', or give the strategy a process_group_backend."
            ) from error

    @classmethod
    def parse_devices(cls, devices: int | str | Sequence[int]) -> list[int]:
        """Device indices from the value of ``Trainer(devices=...)``: n, -1, "auto", "3", "0, 1" or [0, 1].

        Raises:
            MisconfigurationException: The value is not understood, or names a device that is missing.
        """
        available = cls.auto_device_count()
        indices = list(parse_indices(devices, available))
        if missing := [i for i in indices if not 0 <= i < available]:
            raise MisconfigurationException(
                f"devices={devices!r} asks for {cls.device_type} device {missing[0]}, but this machine has "
                f"{available}, counted from 0."
            )
        if not indices or len(set(indices)) < len(indices):
            raise MisconfigurationException(f"devices={devices!r} must name at least one device, and none twice.")
        return indices

    @classmethod
    def get_parallel_devices(cls, devices: Sequence[int]) -> list[torch.device]:
        """The devices with these indices."""
        return [torch.device(cls.device_type, i) for i in devices]

    def set_options(self, deterministic: bool, benchmark: bool | None) -> None:
        """Apply the Trainer's ``deterministic`` and ``benchmark`` where the device has settings for them.

        The Trainer has called ``torch.use_deterministic_algorithms`` already.

        Args:
            deterministic: Whether only deterministic algorithms are to be used.
            benchmark: Whether the device is to time its algorithms and take the fastest; None leaves its setting.
        """

    def setup_device(self, device: torch.device) -> None:
        """Make ``device`` the current device of this process.

        Raises:
            MisconfigurationException: The device is of another type.
        """
        if device.type != self.device_type:
            raise MisconfigurationException(
                f"{type(self).__name__} was given {device}; it runs on {self.device_type!r} devices only."
            )
        self._call("set_device", device)

    def teardown(self) -> None:
        """Free memory that the run no longer uses: the free blocks of the device's caching allocator, if it has one."""
        self._call("empty_cache")

    def synchronize(self, device: torch.device) -> None:
        """Wait until all work that is queued on ``device`` is done."""
        self._call("synchronize", device)

    def get_device_stats(self, device: torch.device) -> dict[str, Any]:
        """Memory statistics of ``device`` by name, in bytes unless the name says otherwise; {} where there are none."""
        return dict(self._call("memory_stats", device) or {})

    def get_rng_state(self, device: torch.device) -> torch.Tensor | None:
        """The state of the device's random generator, a byte tensor on the host; None where it has no generator."""
        state: torch.Tensor | None = self._call("get_rng_state", device)
        return state

    def set_rng_state(self, state: torch.Tensor, device: torch.device) -> None:
        """Restore what :meth:`get_rng_state` returned."""
        self._call("set_rng_state", state, device)

    def supports_precision(self, precision: str) -> bool:
        """Whether this device can compute in ``precision``, e.g. "bf16-mixed"; False if it fails or is very slow."""
        return True


def parse_indices(devices: int | str | Sequence[int], available: int) -> Sequence[int]:
    """Turn the value of ``Trainer(devices=...)`` into indices; whether these devices exist is not checked.

    Args:
        devices: n, -1, "auto", "3", "0, 1" or [0, 1].
        available: How many devices "auto" and -1 mean.

    Raises:
        MisconfigurationException: The value is not understood.
    """
    asked: Any = devices
    if isinstance(devices, str):
        text = devices.strip()
        if text == "auto":
            asked = available
        elif re.fullmatch(r"-?\d{1,9}", text):
            asked = int(text)
        elif re.fullmatch(r"\d+(\s*,\s*\d+)*\s*,?", text):
            asked = [int(part) for part in text.split(",") if part.strip()]
    if isinstance(asked, (list, tuple)) and all(type(index) is int for index in asked):
        return asked
    if type(asked) is not int:
        raise MisconfigurationException(f'devices={devices!r} is not understood; write 2, "auto", -1 or [0, 1].')
    count = available if asked == -1 else asked
    if count < 1:
        raise MisconfigurationException(f"devices={devices!r} means {count}; ask for at least 1, or for all with -1.")
    return range(count)

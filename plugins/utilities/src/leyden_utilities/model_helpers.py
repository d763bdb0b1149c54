"""Tells which methods a module, data module or callback overrides."""

from __future__ import annotations

from leyden import Callback, LightningDataModule, LightningModule
from leyden.utilities import objects


def is_overridden(method_name: str, instance: object | None, parent: type[object] | None = None) -> bool:
    """Whether a module, data module or callback overrides a method.

    Args:
        method_name: The method's name, such as "training_step".
        instance: The object; for None the answer is False.
        parent: The base class with the method; by default LightningModule, LightningDataModule or Callback.

    Raises:
        ValueError: ``instance`` derives from none of the three and ``parent`` is not given, or the base class has no
            such method.
    """
    if instance is None:
        return False
    bases = (LightningModule, LightningDataModule, Callback)
    base = parent or next((base for base in bases if isinstance(instance, base)), None)
    if base is None:
        raise ValueError(f"is_overridden({method_name!r}, {instance!r}) does not know the base class; give parent=...")
    if not hasattr(base, method_name):
        raise ValueError(f"{base.__name__} has no method {method_name!r} that could be overridden.")
    return objects.is_overridden(method_name, instance, base)

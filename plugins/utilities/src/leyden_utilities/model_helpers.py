"""What users ask of a module, a data module or a callback."""

from __future__ import annotations

from leyden import Callback, LightningDataModule, LightningModule
from leyden.utilities import objects


def is_overridden(method_name: str, instance: object | None, parent: type[object] | None = None) -> bool:
    """Whether a module, data module or callback has a method of its own.

    Args:
        method_name: The method, such as "training_step".
        instance: The object that is asked; None has nothing.
        parent: The class whose method would be overridden; by default the one that users derive from.

    Raises:
        ValueError: The class can't be told from the object, or has no such method.
    """
    if instance is None:
        return False
    bases = (LightningModule, LightningDataModule, Callback)
    base = parent or next((base for base in bases if isinstance(instance, base)), None)
    if base is None:
        raise ValueError(f"is_overridden({method_name!r}, {instance!r}) can't tell the base class; give parent=...")
    if not hasattr(base, method_name):
        raise ValueError(f"{base.__name__} has no method {method_name!r} that could be overridden.")
    return objects.is_overridden(method_name, instance, base)

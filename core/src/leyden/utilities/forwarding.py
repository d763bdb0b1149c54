"""Properties of an object that are attributes of another one."""

from operator import attrgetter
from typing import Any


def forward(path: str, doc: str, settable: bool = False) -> Any:
    """A property that is an attribute of another object.

    Args:
        path: Where it is, from the object that has the property: "run.progress.epoch".
        doc: What it is.
        settable: Whether it may be assigned.
    """
    owner, _, name = path.rpartition(".")

    def set_it(this: Any, value: Any) -> None:
        setattr(attrgetter(owner)(this), name, value)

    return property(attrgetter(path), set_it if settable else None, doc=doc)


def is_at(path: str, value: Any, doc: str) -> Any:
    """A property: whether an attribute of another object is ``value``."""
    find = attrgetter(path)
    return property(lambda this: find(this) is value, doc=doc)

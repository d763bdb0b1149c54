"""Attributes of objects: a dict that has them, another object's, values that plugins keep, overridden methods."""

from operator import attrgetter
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


class AttributeDict(dict[str, Any]):
    """``d.lr`` is ``d["lr"]``; setting an attribute sets the key."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"There is no attribute {name!r}; there are: {', '.join(map(str, self)) or 'none'}.")

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        del self[name]

    def __repr__(self) -> str:
        keys = [f'"{key}":' for key in self]
        width = max(map(len, keys), default=0)
        return "\n".join(f"{key:{width}} {value}" for key, value in zip(keys, self.values(), strict=True))


class StashKey(Generic[T]):
    """The key of one value of type ``T``; whoever makes it is the only one who has it.

    Example::

        started_at = StashKey[float]()
        trainer.run.stash[started_at] = time.monotonic()
    """


class Stash(dict[StashKey[Any], Any]):
    """A place where plugins keep state of theirs with an object of the core, by :class:`StashKey`.

    No two plugins can meet in one key, as they can in two attributes of one name.
    """

    def __setitem__(self, key: StashKey[T], value: T) -> None:
        super().__setitem__(key, value)

    def __getitem__(self, key: StashKey[T]) -> T:
        return cast(T, super().__getitem__(key))


def is_overridden(name: str, target: Any, base: type | None) -> bool:
    """Whether ``target`` has a method ``name`` of its own, in its class or put on the instance."""
    if name in getattr(target, "__dict__", {}):
        return callable(target.__dict__[name])
    own = getattr(type(target), name, None)
    return callable(own) and own is not getattr(base, name, None)


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

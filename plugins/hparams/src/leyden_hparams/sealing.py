"""What a checkpoint keeps of values that are no plain data: their types, and themselves, sealed.

Plain data is what every loading reads. Beside it, under ``checkpoint["leyden"]["sealed"]``, stands a record for each
value that plain data does not say: where it is, what it was, and, for a type of ``kinds``, how to make it again. Values
of other types are pickled too, all into one tensor of bytes, which nothing opens unless the user trusts the file.
"""

from __future__ import annotations

import io
import os
import pickle
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from leyden import LightningDataModule, LightningModule, Trainer
from leyden.plugins import CHECKPOINT_KEY
from leyden.utilities import MisconfigurationException, rank_zero_warn
from leyden.utilities.exceptions import CheckpointCorruptedError
from leyden.utilities.plain import to_plain
from leyden_hparams.kinds import KINDS, config_data, is_config, kind_of

HPARAMS_KEYS = (LightningModule.CHECKPOINT_HYPER_PARAMS_KEY, LightningDataModule.CHECKPOINT_HYPER_PARAMS_KEY)
KEY = "sealed"  # under Leyden's own key
SOURCE = "source"  # the first step of the path of an object that held all hyperparameters; it is in no checkpoint
EXTRA_STATE = "_extra_state"  # how PyTorch names what get_extra_state returns
PLAIN_KEYS = {str, int, float, bool, complex, bytes, type(None)}
TRUE = ("1", "y", "yes", "true")  # what PyTorch takes for a switch that is on
NOTHING: Any = type("Nothing", (), {"__repr__": lambda self: "nothing"})()

Path = tuple[Any, ...]


class Unopened:
    """Stands in a ``state_dict`` for the extra state of a submodule that is sealed and was not opened."""


@dataclass
class Record:
    """A value that plain data does not say.

    Attributes:
        path: The keys that lead to it in the checkpoint.
        name: The path as text.
        was: The name of its class; it is compared and shown, and nothing is imported by it.
        kind: The key of the type in ``KINDS``; None for others.
        detail: What is kept beside plain data: of a kind's value, or the name of an Enum's member.
        index: Its place among the pickled values; None where it is not pickled.
        is_lost: Whether there is no plain data in its place.
        is_sealed: Whether it, or what it is a part of, is pickled; when it is loaded.
        value: The value itself: when it is saved, and after it has been opened.
    """

    path: Path
    name: str
    was: str
    kind: str | None = None
    detail: Any = None
    index: int | None = None
    is_lost: bool = False
    is_sealed: bool = False
    value: Any = NOTHING
    inner: list[Record] = field(default_factory=list)

    def flat(self) -> Iterator[Record]:
        """This record and those of the values within its value."""
        yield self
        for record in self.inner:
            yield from record.flat()

    def candidates(self) -> Iterator[Record]:
        """The outermost values that have to be pickled to be brought back as they were."""
        if self.kind is None or self.kind == "config":  # of a config, interpolations are resolved
            yield self
        else:
            yield from _candidates(self.inner)

    def stored(self) -> list[Any]:
        """The record as plain data."""
        return [list(self.path), self.name, self.was, self.kind, self.detail, self.index, self.is_lost]


def _candidates(records: Iterable[Record]) -> Iterator[Record]:
    for record in records:
        yield from record.candidates()


# -- saving ------------------------------------------------------------------------------------------------


def seal(owner: Any, checkpoint: Mapping[str, Any], plain: dict[str, Any], dropped: list[str]) -> None:
    """Add to a checkpoint's plain data what it does not say; see the hook ``leyden_seal`` for the arguments."""
    records = [*Comparison().of_members(checkpoint, plain), *_sources(owner, checkpoint, plain)]
    if not records:
        return
    pickled = _pickled(records)
    written = [record for outer in records for record in outer.flat()]
    plain.setdefault(CHECKPOINT_KEY, {})[KEY] = {"records": [each.stored() for each in written], "pickle": pickled}
    there = {record.name for record in written if not record.is_lost}
    whole = [record.name for record in written if record.index is not None or record.kind == "config"]
    within = tuple(f"{name}{step}" for name in whole for step in ".[")
    dropped[:] = [name for name in dropped if name not in {*there, *whole} and not name.startswith(within)]
    opaque = [record.name for record in written if record.is_lost and record.index is not None]
    if news := (owner.run.not_told(opaque) if isinstance(owner, Trainer) else opaque):
        rank_zero_warn(
            f"Sealed in the checkpoint, since loading it means running code: {', '.join(news)}. Only "
            "weights_only=False opens it, for a file that you trust."
        )


class Comparison:
    """Compares values with the plain data that was made of them."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], Any] = {}  # with the values, since the numbers of others would be used again

    def of(self, value: Any, plain: Any, path: Path, name: str) -> Iterator[Record]:
        """Yield a record for a value, or for those within it, where plain data does not say what they are."""
        if value is plain or (isinstance(value, Tensor) and plain is not NOTHING):
            return
        was = f"{type(value).__module__}.{type(value).__qualname__}"
        if plain is NOTHING:
            yield Record(path, name, was, None, _member(value), is_lost=True, value=value)
            return
        inner = self._inner(value, plain, path, name)
        kind = kind_of(value) if _says_members(value) else None
        if kind is None and type(value) is type(plain) and _says_members(value):
            yield from inner
        else:
            detail = KINDS[kind].detail(value) if kind is not None else _member(value)
            yield Record(path, name, was, kind, to_plain(detail, dropped=[]), value=value, inner=inner)

    def _inner(self, value: Any, plain: Any, path: Path, name: str) -> list[Record]:
        """The records of what a value holds; none for plain data that another path leads to as well, once is enough."""
        if (id(value), id(plain)) in self._seen:
            return []
        try:
            inner = list(self.of_members(value, plain, path, name))
        except Exception:  # any error of a user's class
            inner = []
        if not inner or isinstance(plain, (dict, list)):  # what is in a tuple can't be put back in place
            self._seen[id(value), id(plain)] = value, plain
        return inner

    def of_members(self, value: Any, plain: Any, path: Path = (), name: str = "") -> Iterator[Record]:
        """Yield the records of what a collection holds."""
        for key, shown, member in _members(value):
            there = _item(plain, key)
            if isinstance(plain, dict) and is_config(member):
                there = plain[key] = to_plain(config_data(member), dropped=[])
            elif isinstance(plain, dict) and isinstance(member, Enum) and there is NOTHING:
                there = plain[key] = member.name  # its value is no data
            yield from self.of(member, there, (*path, key), f"{name}{shown}" if name else shown.lstrip("."))


def _member(value: Any) -> Any:
    """The name of an Enum's member."""
    return value.name if isinstance(value, Enum) else None


def _members(value: Any) -> Iterator[tuple[Any, str, Any]]:
    """The key of each member in plain data, how a path shows it, and the member."""
    if is_config(value):
        value = config_data(value)
    if isinstance(value, Mapping):
        for key, member in value.items():
            plain = _plain_key(key)
            if plain is not NOTHING:
                yield plain, f".{key}", member
    elif isinstance(value, (list, tuple, deque)):
        yield from ((index, f"[{index}]", member) for index, member in enumerate(value))
    elif is_dataclass(value) and not isinstance(value, type):
        yield from ((each.name, f".{each.name}", getattr(value, each.name)) for each in fields(value))
    elif type(value).__name__ == "Namespace":
        yield from ((name, f".{name}", member) for name, member in vars(value).items())


def _plain_key(key: Any) -> Any:
    """The key that stands for a key in plain data; NOTHING for one that has no place there."""
    try:
        plain = to_plain(key)
        hash(plain)
    except Exception:
        return NOTHING
    return plain


def _item(plain: Any, key: Any) -> Any:
    try:
        return plain[key]
    except (LookupError, TypeError):
        return NOTHING


def _says_members(value: Any) -> bool:
    """Whether the keys of a mapping, or the members of a set, are plain data as they are."""
    if not isinstance(value, (Mapping, set, frozenset)) or is_config(value):
        return True
    return all(map(is_plain_key, value))


def is_plain_key(key: Any) -> bool:
    """Whether a key of a mapping, or a member of a set, is plain data as it is."""
    return (type(key) in PLAIN_KEYS and key != b"") or (type(key) is tuple and all(map(is_plain_key, key)))


def _sources(owner: Any, checkpoint: Mapping[str, Any], plain: dict[str, Any]) -> Iterator[Record]:
    """The objects that held all hyperparameters, whose attributes are saved and which were more than a dict."""
    for each in owner.run.owners if isinstance(owner, Trainer) else ():
        source, key = getattr(each, "_hparams_source", None), each.CHECKPOINT_HYPER_PARAMS_KEY
        if source is None or type(source) is dict or not _is_unchanged(source, checkpoint.get(key)):
            continue
        for record in Comparison().of(source, plain[key], (SOURCE, key), key):
            record.inner = []  # those of what it holds are under the key itself
            yield record


def _is_unchanged(source: Any, saved: Any) -> bool:
    """Whether an object has the values that are saved, and no more."""
    try:
        own = dict(source) if isinstance(source, Mapping) else vars(source)
        return isinstance(saved, dict) and own.keys() == saved.keys() and all(_same(own[k], saved[k]) for k in own)
    except Exception:  # any error of a user's class
        return False


def _same(one: Any, other: Any) -> bool:
    return one is other or bool(one == other)


class _Pickler(pickle.Pickler):
    """Pickles members of Enums by name; before Python 3.12 pickle does so by value, which may have no equal."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Enum) and type(value).__members__.get(str(value.name)) is value:
            return getattr, (type(value), value.name)
        return NotImplemented


_PICKLE = ModuleType("pickle")  # what PyTorch needs of such a module
_PICKLE.Pickler = _Pickler  # type: ignore[attr-defined]


def _pickled(records: list[Record]) -> Tensor | None:
    """Pickle the outermost values that can be; their records are told their places."""
    chosen = list(_candidates(records))
    while chosen:
        try:
            pickled = _pickle([record.value for record in chosen])
        except Exception:  # any error of a user's class
            able = {id(record) for record in chosen if _can_be_pickled(record.value)}
            if len(able) == len(chosen):
                return None
            inner = [r for record in chosen if id(record) not in able for r in _candidates(record.inner)]
            chosen = [record for record in chosen if id(record) in able] + inner
        else:
            for index, record in enumerate(chosen):
                record.index = index
            return pickled
    return None


def _can_be_pickled(value: Any) -> bool:
    try:
        _pickle([value])
    except Exception:
        return False
    return True


def _pickle(values: list[Any]) -> Tensor:
    parts = [part for value in values if isinstance(value, Module) for part in value.parameters()]
    if any(hasattr(part, "device_mesh") or hasattr(part, "ds_id") for part in parts):
        raise ValueError("this process has only a part of its parameters")
    buffer = io.BytesIO()
    torch.save(values, buffer, pickle_module=_PICKLE)
    return torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)


# -- loading -----------------------------------------------------------------------------------------------


def is_trusted(weights_only: bool | None) -> bool:
    """Whether the user lets a file run code: by ``weights_only=False``, or by PyTorch's switch, which needs None."""
    forbids, allows = (os.environ.get(f"TORCH_FORCE_{no}WEIGHTS_ONLY_LOAD", "").lower() in TRUE for no in ("", "NO_"))
    return not forbids and (weights_only is False or (weights_only is None and allows))


def unseal(checkpoint: dict[str, Any], weights_only: bool | None) -> list[Record]:
    """Put back in place what the records of a checkpoint say, and take the records out of it.

    Args:
        checkpoint: The checkpoint as it was read.
        weights_only: False opens what is sealed, and None does if PyTorch's own switch says so.

    Returns:
        The records of values that did not come back as they were.

    Raises:
        CheckpointCorruptedError: The records are not of the form in which they are written.
        MisconfigurationException: What is sealed can't be unpickled.
    """
    own = checkpoint.get(CHECKPOINT_KEY) if isinstance(checkpoint, dict) else None
    if not isinstance(own, dict) or KEY not in own:
        return []
    sealed = own.pop(KEY)
    if not own:
        del checkpoint[CHECKPOINT_KEY]
    try:
        records = [Record(tuple(path), str(name), str(was), *rest) for path, name, was, *rest in sealed["records"]]
        pickled = sealed["pickle"]
        assert all({record.path: True for record in records})  # none is empty, and each can be looked up
    except Exception as error:
        raise CheckpointCorruptedError("The sealed part of the checkpoint is not in the form of Leyden.") from error
    if pickled is not None and is_trusted(weights_only):
        _open(checkpoint, pickled, records)
    sealed_paths = {record.path for record in records if record.index is not None}
    for record in records:
        record.is_sealed = _is_within(record.path, sealed_paths)
    opened = {record.path for record in records if record.value is not NOTHING}
    rest = [record for record in records if not _is_within(record.path, opened)]
    remade = {record.path for record in sorted(rest, key=lambda one: -len(one.path)) if _remake(checkpoint, record)}
    left = [record for record in rest if record.path not in remade]
    for record in left:
        if record.is_lost and str(record.path[-1]).endswith(EXTRA_STATE):
            _put(checkpoint, record.path, Unopened())
    return [*left, *(record for record in records if record.path in opened and record.path[0] == SOURCE)]


def _is_within(path: Path, places: set[Path]) -> bool:
    """Whether a path is one of these places, or leads through one."""
    return any(path[:end] in places for end in range(1, len(path) + 1))


def _open(checkpoint: dict[str, Any], pickled: Tensor, records: list[Record]) -> None:
    names = ", ".join(record.name for record in records if record.index is not None)
    try:
        values = torch.load(io.BytesIO(pickled.cpu().numpy().tobytes()), map_location="cpu", weights_only=False)
    except Exception as error:
        raise MisconfigurationException(
            f"What is sealed in the checkpoint ({names}) can't be opened: {type(error).__name__}: {error}. Import what "
            "it is made of, or load without weights_only=False and pass the arguments."
        ) from error
    for record in records:
        if record.index is not None:
            record.value = values[record.index]
            _put(checkpoint, record.path, record.value)


def _remake(checkpoint: dict[str, Any], record: Record) -> bool:
    """Make a value of a known kind again; returns whether that was done."""
    kind = KINDS.get(str(record.kind))
    if kind is None:
        return False
    try:
        data = checkpoint
        for key in record.path:
            data = data[key]
        made = kind.make(data, record.detail)
    except Exception:  # data of another form, in a file that was made up
        return False
    return _put(checkpoint, record.path, made)


def _put(tree: Any, path: Path, value: Any) -> bool:
    """Put a value where a path leads in a tree of dicts, lists and tuples; returns whether it leads anywhere."""
    try:
        _with(tree, path, value)
    except Exception:
        return False
    return True


def _with(tree: Any, path: Path, value: Any) -> Any:
    if not path:
        return value
    key, *rest = path
    if isinstance(tree, tuple):
        items = list(tree)
        items[key] = _with(items[key], tuple(rest), value)
        return tuple(items)
    tree[key] = _with(tree[key], tuple(rest), value) if rest else value
    return tree


def tell_of_unopened(records: list[Record]) -> None:
    """Warn of sealed values that were not opened; a run does not need the hyperparameters in its checkpoint."""
    names = [each.name for each in records if each.is_sealed and each.path[0] not in (*HPARAMS_KEYS, SOURCE)]
    if names:
        rank_zero_warn(
            f"The checkpoint has values that are sealed, since they are no plain data: {', '.join(names)}. They are "
            "missing here, or plain data; weights_only=False brings them back as they were, for a file that you trust."
        )

"""Makes hyperparameters again from plain data, by the types that the code names.

Types come from the annotations and defaults of ``__init__``, and from the fields of the dataclasses and named tuples
found there. What a checkpoint says that a value was only chooses among these; no name in it is imported.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from enum import Enum
from pathlib import PurePath
from typing import Any, Union, get_args, get_origin

import numpy
from typing_extensions import is_typeddict

from leyden_hparams.sealing import NOTHING, Path, Record, is_plain_key

_UNIONS = (Union, types.UnionType)
_TIMES = (date, datetime, time)
_COLLECTIONS = (list, tuple, set, frozenset)
_COLLECTIONS_BY_KEY = (dict, set, frozenset)
# Types of which users derive their own, and the plain data of these.
_BASES: dict[type, type] = {each: each for each in (str, int, float, bytes, dict, list, tuple, set)} | {frozenset: set}


class Unfit(Exception):
    """Raised where plain data can't become a value of a type."""


def parameter_types(cls: type) -> dict[str, Any]:
    """The type that the code names for each argument of a class, and of its bases where ``**kwargs`` leads there."""
    found: dict[str, Any] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        try:
            parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        except (TypeError, ValueError):  # it is no function of Python
            break
        for parameter in parameters:
            found.setdefault(parameter.name, _named_type(parameter, vars(base)["__init__"], vars(base)))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def _named_type(parameter: inspect.Parameter, function: Any, names: Mapping[str, Any]) -> Any:
    """The annotation or the type of the default; both, where there are both."""
    named = [] if parameter.annotation is parameter.empty else [resolved(parameter.annotation, function, names)]
    if parameter.default is not parameter.empty and parameter.default is not None:
        named.append(_type_of(parameter.default))
    return _union(named) if named else Any


def _union(alternatives: Iterable[Any]) -> Any:
    return Union[tuple(alternatives)]  # noqa: UP007  # of as many as there are


def _type_of(value: Any) -> Any:
    """The type of a default; of a collection, with those of its members."""
    if type(value) in _COLLECTIONS and value:
        collection: Any = type(value)
        return collection[_union(map(_type_of, value)), ...]
    return type(value)


def resolved(annotation: Any, owner: Any, of_class: Mapping[str, Any]) -> Any:
    """An annotation that may be text, as a type; Any where its names are not known.

    Args:
        annotation: The annotation.
        owner: The function or class that it belongs to.
        of_class: What the class defines, of which the function is a method.
    """

    def holder() -> None: ...

    holder.__annotations__ = {"it": annotation}
    module = inspect.getmodule(owner)
    names = {**(vars(module) if module is not None else {}), **getattr(inspect.unwrap(owner), "__globals__", {})}
    try:
        return typing.get_type_hints(holder, names, dict(of_class))["it"]
    except Exception:  # whatever the evaluation of a user's text raises
        return Any


class Rebuilder:
    """Makes values again, and remembers which of the values that plain data does not say came back.

    Args:
        records: What the checkpoint says of values that plain data does not say, by the path in the arguments.
    """

    def __init__(self, records: Mapping[Path, Record]) -> None:
        self._records, self.done, self._whole = records, set[Path](), set[Path]()

    def missing(self, argument: str) -> list[Record]:
        """The records of an argument whose values did not come back."""
        return [r for path, r in self._records.items() if path[0] == argument and not self._is_done(path)]

    def _is_done(self, path: Path) -> bool:
        return path in self.done or any(path[:end] in self._whole for end in range(1, len(path)))

    def made(self, value: Any, hint: Any, path: Path) -> Any:
        """The value at a path as its type says; the value itself where the type says nothing of it."""
        try:
            return self._of_type(value, hint, path)
        except Unfit:
            return value

    def _of_type(self, value: Any, hint: Any, path: Path) -> Any:
        hint = getattr(hint, "__supertype__", hint)  # of a NewType
        origin, arguments = get_origin(hint), get_args(hint)
        if origin in _UNIONS:
            return self._of_union(value, arguments, path)
        cls, record = origin or hint, self._records.get(path)
        if cls is Any or not isinstance(cls, type):
            return value
        if is_typeddict(cls) and isinstance(value, dict):
            hints = {name: resolved(each, cls, vars(cls)) for name, each in cls.__annotations__.items()}
            return self._with_items(value, lambda key: hints.get(key, Any), Any, path)
        if record is None and not _is_instance(value, cls):
            value = self._converted(value, cls, None, path)
        elif record is not None:
            value = self._converted(value, _matching(cls, record.was), record, path)
        value = self._with_members(value, arguments, path)
        if record is not None:
            if type(value) in _COLLECTIONS_BY_KEY and all(map(is_plain_key, value)):
                raise Unfit  # its keys, or its members, were no plain data
            self.done.add(path)
        return value

    def _of_union(self, value: Any, candidates: Iterable[Any], path: Path) -> Any:
        record = self._records.get(path)
        if record is None and any(_is_instance(value, each) for each in candidates):
            candidates = [each for each in candidates if _is_instance(value, each)]
        elif record is not None:
            candidates = sorted(candidates, key=lambda each: _name(get_origin(each), each) != record.was)
        for each in candidates:
            if each is not type(None) and each is not Any:
                try:
                    return self._of_type(value, each, path)
                except Unfit:
                    continue
        if record is not None:
            raise Unfit
        return value

    def _converted(self, value: Any, cls: Any, record: Record | None, path: Path) -> Any:
        """Plain data as an instance of a class that the code names."""
        try:
            if issubclass(cls, Enum):
                value = _enum(value, cls, record)
                self._whole.add(path)
                return value
            if value is NOTHING or value is None:
                raise Unfit
            if is_dataclass(cls):
                return self._dataclass(value, cls, path)
            if issubclass(cls, tuple) and hasattr(cls, "_fields"):
                return self._named_tuple(value, cls, path)
            if issubclass(cls, _TIMES) and isinstance(value, str):
                return cls.fromisoformat(value)
            if issubclass(cls, timedelta):
                return cls(seconds=value)
            if issubclass(cls, numpy.ndarray):
                return numpy.asarray(value)
            if issubclass(cls, PurePath) and isinstance(value, str):
                return cls(value)
            if record is not None and any(issubclass(cls, b) and isinstance(value, (b, d)) for b, d in _BASES.items()):
                return cls(value)
        except Unfit:
            raise
        except Exception as error:  # whatever a user's class raises
            raise Unfit from error
        raise Unfit

    def _dataclass(self, value: Any, cls: Any, path: Path) -> Any:
        own = {each.name: each for each in fields(cls)}
        if not isinstance(value, Mapping) or not own.keys() >= value.keys():
            raise Unfit
        hints = {name: resolved(each.type, cls, vars(cls)) for name, each in own.items()}
        members = {name: self.made(value.get(name, NOTHING), hints[name], (*path, name)) for name in own}
        members = {name: member for name, member in members.items() if member is not NOTHING}
        made = cls(**{name: member for name, member in members.items() if own[name].init})
        for name, member in members.items():
            object.__setattr__(made, name, member)  # __post_init__ may have changed it, or made it anew
        return made

    def _named_tuple(self, value: Any, cls: Any, path: Path) -> Any:
        if not isinstance(value, (tuple, list)) or len(value) != len(cls._fields):
            raise Unfit
        hints = {name: resolved(hint, cls, vars(cls)) for name, hint in cls.__annotations__.items()}
        pairs = enumerate(zip(cls._fields, value, strict=True))
        return cls._make(self.made(member, hints.get(name, Any), (*path, index)) for index, (name, member) in pairs)

    def _with_members(self, value: Any, arguments: tuple[Any, ...], path: Path) -> Any:
        """A collection whose members are made again by the arguments of its annotation."""
        if not arguments:
            return value
        if isinstance(value, dict):
            of_key, of_member = arguments if len(arguments) == 2 else (Any, Any)
            return self._with_items(value, lambda key: of_member, of_key, path)
        of_index = _cycle(arguments)
        if isinstance(value, (set, frozenset)):
            return type(value)(self._key(member, arguments[0]) for member in value)
        if type(value) is tuple:
            return tuple(self.made(v, of_index(i), (*path, i)) for i, v in enumerate(value))
        if isinstance(value, list):
            value[:] = [self.made(v, of_index(i), (*path, i)) for i, v in enumerate(value)]
        return value

    def _with_items(self, value: dict[Any, Any], of_member: Callable[[Any], Any], of_key: Any, path: Path) -> Any:
        """The dict itself, as other values may share it, with its items made again."""
        items = {self._key(key, of_key): self.made(each, of_member(key), (*path, key)) for key, each in value.items()}
        value.clear()
        value.update(items)
        return value

    def _key(self, key: Any, hint: Any) -> Any:
        """A key of a dict, or a member of a set, of which no record speaks."""
        return Rebuilder({}).made(key, hint, ())


def _cycle(arguments: tuple[Any, ...]) -> Any:
    """A function of the index: the type of a member."""
    if len(arguments) == 1 or arguments[-1] is ...:
        return lambda index: arguments[0]
    return lambda index: arguments[index] if index < len(arguments) else Any


def _is_instance(value: Any, hint: Any) -> bool:
    cls = get_origin(hint) or hint
    try:
        return cls is Any or (isinstance(cls, type) and isinstance(value, cls))
    except TypeError:  # a protocol, of which nothing can be said
        return True


def _enum(value: Any, cls: Any, record: Record | None) -> Any:
    if record is not None and record.detail in cls.__members__:
        return cls[record.detail]
    if value is NOTHING:
        raise Unfit
    try:
        return cls(value)
    except ValueError:
        return cls[value]  # as a YAML file has it


def _name(*candidates: Any) -> str:
    """The full name of the first that is a class; "" where none is."""
    return next((f"{cls.__module__}.{cls.__qualname__}" for cls in candidates if isinstance(cls, type)), "")


def _matching(cls: type, name: str) -> type:
    """The class that the code names, or a subclass of it that the program has, if that is the name of one.

    Raises:
        Unfit: There is none of that name, and the code names none of the user's own, which may have got another name.
    """
    found: list[Any] = [cls]
    for each in found if cls is not object else ():
        subclasses: list[Any] = type.__subclasses__(each)
        found += [one for one in subclasses if one not in found]
    match = next((each for each in found if _name(each) == name), cls)
    if match is cls and _name(cls) != name and cls.__module__.partition(".")[0] in sys.stdlib_module_names:
        raise Unfit
    return match

"""Flattens hyperparameters, and reads and writes their files: ``hparams.yaml``, and CSV tables of older Lightnings."""

from __future__ import annotations

import ast
import csv
import math
import os
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from enum import Enum
from itertools import chain
from typing import IO, Any

from leyden.utilities.rank_zero import rank_zero_warn
from leyden.utilities.storage import replacing
from leyden_logfiles.storage import is_file, open_text

MAX_SIZE = 100_000  # the most values that shared ones may add
MAX_NUMBERS = 10_000  # the most numbers of an array that are written out


def as_mapping(params: Any) -> Mapping[str, Any]:
    """Hyperparameters as a mapping, from a mapping, a Namespace or None."""
    if params is None:
        return {}
    return params if isinstance(params, Mapping) else vars(params)


def save_hparams(path: str, hparams: Mapping[str, Any]) -> None:
    """Write hyperparameters as YAML that ``yaml.safe_load`` reads; an interrupted write leaves no partial file.

    Values that are not plain data are written as text, and one warning names them all.
    """
    import yaml

    as_text: list[str] = []
    text = yaml.safe_dump(_plain(hparams, "", as_text))
    with replacing(path, "w") as file:
        file.write(text)
    if as_text:
        rank_zero_warn(
            f"{path} has these hyperparameters as text, since they are not plain data: {', '.join(as_text)}. "
            "Leave them out with save_hyperparameters(ignore=[...])."
        )


def load_hparams(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the hyperparameters from a file; ``load_from_checkpoint(hparams_file=...)`` calls it.

    Args:
        path: A path or a URL that ends in ``.yaml``, ``.yml`` or ``.csv``. A CSV table has the columns ``key`` and
            ``value``; Python literals among the values are evaluated, other values stay text.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file name ends otherwise, or the file has no hyperparameters.
    """
    name = os.fspath(path)
    read = next((read for ending, read in _READERS.items() if name.endswith(ending)), None)
    if read is None:
        raise ValueError(f"hparams_file={name!r} must end in .yaml, .yml or .csv.")
    if not is_file(name):
        raise FileNotFoundError(f"There is no hyperparameter file at {name!r}.")
    with open_text(name, "r") as file:
        try:
            return read(file)
        except (ValueError, RecursionError, csv.Error) as error:  # text that is not UTF-8 is a ValueError
            reason = " ".join(str(error).split())
            raise ValueError(f"hparams_file={name!r} can't be read as hyperparameters: {reason}.") from error


def _read_csv(file: IO[str]) -> dict[str, Any]:
    rows = csv.DictReader(file)
    if not {"key", "value"} <= set(rows.fieldnames or ()):
        raise ValueError('it has no columns "key" and "value"')
    return {row["key"]: _literal(row["value"] or "") for row in rows}


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


def _read_yaml(file: IO[str]) -> dict[str, Any]:
    """Read a mapping from YAML whose references do not multiply; a file of a few lines could stand for any number."""
    import yaml

    try:
        loader = yaml.SafeLoader(file)
        node = loader.get_single_node()
        if node is None:
            return {}
        if multiplies(node, _nodes_in):
            raise ValueError("its references (*name) make very many values of few, or refer to themselves")
        loaded = loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    if not isinstance(loaded, dict):
        raise ValueError(f"it holds a {type(loaded).__name__}, and no mapping")
    return loaded


def _nodes_in(node: Any) -> Iterable[Any]:
    """Return the nodes of YAML within a node."""
    if not isinstance(node.value, list):
        return ()
    return chain.from_iterable(member if isinstance(member, tuple) else (member,) for member in node.value)


def _values_in(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, (list, tuple)) else ()


def multiplies(value: Any, within: Callable[[Any], Iterable[Any]] = _values_in) -> bool:
    """Whether values that are shared make ``value`` very many times larger than it is where each is written out.

    A value within itself makes it endless.

    Args:
        value: The value, such as a mapping.
        within: Returns the values directly within one.
    """
    sizes: dict[int, float] = {}
    written = [1]

    def size(part: Any) -> float:
        if id(part) not in sizes:
            sizes[id(part)] = math.inf  # for the part within itself
            members = [*within(part)]
            written.append(len(members))
            sizes[id(part)] = 1 + sum(map(size, members))
        return sizes[id(part)]

    return size(value) - sum(written) > MAX_SIZE


_READERS = {".yaml": _read_yaml, ".yml": _read_yaml, ".csv": _read_csv}


def _plain(value: Any, name: str, as_text: list[str], known: dict[int, Any] | None = None) -> Any:
    """Return ``value`` as plain data; add the names of values that became text to ``as_text``.

    A value that is there more than once is converted once, and shared: YAML has a reference to it.
    """
    if value is None or type(value) in (bool, int, float, str, bytes, date, datetime):
        return value
    if isinstance(value, Enum):
        return value.name
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # a scalar of NumPy or PyTorch
        return _plain(value.item(), name, as_text)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    for base in (str, int, float):
        if isinstance(value, base):
            return base(value)
    known = {} if known is None else known
    if id(value) not in known:
        known[id(value)] = value, f"{name} in itself"
        known[id(value)] = value, _plain_members(value, name, as_text, known)
    return known[id(value)][1]


def _plain_members(value: Any, name: str, as_text: list[str], known: dict[int, Any]) -> Any:
    """Return a collection with its members as plain data, or the text of a value that is no collection."""
    if isinstance(value, Namespace):
        value = vars(value)
    elif is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        items = ((k if type(k) in (bool, int, float, str) else str(k), v) for k, v in value.items())
        return {key: _plain(v, f"{name}.{key}" if name else str(key), as_text, known) for key, v in items}
    if isinstance(value, Set):
        value = sorted(value, key=repr)
    elif _is_small_array(value):
        value = value.tolist()
    if isinstance(value, Sequence):
        return [_plain(v, f"{name}[{i}]", as_text, known) for i, v in enumerate(value)]
    as_text.append(f"{name} ({type(value).__name__})")
    return str(value)


def _is_small_array(value: Any) -> bool:
    """Whether a value is an array of NumPy, or a tensor, of so few numbers that one would write them out."""
    shape = getattr(value, "shape", None)
    is_dense = (
        hasattr(value, "tolist") and not getattr(value, "is_meta", False) and not getattr(value, "is_sparse", False)
    )
    return isinstance(shape, tuple) and is_dense and math.prod(shape) <= MAX_NUMBERS


def flatten_params(params: Any, separator: str = "/") -> dict[str, Any]:
    """Make nested hyperparameters a flat mapping: ``{"a": {"b": 1}}`` becomes ``{"a/b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in as_mapping(params).items():
        if isinstance(value, Mapping) or type(value).__name__ == "Namespace":
            inner = flatten_params(value, separator)
            flat.update({f"{key}{separator}{name}": v for name, v in inner.items()} or {str(key): ""})
        else:
            flat[str(key)] = value
    return flat

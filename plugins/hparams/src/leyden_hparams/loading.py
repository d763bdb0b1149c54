"""What ``load_from_checkpoint`` does: makes a module or a data module again, and loads its state."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from leyden import LightningModule
from leyden.plugins import TorchCheckpointIO, discover, refuse_foreign
from leyden.utilities import AttributeDict, MisconfigurationException, rank_zero_warn
from leyden_hparams.kinds import KINDS
from leyden_hparams.naming import fitting
from leyden_hparams.rebuilding import Rebuilder, parameter_types
from leyden_hparams.sealing import NOTHING, SOURCE, Path, Record, tell_of_unopened, unseal


def load(
    cls: Any,
    path: Any,
    map_location: Any,
    hparams_file: Any,
    strict: bool | None,
    weights_only: bool | None,
    given: dict[str, Any],
) -> Any:
    """Make an instance with the hyperparameters from a checkpoint, and load its state.

    Args:
        cls: The class of the module or data module.
        path: A path, a URL, or an open file.
        map_location: The device for tensors, as in ``torch.load``; None for the CPU.
        hparams_file: A file of hyperparameters to use instead of those in the checkpoint; or None.
        strict: Whether the checkpoint must have exactly the module's keys; None for the module's ``strict_loading``.
        weights_only: False also opens what is sealed or pickled, which runs code from the file.
        given: Arguments for ``__init__`` that replace saved hyperparameters or add to them.

    Raises:
        MisconfigurationException: ``__init__`` needs an argument that the checkpoint does not have, or has only sealed.
    """
    location = "cpu" if map_location is None else map_location
    checkpoint = refuse_foreign(TorchCheckpointIO().load_checkpoint(path, location, weights_only), path)
    records = unseal(checkpoint, weights_only)
    if issubclass(cls, LightningModule):
        made = _make(cls, checkpoint, records, hparams_file, given)
        _load_weights(made, checkpoint, map_location, strict)
    else:
        made = _make(cls, checkpoint, records, hparams_file, given if strict is None else {**given, "strict": strict})
        if (state := checkpoint.get(cls.__qualname__)) is not None:
            made.load_state_dict(state)
    tell_of_unopened(records)
    return made


def prepare(checkpoint: dict[str, Any], weights_only: bool | None, modules: Mapping[str, Any]) -> None:
    """Put back in place what plain data does not say, with a warning of what is not opened, and rename weights.

    Args:
        checkpoint: The checkpoint as it was read.
        weights_only: False opens what is sealed; see :func:`unseal`.
        modules: Modules that will load their states, by the keys of these in the checkpoint.
    """
    tell_of_unopened(unseal(checkpoint, weights_only))
    for name, module in modules.items():
        if isinstance(state := checkpoint.get(name), Mapping):
            checkpoint[name] = fitting(module, state)


def _load_weights(module: Any, checkpoint: dict[str, Any], map_location: Any, strict: bool | None) -> None:
    module.configure_model()
    module.on_load_checkpoint(checkpoint)
    strict = module.strict_loading if strict is None else strict
    missing, unexpected = module.load_state_dict(fitting(module, checkpoint["state_dict"]), strict=strict)
    if missing or unexpected:
        rank_zero_warn(
            f"Loaded {type(module).__name__} with strict=False: missing {list(missing)}, unexpected {list(unexpected)}."
        )
    if map_location is not None and not callable(map_location) and not isinstance(map_location, dict):
        module.to(torch.device(map_location))


def _make(cls: Any, checkpoint: dict[str, Any], records: list[Record], hparams_file: Any, given: dict[str, Any]) -> Any:
    """An instance with the hyperparameters of a checkpoint, or of a file."""
    key = cls.CHECKPOINT_HYPER_PARAMS_KEY
    if hparams_file is not None:
        read = discover().component("logger_part", "load_hparams").load()
        checkpoint[key], records = read(hparams_file), []
    saved = dict(checkpoint.get(key, {}))
    own = {record.path[1:]: record for record in records if record.path[0] == key and len(record.path) > 1}
    name = checkpoint.get(cls.CHECKPOINT_HYPER_PARAMS_NAME, "kwargs")
    if name in ("kwargs", "", None) or name in saved:
        arguments = _rebuilt(cls, saved, own, given)
    else:
        source = next((record for record in records if record.path == (SOURCE, key)), None)
        arguments = _one_object(cls, name, saved, own, source, given)
    try:
        return cls(**_taken(cls, arguments))
    except TypeError as error:
        if "argument" not in str(error) and "keywords must be strings" not in str(error):
            raise
        raise MisconfigurationException(
            f"{cls.__name__} can't be made from the saved hyperparameters ({', '.join(map(str, saved)) or 'none'}): "
            f"{error}. Pass the missing arguments: load_from_checkpoint(path, name=value)."
        ) from error


def _one_object(
    cls: Any, name: str, saved: dict[str, Any], own: dict[Path, Record], source: Record | None, given: dict[str, Any]
) -> dict[str, Any]:
    """The arguments, of which one is an object that holds all hyperparameters.

    Args:
        cls: The class.
        name: The argument's name.
        saved: The hyperparameters.
        own: Their records, by path.
        source: The record of the object; None for a dict.
        given: The user's arguments; a mapping replaces some of the values in the object.
    """
    others = {key: value for key, value in given.items() if key != name}
    changed = given.get(name, {})
    if not isinstance(changed, Mapping):
        return given
    if source is not None and source.value is not NOTHING and not changed:
        return {name: source.value, **others}
    values: Any = AttributeDict({**saved, **changed})
    below = {(name, *path): record for path, record in own.items() if path[0] not in changed}
    if source is not None and source.kind in KINDS and not below:
        return {name: KINDS[source.kind].make(values, source.detail), **others}
    if source is not None:
        below[name,] = source
    return _rebuilt(cls, {name: values}, below, others, may_stay=(name,))


def _rebuilt(
    cls: Any, saved: dict[str, Any], own: dict[Path, Record], given: dict[str, Any], may_stay: Path = ()
) -> dict[str, Any]:
    """The arguments, made again by the types that the code names.

    Args:
        cls: The class.
        saved: The hyperparameters as they were read.
        own: The records of those that are no plain data, by path.
        given: The user's arguments, which are taken as they are.
        may_stay: The path of a value that can be used as it was read.

    Raises:
        MisconfigurationException: An argument can't be made again, and none was given.
    """
    types, rebuilder = parameter_types(cls), Rebuilder(own)
    wanted = [name for name in _taken(cls, dict.fromkeys([*saved, *(path[0] for path in own)])) if name not in given]
    made = {name: rebuilder.made(saved.get(name, NOTHING), types.get(name, Any), (name,)) for name in wanted}
    missing = {name: rebuilder.missing(name) for name in wanted}
    missing = {name: [each for each in found if each is not own.get(may_stay)] for name, found in missing.items()}
    if any(missing.values()):
        _refuse(cls, {name: found for name, found in missing.items() if found})
    return {**{name: value for name, value in made.items() if value is not NOTHING}, **given}


def _refuse(cls: Any, missing: dict[str, list[Record]]) -> None:
    """Raise the error for arguments that can't be made again; of several in one, the first is named."""
    first = [min(found, key=lambda record: len(record.path)) for found in missing.values()]
    names = ", ".join(f"{record.name.partition('.')[2]} (a {record.was.rpartition('.')[2]})" for record in first)
    all_open = all(record.is_sealed or not record.is_lost for found in missing.values() for record in found)
    raise MisconfigurationException(
        f"{cls.__name__} can't be made as it was saved. These hyperparameters are no plain data, and of no type that "
        f"its __init__ names by an annotation or a default: {names}. Pass them, "
        f"load_from_checkpoint(path, {', '.join(f'{name}=...' for name in missing)})"
        f"{', or weights_only=False for a file that you trust, which opens what is sealed' if all_open else ''}."
    )


def _taken(cls: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Those of the arguments that ``__init__`` takes."""
    parameters = inspect.signature(cls).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return arguments
    return {name: value for name, value in arguments.items() if name in parameters}

"""The state of a checkpoint under the names that a module has now: ``torch.compile`` puts a prefix before some."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

from torch.nn import Module

from leyden_hparams.sealing import EXTRA_STATE, Unopened

PREFIX = "_orig_mod."  # of what is in a submodule that torch.compile has wrapped


class Renamed(Mapping[str, Any]):
    """A state under other names, whose values are read when they are asked for.

    Args:
        state: The state.
        names: Its names by the new ones.
        own: Values that take the place of the state's, by the new names.
    """

    def __init__(self, state: Mapping[str, Any], names: dict[str, str], own: dict[str, Any]) -> None:
        self._state, self._names, self._own = state, names, own

    def __getitem__(self, name: str) -> Any:
        return self._own[name] if name in self._own else self._state[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def fitting(module: Any, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a state under the names of the module: the state itself where it has them already.

    Extra states that were sealed and not opened are those that the module has.
    """
    compiled = _compiled(module)
    names = {_renamed(name, compiled): name for name in state}
    unopened = [name for name, old in names.items() if name.endswith(EXTRA_STATE) and type(state[old]) is Unopened]
    if all(new == old for new, old in names.items()) and not unopened:
        return state
    own = {name: _extra_state(module, name) for name in unopened}
    if not isinstance(state, dict):
        return Renamed(state, names, own)
    renamed: Any = OrderedDict(Renamed(state, names, own))
    if (versions := getattr(state, "_metadata", None)) is not None:
        renamed._metadata = OrderedDict((_renamed(f"{name}.", compiled)[:-1], each) for name, each in versions.items())
    return renamed  # type: ignore[no-any-return]


def _compiled(module: Module) -> list[str]:
    """The prefixes, without those of torch.compile, of what is in compiled submodules; inner ones first."""
    named = module.named_modules(remove_duplicate=False)
    prefixes = [f"{name}.".replace(PREFIX, "") for name, part in named if PREFIX[:-1] in part._modules]
    return sorted((prefix if prefix != "." else "" for prefix in prefixes), key=len, reverse=True)


def _renamed(name: str, compiled: list[str]) -> str:
    name = name.replace(PREFIX, "")
    for prefix in compiled:
        if name.startswith(prefix):
            name = f"{prefix}{PREFIX}{name[len(prefix) :]}"
    return name


def _extra_state(module: Module, name: str) -> Any:
    return module.get_submodule(name[: -len(EXTRA_STATE) - 1]).get_extra_state()

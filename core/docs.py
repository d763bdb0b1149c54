"""Writes what is made of the code: lists of hooks and interfaces in core/README.md, the stub of a module's hooks.

``make docs`` runs it.

    python core/docs.py           # write
    python core/docs.py --check   # say whether they are up to date; exit status 1 where they are not

The lists stand between ``<!-- hooks -->`` and ``<!-- interfaces -->`` and their ends; all else is written by hand.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leyden.mixins import observations
from leyden.plugin_system import hooks

README = Path(__file__).with_name("README.md")
STUB = Path(__file__).parent / "src/leyden/mixins/observations.pyi"
INTERFACES = (
    "leyden.accelerators:Accelerator",
    "leyden.strategies:Strategy",
    "leyden.strategies:Launcher",
    "leyden.plugins:Precision",
    "leyden.plugins:Environment",
    "leyden.loggers:Logger",
    "leyden.profilers:Profiler",
    "leyden.plugins:CheckpointIO",
    "leyden.plugins:Record",
    "leyden.plugins:Runner",
    "leyden.callbacks:Callback",
)


def generated(text: str) -> str:
    """A README's text with its lists as the code has them now."""
    for name, lines in (("hooks", hook_lines()), ("interfaces", interface_lines())):
        block = f"<!-- {name} -->\n\n" + "\n".join(lines).strip() + f"\n\n<!-- /{name} -->"
        text, count = re.subn(f"<!-- {name} -->.*<!-- /{name} -->", lambda _, block=block: block, text, flags=re.DOTALL)
        assert count == 1, f"README.md has {count} places for the list of {name}"
    return text


def hook_lines() -> Iterator[str]:
    """Each group of hooks: its docstring, and for each hook arguments and docstring."""
    names = (hooks.REGISTRATION, hooks.OBSERVATION, hooks.BEHAVIOUR)
    for group, own in zip(hooks.GROUPS, names, strict=True):
        yield from (f"### {group.__name__}", "", sentences(group), "")
        for name in own:
            hook = hooks.specification(name)
            arguments = ", ".join(hooks.arguments(name))
            yield f"- `{name}({arguments})`: {' '.join([sentences(hook), *facts(name)])}"
        yield ""


def facts(name: str) -> Iterator[str]:
    """What is declared of a hook, in sentences."""
    known, marks = hooks.facts(name), hooks.specification(name).leyden_spec
    said = [] if known.frequency is hooks.Frequency.ONCE else [known.frequency.value]
    said += [] if known.logging is None else ["`self.log` may be called"]
    if said:
        yield f"({'; '.join(said).capitalize()}.)"
    if known.answers is not hooks.Answers.UNUSED:
        yield known.answers.value
    arguments = marks["warn_on_impl_args"] or {}
    gone = {"": marks["warn_on_impl"], **{f" ({argument})": warning for argument, warning in arguments.items()}}
    yield from (f"Deprecated{what}: {warning}." for what, warning in gone.items() if warning is not None)


def stub() -> str:
    """The stub of a module's observation hooks, for editors and type checkers."""
    lines = [
        f'"""{inspect.getdoc(observations)}\n"""\n',
        "from typing import Any\n",
        "from torch import Tensor",
        "from torch.optim import Optimizer",
    ]
    for cls in (observations.DataObservations, observations.CheckpointHooks, observations.ModelObservations):
        lines += ["", f"class {cls.__name__}:", f'    """{cls.__doc__}"""']
        for name in (name for name in hooks.OBSERVATION if name in vars(cls)):
            signature = inspect.signature(vars(cls)[name])
            taken = ", ".join(["self", *map(_typed, list(signature.parameters.values())[1:])])
            said = hooks.specification(name).__doc__.splitlines()[0]
            lines += ["", f"    def {name}({taken}) -> {signature.return_annotation}:", f'        """{said}"""']
    return "\n".join(lines) + "\n"


def _typed(parameter: inspect.Parameter) -> str:
    default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
    return f"{parameter.name}: {parameter.annotation}{default}"


def interface_lines() -> Iterator[str]:
    """Each interface: its docstring, and what an author must and may write."""
    for target in INTERFACES:
        module, _, name = target.partition(":")
        interface = getattr(importlib.import_module(module), name)
        yield from (f"### {name} (`{module}`)", "", sentences(interface), "")
        must = getattr(interface, "__abstractmethods__", frozenset())
        members = public_members(interface)
        for heading, wanted in (("Must be written", True), ("May be overridden", False)):
            if some := [member for member in members if (member[0] in must) is wanted]:
                yield from (f"{heading}:", "")
                yield from (f"- {signature(*member)}: {sentences(member[1])}" for member in some)
                yield ""
        if issubclass(interface, hooks.Observation):
            yield from ("Every hook of the group Observation is a method of it, too.", "")


def public_members(interface: type) -> list[tuple[str, Any]]:
    """The interface's own methods and properties, in the order of its source."""
    kinds = (property, classmethod, staticmethod)
    own = [(n, v) for n, v in vars(interface).items() if inspect.isfunction(v) or isinstance(v, kinds)]
    return [(name, value) for name, value in own if not name.startswith("_")]


def signature(name: str, member: Any) -> str:
    """A member as a user writes it."""
    if isinstance(member, property):
        return f"`{name}` (a property)"
    function = getattr(member, "__func__", member)
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    names = [stars.get(p.kind, "") + n for n, p in inspect.signature(function).parameters.items()]
    arguments = ", ".join(n for n in names if n not in ("self", "cls"))
    return f"`{name}({arguments})`" + (" (of the class)" if isinstance(member, (classmethod, staticmethod)) else "")


def sentences(item: Any) -> str:
    """The prose of a docstring on one line, its marks as Markdown; sections such as ``Args:`` are left to the code."""
    text = re.split(r"\n\s*\n?(?:Args|Returns|Raises|Attributes|Example)::?\n", inspect.getdoc(item) or "")[0]
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", " ".join(text.split()))
    return text.replace("``", "`")


def main() -> int:
    """Write the lists and the stub, or with ``--check`` compare them."""
    wanted = {README: generated(README.read_text(encoding="utf-8")), STUB: stub()}
    if "--check" in sys.argv[1:]:
        old = [path.name for path, text in wanted.items() if path.read_text(encoding="utf-8") != text]
        if old:
            print(f"{' and '.join(old)} of the core: not what the code says; run: make docs", file=sys.stderr)
        return int(bool(old))
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

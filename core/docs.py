"""Writes the lists of hooks and interfaces into core/README.md, from the code; ``make docs`` runs it.

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

from leyden.plugin_system import hooks

README = Path(__file__).with_name("README.md")
INTERFACES = (
    "leyden.interfaces.accelerator:Accelerator",
    "leyden.interfaces.strategy:Strategy",
    "leyden.interfaces.launcher:Launcher",
    "leyden.interfaces.precision:Precision",
    "leyden.interfaces.environment:Environment",
    "leyden.interfaces.logger:Logger",
    "leyden.interfaces.profiler:Profiler",
    "leyden.interfaces.checkpoint_io:CheckpointIO",
    "leyden.interfaces.record:Record",
    "leyden.interfaces.runner:Runner",
    "leyden.callback:Callback",
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
            first = " The first result that is not None is taken." if hook.leyden_spec["firstresult"] else ""
            gone = getattr(hook, hooks.DEPRECATED, {})
            old = "".join(f" Deprecated{f' ({a})' if a else ''}: {instead}." for a, instead in gone.items())
            yield f"- `{name}({arguments})`: {sentences(hook)}{first}{old}"
        yield ""


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
    """Write the lists, or with ``--check`` compare them."""
    text = README.read_text(encoding="utf-8")
    new = generated(text)
    if "--check" in sys.argv[1:]:
        if new != text:
            print("core/README.md is not what the code says; run: make docs", file=sys.stderr)
        return int(new != text)
    README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What leyden-command brings to Leyden: the command ``leyden``."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """The function behind the command."""
    yield Component("command", "leyden", "leyden_command.main:main")

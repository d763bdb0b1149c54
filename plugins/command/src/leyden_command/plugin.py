"""What leyden-command brings to Leyden: the command ``leyden``, and what describes the hooks of a run."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """The function behind the command, and that behind ``trainer.describe_hooks()``."""
    yield Component("command", "leyden", "leyden_command.main:main")
    yield Component("command", "describe_hooks", "leyden_command.describe:describe_hooks")

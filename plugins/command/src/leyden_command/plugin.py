"""The plugin's hooks: the command ``leyden`` and ``trainer.describe_hooks()``."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide the functions behind the command and behind ``trainer.describe_hooks()``."""
    yield Component("command", "leyden", "leyden_command.main:main")
    yield Component("command", "describe_hooks", "leyden_command.describe:describe_hooks")

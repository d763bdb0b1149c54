"""The plugin's hooks: a base class and functions for authors of loggers, found in ``leyden.loggers``."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide what authors of loggers need; ``load_from_checkpoint`` uses ``load_hparams``."""
    for name in ("RunDirectoryLogger", "flatten_params", "load_hparams", "save_hparams"):
        yield Component("logger_part", name, f"leyden_logfiles:{name}")

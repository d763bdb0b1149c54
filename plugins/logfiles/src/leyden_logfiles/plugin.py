"""The plugin's hooks: a base class and functions for authors of loggers, found in ``leyden.loggers``."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide ``RunDirectoryLogger``, ``save_hparams`` and ``load_hparams``; ``load_from_checkpoint`` uses the last."""
    for name in ("RunDirectoryLogger", "load_hparams", "save_hparams"):
        yield Component("logger_part", name, f"leyden_logfiles:{name}")

"""The plugin's hooks: what authors of loggers find in ``leyden.loggers``, and logs that go on in a resumed run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from leyden import Component, hookimpl

if TYPE_CHECKING:
    from leyden import Trainer
    from leyden_logfiles.run_directory import RunDirectoryLogger

KEY = "logfiles"  # of what checkpoints hold


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide what authors of loggers need; ``load_from_checkpoint`` uses ``load_hparams``."""
    for name in ("RunDirectoryLogger", "flatten_params", "load_hparams", "save_hparams"):
        yield Component("logger_part", name, f"leyden_logfiles:{name}")


@hookimpl
def leyden_rank_state(trainer: Trainer) -> dict[str, Any] | None:
    """Return how far the loggers of rank 0, which writes, have come; None if there is nothing to know."""
    if not trainer.is_global_zero:
        return None
    states = {kind: [one.state_dict() for one in loggers] for kind, loggers in _loggers(trainer).items()}
    return {KEY: states} if any(map(any, states.values())) else None


@hookimpl
def leyden_restore_rank_state(trainer: Trainer, states: Sequence[Mapping[str, Any]]) -> None:
    """Let the loggers of rank 0 go on where those of the checkpoint had come to."""
    if not trainer.is_global_zero:
        return
    saved = states[0].get(KEY, {})
    for kind, loggers in _loggers(trainer).items():
        for logger, state in zip(loggers, saved.get(kind, ()), strict=False):  # there may be more now, or fewer
            if state:
                logger.load_state_dict(state)


def _loggers(trainer: Trainer) -> Mapping[str, list[RunDirectoryLogger]]:
    """The loggers that write files, in order, by their class."""
    from leyden_logfiles.run_directory import RunDirectoryLogger

    found: dict[str, list[RunDirectoryLogger]] = defaultdict(list)
    for logger in trainer.loggers:
        if isinstance(logger, RunDirectoryLogger):
            found[type(logger).__qualname__].append(logger)
    return found

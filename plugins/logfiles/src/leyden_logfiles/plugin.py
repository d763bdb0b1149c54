"""The plugin's hooks: what authors of loggers find in ``leyden.loggers``, and logs that go on in a resumed run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from leyden import Component, hookimpl
from leyden.plugins import CHECKPOINT_KEY

if TYPE_CHECKING:
    from leyden import Trainer
    from leyden_logfiles.run_directory import RunDirectoryLogger

KEY = "logfiles"  # of what checkpoints hold


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide what authors of loggers need; ``load_from_checkpoint`` uses ``load_hparams``."""
    functions = ("as_mapping", "flatten_params", "load_hparams", "rank_zero_experiment", "save_hparams")
    for name in ("RunDirectoryLogger", *functions):
        yield Component("logger_part", name, f"leyden_logfiles:{name}")


@hookimpl
def leyden_rank_state(trainer: Trainer) -> dict[str, Any] | None:
    """Return the versions of the loggers of rank 0, which writes, and how far they have come; None without any."""
    states: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for kind, logger in _loggers(trainer) if trainer.is_global_zero else ():
        states[kind].append({"version": logger.version, "log": logger.state_dict()})
    return {KEY: dict(states)} if states else None


@hookimpl
def leyden_go_on(trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Let the loggers go on in the directories of the run that wrote the checkpoint."""
    ranks = checkpoint.get(CHECKPOINT_KEY, {}).get("ranks") or [{}]
    for logger, state in _with_states(trainer, ranks[0].get("plugins", {})):
        logger.go_on(state["version"])


@hookimpl
def leyden_restore_rank_state(trainer: Trainer, states: Sequence[Mapping[str, Any]]) -> None:
    """Let the loggers of rank 0 go on where those of the checkpoint had come to."""
    if not trainer.is_global_zero:
        return
    for logger, state in _with_states(trainer, states[0]):
        if state["log"] or logger.goes_on:
            logger.load_state_dict(state["log"])


def _with_states(trainer: Trainer, saved: Mapping[str, Any]) -> Iterator[tuple[RunDirectoryLogger, dict[str, Any]]]:
    """The loggers that have a state among those that ``leyden_rank_state`` returned; there may be more, or fewer."""
    states = {kind: iter(of_kind) for kind, of_kind in saved.get(KEY, {}).items()}
    for kind, logger in _loggers(trainer):
        if (state := next(states.get(kind, iter(())), None)) is not None:
            yield logger, state


def _loggers(trainer: Trainer) -> Iterator[tuple[str, RunDirectoryLogger]]:
    """The loggers that write files, in order, each with the name of its class."""
    from leyden_logfiles.run_directory import RunDirectoryLogger

    for logger in trainer.loggers:
        if isinstance(logger, RunDirectoryLogger):
            yield type(logger).__qualname__, logger

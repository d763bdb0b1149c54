"""The names of :mod:`leyden.states` where users of Lightning look for them."""

from leyden.states import RunningStage, TrainerFn, TrainerState, TrainerStatus

__all__ = ["RunningStage", "TrainerFn", "TrainerState", "TrainerStatus"]

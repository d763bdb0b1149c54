"""The names of :mod:`leyden.utilities.states` where users of Lightning look for them."""

from leyden.utilities.states import RunningStage, TrainerFn, TrainerState, TrainerStatus

__all__ = ["RunningStage", "TrainerFn", "TrainerState", "TrainerStatus"]

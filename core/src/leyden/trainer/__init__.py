"""The Trainer: its arguments made into a resolved run, and the four things that it can be asked to do."""

from leyden.trainer import states
from leyden.trainer.trainer import Trainer
from leyden.utilities.rng import seed_everything

__all__ = ["Trainer", "seed_everything", "states"]

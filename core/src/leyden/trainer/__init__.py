"""The Trainer: its arguments made into a resolved run, and the four things that it can be asked to do."""

from functools import partial

from leyden.plugin_system.windows import submodule
from leyden.trainer.trainer import Trainer
from leyden.utilities.rng import seed_everything

__all__ = ["Trainer", "seed_everything"]

__getattr__ = partial(submodule, __name__)

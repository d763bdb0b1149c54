"""The Trainer: its arguments made into a resolved run, and the four things that it can be asked to do."""

from leyden.trainer.trainer import Trainer

__all__ = ["Trainer"]

"""The random states of a fit: when they are taken, and when those of a checkpoint are put back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from leyden.data.combined import every_loader
from leyden.loops.progress import BATCH_END
from leyden.utilities.rng import collect_rng_states, set_rng_states

if TYPE_CHECKING:
    from leyden.loops.fit import FitLoop


class RandomStates:
    """The random states that an exact resume needs.

    A resumed run draws its epoch's order and batches again, so that those of the checkpoint's moment are not enough:
    it needs those from the start of the epoch too, and those from before a batch that was read ahead.

    Attributes:
        saved: Those of the checkpoint from which the run is resumed, by moment, until its epoch has been taken up.
        epoch: Those from the start of the running epoch.
        validation: Those from before the validation that runs: if a checkpoint is taken within it, the resumed run
            makes it again.
    """

    def __init__(self, loop: FitLoop) -> None:
        self._loop = loop
        self.saved: dict[str, Any] | None = None
        self.epoch: dict[str, Any] | None = None
        self.validation: dict[str, Any] | None = None

    def now(self) -> dict[str, Any]:
        """The random states of this moment, those of the user's generators in the loaders included."""
        return collect_rng_states(*self._owners())

    def restore(self, moment: str) -> None:
        """Put back the random states of a moment of the checkpoint, if there is one that holds them."""
        if self.saved is not None and self.saved.get(moment) is not None:
            set_rng_states(self.saved[moment], *self._owners())

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint that is taken now must hold: :attr:`saved` of the run that is resumed from it."""
        loop = self._loop
        within_validation = self.validation is not None and loop.trainer.progress.phase == BATCH_END
        return {
            "epoch": self.epoch,
            "ahead": loop.fetcher.ahead_rng if loop.fetcher is not None else None,
            "now": self.validation if within_validation else self.now(),
            "restarts": loop.loader.restarts if loop.loader is not None else {},
        }

    def _owners(self) -> tuple[Any, Any, Any]:
        trainer, loop = self._loop.trainer, self._loop
        return trainer.accelerator, trainer.strategy.root_device, every_loader(loop.loader, loop.validation.loader)

"""The random states of a fit: which ones a checkpoint needs, and how a resumed fit puts them back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from leyden.data.combined import every_loader
from leyden.loops.progress import Phase
from leyden.utilities.rng import collect_rng_states, set_rng_states

if TYPE_CHECKING:
    from leyden.loops.fit import FitLoop


class RandomStates:
    """The random states that an exact resume needs.

    A resumed run draws its epoch's order and batches again. So the states of the checkpoint's moment are not enough:
    it needs those from the start of the epoch too, and those from before a batch that was read ahead.

    Attributes:
        epoch: The states at the start of the running epoch.
        validation: The states before the validation that runs, which a run resumed from within it makes again.
    """

    def __init__(self, loop: FitLoop) -> None:
        self._loop = loop
        self.epoch: dict[str, Any] | None = None
        self.validation: dict[str, Any] | None = None

    def now(self) -> dict[str, Any]:
        """The random states of this moment, those of the user's generators in the loaders included."""
        return collect_rng_states(*self._owners())

    def put_back(self, states: dict[str, Any]) -> None:
        """Put back what :meth:`now` returned."""
        set_rng_states(states, *self._owners())

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint that is taken now must hold, by moment; :class:`Resumption` takes it back."""
        loop = self._loop
        within_validation = self.validation is not None and loop.progress.phase is Phase.BATCH_END
        return {
            "epoch": self.epoch,
            "ahead": loop.fetcher.ahead_rng if loop.fetcher is not None else None,
            "now": self.validation if within_validation else self.now(),
            "restarts": loop.loader.restarts if loop.loader is not None else {},
        }

    def _owners(self) -> tuple[Any, Any, Any]:
        trainer, loop = self._loop.trainer, self._loop
        return trainer.accelerator, trainer.strategy.root_device, every_loader(loop.loader, loop.validation.loader)


@dataclass
class Resumption:
    """What a fit that is resumed takes from its checkpoint until it has taken up the epoch.

    Args:
        random_states: Puts states back.
        saved: What :meth:`RandomStates.state_dict` returned; {} where the checkpoint has no random states.
    """

    random_states: RandomStates
    saved: dict[str, Any]

    @property
    def restarts(self) -> Any:
        """When loaders that are cycled had started over in the epoch, and with which random states."""
        return self.saved.get("restarts", {})

    def restore(self, moment: str) -> None:
        """Put back the random states of a moment, if the checkpoint has them."""
        if (states := self.saved.get(moment)) is not None:
            self.random_states.put_back(states)

    def hold(self) -> None:
        """Let the states of this moment be those that ``restore("now")`` puts back."""
        self.saved = {"now": self.random_states.now()}

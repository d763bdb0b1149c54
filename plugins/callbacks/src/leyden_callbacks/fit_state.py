"""The state of callbacks that belongs to one fit, and is as at first when another begins."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, ClassVar

from leyden.callbacks import Callback


class FitState(Callback):
    """Base class of callbacks that forget a fit when the next one starts from the beginning.

    What they go back to is how they were before their first fit, so that what a subclass or the user has set counts.

    Attributes:
        OF_ONE_FIT: The names of the attributes that belong to one fit.
    """

    OF_ONE_FIT: ClassVar[tuple[str, ...]] = ()
    _unused: dict[str, Any] | None = None  # the values before the first fit

    def start_anew(self) -> None:
        """Be as before the first fit."""
        if self._unused is None:
            self._unused = {name: deepcopy(getattr(self, name)) for name in self.OF_ONE_FIT}
        vars(self).update(deepcopy(self._unused))

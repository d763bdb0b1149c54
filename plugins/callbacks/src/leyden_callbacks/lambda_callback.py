"""LambdaCallback: makes a callback from functions, without writing a class."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from leyden.callbacks import Callback
from leyden.plugins import OBSERVATION
from leyden.utilities import MisconfigurationException


class LambdaCallback(Callback):
    """A callback whose hooks are the given functions.

    Each function takes the arguments of the hook of that name in :class:`~leyden.callback.Callback`. It may take
    only the first few of them.

    Example::

        Trainer(callbacks=[LambdaCallback(on_train_epoch_end=lambda trainer, model: print(trainer.current_epoch))])

    Args:
        **hooks: A function for each hook; None is the same as leaving it out.

    Raises:
        MisconfigurationException: A name is not a callback hook, or a value is not callable.
    """

    def __init__(self, **hooks: Callable[..., Any] | None) -> None:
        for name, function in hooks.items():
            if name not in OBSERVATION:
                near = difflib.get_close_matches(name, OBSERVATION, n=1)
                advice = f"did you mean {near[0]!r}?" if near else f"the hooks are {', '.join(OBSERVATION)}."
                raise MisconfigurationException(f"LambdaCallback({name}=...): {name} is not a callback hook; {advice}")
            if function is None:
                continue
            if not callable(function):
                raise MisconfigurationException(f"LambdaCallback({name}={function!r}) needs a function.")
            setattr(self, name, function)

"""ZeRO1Strategy: every process has the whole model; the state of the optimizer is divided among them."""

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from typing import Any

import torch
from torch.optim import Optimizer

from leyden.utilities.exceptions import MisconfigurationException
from leyden_ddp.strategy import DDPStrategy
from leyden_sharded import directory
from leyden_sharded.checkpoints import load_directory

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # from an import of PyTorch's that is not used here
    from torch.distributed.optim import ZeroRedundancyOptimizer


class ZeRO1Strategy(DDPStrategy):
    """Averages gradients as ``ddp`` does; each process keeps the optimizer's state of some parameters.

    It steps these parameters and sends them to the others. This is ZeRO stage 1 (Rajbhandari et al., 2020) with
    PyTorch's ``ZeroRedundancyOptimizer``, which distributes whole parameters and not parts of them. Checkpoints hold
    the whole state, as those of ``ddp`` do.

    Args:
        parameters_as_bucket_view: Whether the parameters of a process are sent in one piece, and not one by one.
        options: The options of :class:`DDPStrategy`.
    """

    strategy_name = "zero_1"

    def __init__(self, *, parameters_as_bucket_view: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._as_bucket_view = parameters_as_bucket_view

    def setup_optimizers(self, optimizers: list[Any]) -> list[Any]:
        """Divide the state of every optimizer."""
        return [self._divide(optimizer) for optimizer in optimizers]

    def _divide(self, optimizer: Any) -> Any:
        if not isinstance(optimizer, Optimizer) or isinstance(optimizer, torch.optim.LBFGS):
            raise MisconfigurationException(
                f"zero_1 can't divide the state of a {type(optimizer).__name__}, which does not step each parameter "
                "independently; write strategy='ddp'."
            )

        def share(groups: list[dict[str, Any]], **_: Any) -> Optimizer:
            """Make an optimizer like the user's, for this process's share of the parameters."""
            own = copy.copy(optimizer)
            own.__dict__.pop("step", None)  # a scheduler has wrapped the user's, to see whether it is called
            own.param_groups, own.state = [], defaultdict(dict)
            for group in groups:
                own.add_param_group(group)
            return own

        groups = [dict(group) for group in optimizer.param_groups]
        divided = ZeroRedundancyOptimizer(
            groups, optimizer_class=share,  # type: ignore[arg-type]  # a function instead of a class
            parameters_as_bucket_view=self._as_bucket_view,
        )  # fmt: skip
        # The user's schedulers have the user's optimizer: they change its groups, and ask whether it has stepped.
        optimizer.param_groups[:] = divided.param_groups
        optimizer._opt_called = True  # type: ignore[attr-defined]
        return divided

    def optimizer_state_dict(self, optimizer: Any) -> dict[str, Any]:
        """The whole state on rank 0, which collects it from all processes; {} on the others."""
        if not isinstance(optimizer, ZeroRedundancyOptimizer):
            return super().optimizer_state_dict(optimizer)
        optimizer.consolidate_state_dict()
        if not self.is_global_zero:
            return {}
        state: dict[str, Any] = optimizer.state_dict()
        vars(optimizer)["_all_state_dicts"].clear()  # frees the collected state
        return state

    def load_optimizer_state_dict(self, optimizer: Any, state: dict[str, Any]) -> None:
        """Load this process's share of the whole state."""
        optimizer.load_state_dict(copy.deepcopy(state))

    def load_checkpoint(self, path: str, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint; also a sharded one."""
        if directory.is_directory(path):
            return load_directory(self, path, weights_only, reads_all=True)
        return super().load_checkpoint(path, weights_only)

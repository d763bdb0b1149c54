"""ShardedCheckpoints: saving and loading a model whose tensors are divided among the processes."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor
from torch.nn import Module
from torch.utils._pytree import tree_map_only

from leyden.plugins import CHECKPOINT_KEY, TorchCheckpointIO
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.rank_zero import rank_zero_warn
from leyden.utilities.storage import is_remote
from leyden_ddp.parallel import ParallelStrategy
from leyden_sharded import directory
from leyden_sharded.background import Background, RemovingLater
from leyden_sharded.directory import Shards, StoredState, key_of
from leyden_sharded.tensors import gathered, part_of

STATES = ("state_dict", "optimizer_states")  # the parts of a checkpoint whose tensors are all stored in shards


def load_directory(
    strategy: ParallelStrategy, path: str, weights_only: bool | None, reads_all: bool = False
) -> dict[str, Any]:
    """Read a sharded checkpoint, after all processes together have checked that its shards are undamaged.

    Args:
        strategy: The strategy whose processes read it.
        path: The directory of the checkpoint.
        weights_only: As in :meth:`CheckpointIO.load_checkpoint`.
        reads_all: Whether to read the states of modules and optimizers now, and not when they are needed.
    """
    checkpoint, shards = directory.open_directory(path, weights_only)
    damages = shards.damaged(slice(strategy.global_rank, None, strategy.world_size))
    directory.refuse_damaged(path, chain.from_iterable(strategy.all_gather_object(damages)))
    ranks = checkpoint.get(CHECKPOINT_KEY, {}).get("ranks", [])
    if strategy.global_rank < len(ranks):
        ranks[strategy.global_rank] = directory.put_back(ranks[strategy.global_rank], shards)
    stored = directory.put_back if reads_all else _stored
    return {key: value if key == CHECKPOINT_KEY else stored(value, shards) for key, value in checkpoint.items()}


def _stored(value: Any, shards: Shards) -> Any:
    if isinstance(value, list):
        return [_stored(member, shards) for member in value]
    return StoredState(value, shards) if isinstance(value, dict) and directory.holds_tensors(value) else value


class ShardedCheckpoints(ParallelStrategy):
    """A strategy whose parameters and optimizer states are divided tensors (``DTensor``).

    Args:
        state_dict_type: "full" saves one file, which any strategy and plain PyTorch can load. "sharded" saves a
            directory, to which each process writes its part and from which any number of processes can load.
        async_save: Whether sharded checkpoints are written while training goes on. The next save, and the end of the
            run, wait until the last one is written.
        options: See :class:`ParallelStrategy`.
    """

    def __init__(
        self, state_dict_type: Literal["full", "sharded"] = "full", async_save: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        if state_dict_type not in ("full", "sharded"):
            raise MisconfigurationException(f'state_dict_type={state_dict_type!r}: write "full" or "sharded".')
        if async_save and state_dict_type == "full":
            raise MisconfigurationException(
                'async_save=True needs state_dict_type="sharded": all processes gather a full checkpoint together.'
            )
        self.state_dict_type, self.async_save = state_dict_type, async_save
        self._background: Background | None = None
        self._saving_group: Any = None
        self._to_load: tuple[Any, bool] | None = None
        self._is_set_up = False

    def connect(self) -> None:
        """With ``async_save``, let the removal of a checkpoint wait for the saves in the background."""
        super().connect()
        if self.async_save:
            self.checkpoint_io = RemovingLater(self.checkpoint_io, self._saves)

    def _saves(self) -> Background:
        self._background = self._background or Background()
        return self._background

    # -- states ------------------------------------------------------------------------------------------------

    def module_state_dict(self, module: Module) -> dict[str, Any]:
        """The parameters and buffers: whole ones on rank 0 for a full checkpoint, divided ones for a sharded one."""
        state = module.state_dict()
        if self.state_dict_type == "sharded":
            return state
        full = OrderedDict(gathered(dict(state), self.is_global_zero))
        full._metadata = getattr(state, "_metadata", None)  # type: ignore[attr-defined]
        return full

    def optimizer_state_dict(self, optimizer: Any) -> dict[str, Any]:
        """The optimizer's state, whole or divided as in :meth:`module_state_dict`.

        Parameters have the same numbers as in an optimizer of a model that is not divided.
        """
        state: dict[str, Any] = optimizer.state_dict()
        return state if self.state_dict_type == "sharded" else gathered(state, self.is_global_zero)

    def load_module_state_dict(self, module: Module, state: dict[str, Any], strict: bool) -> None:
        """Load this process's part of a state; before the module is divided, keep the state until it is."""
        self._to_load = state, strict
        if self._is_set_up:
            self._load_kept_state(module)

    def _load_kept_state(self, module: Module) -> set[str]:
        """Load the state that was kept until the module is divided; returns the names in that state."""
        if self._to_load is None:
            return set()
        (state, strict), self._to_load = self._to_load, None
        own = module.state_dict()
        if isinstance(state, StoredState):
            placed = _read_module_state(state, own)
        else:
            placed = {name: part_of(v, own[name]) if _are_tensors(v, own.get(name)) else v for name, v in state.items()}
        module.load_state_dict(placed, strict=strict)
        return set(state)

    def load_optimizer_state_dict(self, optimizer: Any, state: dict[str, Any]) -> None:
        """Load the part of the state that belongs to this process's parts of the parameters."""
        shards = state.shards if isinstance(state, StoredState) else None
        known = state.skeleton if isinstance(state, StoredState) else state
        numbers = [number for group in known["param_groups"] for number in group["params"]]
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        by_number = dict(zip(numbers, parameters, strict=False))
        targets: dict[str, Tensor] = {}
        placed = {
            number: _mapped(values, partial(_place, shards, targets, by_number.get(number)))
            for number, values in known["state"].items()
        }
        if shards is not None:
            shards.read(targets)
        rest = {name: state[name] for name in state if name != "state"}
        optimizer.load_state_dict({**copy.deepcopy(rest), "state": placed})

    def all_gather_object(self, value: Any, group: Any = None) -> list[Any]:
        """The ``value`` of every process; empty tensors replace divided ones, of which a process has only a part."""
        return super().all_gather_object(tree_map_only(DTensor, lambda _: torch.empty(0), value), group)

    # -- checkpoints -------------------------------------------------------------------------------------------

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str, storage_options: Any = None) -> None:
        """Write a checkpoint of the kind ``state_dict_type``; called by all processes."""
        is_sharded = self.state_dict_type == "sharded"
        ranks = checkpoint.get(CHECKPOINT_KEY, {}).get("ranks")
        gradients = self._add_gradients(ranks, is_sharded) if ranks else {}
        if is_sharded:
            return self._save_shards(checkpoint, gradients, path, storage_options)
        if not self.is_global_zero:
            return
        aside = directory.step_aside(path)
        super().save_checkpoint(checkpoint, path, storage_options)
        if aside is not None:
            TorchCheckpointIO().remove_checkpoint(str(aside))

    def _add_gradients(self, ranks: list[Any], in_shards: bool) -> dict[str, Tensor]:
        """Add the gradients that the next optimizer step needs to the states of the processes.

        Args:
            ranks: The states of the processes in the checkpoint.
            in_shards: Whether the gradients are to be stored in shards.

        Returns:
            The gradients that this process stores in shards, by key.
        """
        return {}

    def _save_shards(
        self, checkpoint: dict[str, Any], tensors: dict[str, Tensor], path: str, storage_options: Any
    ) -> None:
        if is_remote(path) or storage_options is not None:
            raise MisconfigurationException(
                f'state_dict_type="sharded" writes to local and shared file systems only, not to {path!r} with '
                f'storage_options={storage_options!r}; write "full".'
            )
        self.wait_for_saves()
        rest = {
            key: directory.take_out(value, tensors, key, Tensor if key in STATES else DTensor)
            for key, value in checkpoint.items()
        }
        shards: Path = self.broadcast(directory.new_shards(path) if self.is_global_zero else Path())
        if self.async_save:
            return self._save_in_background(tensors, copy.deepcopy(rest), path, shards)
        dcp.save(tensors, **directory.save_options(shards))
        if self.is_global_zero:
            directory.finish(path, rest, shards)

    def _save_in_background(self, tensors: dict[str, Tensor], rest: Any, path: str, shards: Path) -> None:
        """Copy the tensors now and write them later; the collectives of writing use a process group of their own."""
        if self._saving_group is None:
            self._saving_group = dist.new_group(backend="gloo")
        options = {"process_group": self._saving_group, **directory.save_options(shards)}
        written: Any = dcp.async_save(tensors, **options)

        def finish() -> None:
            written.result()
            if self.is_global_zero:
                directory.finish(path, rest, shards)

        self._saves().add(finish)

    def wait_for_saves(self) -> None:
        """Wait for checkpoints that are being written in the background."""
        if self._background is not None:
            self._background.wait()

    def load_checkpoint(self, path: str, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint of either kind; the tensors of a sharded one are read when they are needed."""
        self.wait_for_saves()
        if not directory.is_directory(path):
            return super().load_checkpoint(path, weights_only)
        return load_directory(self, path, weights_only)

    def teardown(self, module: Module | None = None, error: BaseException | None = None) -> None:
        """Wait for the last save, and forget a state that was kept for this run.

        After a failed run, an error of that save is a warning, so that it does not replace the error of the run.
        """
        self._to_load, self._is_set_up = None, False
        try:
            self.wait_for_saves()
        except (Exception, CheckpointException) as reason:  # PyTorch's CheckpointException is no Exception
            if error is None:
                raise
            rank_zero_warn(f"The checkpoint that was being saved is not whole: {reason}")
        super().teardown(module, error)


def _are_tensors(value: Any, other: Any) -> bool:
    return isinstance(value, Tensor) and isinstance(other, Tensor)


def _read_module_state(state: StoredState, own: dict[str, Any]) -> dict[str, Any]:
    """Read tensors into the module's own ones; tensors that don't fit become meta tensors, which the module refuses."""
    targets: dict[str, Tensor] = {}
    placed: dict[str, Any] = {}
    for name, value in state.skeleton.items():
        key, target = key_of(value), own.get(name)
        if key is None or not isinstance(target, Tensor):
            placed[name] = state[name]  # with the tensors in it, such as those of an extra state
            continue
        size, dtype = state.shards.describe(key)
        if size != target.shape:
            placed[name] = torch.empty(size, dtype=dtype, device="meta")
            continue
        placed[name] = targets[key] = target
    state.shards.read(targets)
    return placed


def _mapped(tree: Any, place: Callable[[Any], Any]) -> Any:
    """Replace every tensor of a state, and every key that stands for a tensor, by what ``place`` returns for it."""
    if isinstance(tree, Tensor) or key_of(tree) is not None:
        return place(tree)
    if isinstance(tree, dict):
        return {name: _mapped(value, place) for name, value in tree.items()}
    return type(tree)(_mapped(value, place) for value in tree) if isinstance(tree, (list, tuple)) else tree


def _place(shards: Shards | None, targets: dict[str, Tensor], parameter: Tensor | None, value: Any) -> Tensor:
    """The part of an optimizer's tensor that belongs to this process's part of a parameter.

    Args:
        shards: Where the tensor is stored; None if ``value`` is the tensor itself.
        targets: Collects tensors, by key, that must still be read from the shards.
        parameter: This process's part of the parameter.
        value: The tensor, or its key in the shards.
    """
    if shards is None:
        return part_of(value, parameter) if parameter is not None and value.shape == parameter.shape else value
    key = str(key_of(value))
    size, dtype = shards.describe(key)
    if parameter is not None and size == parameter.shape:
        targets[key] = torch.empty_like(parameter.detach(), dtype=dtype)
    else:
        targets[key] = torch.empty(size, dtype=dtype)
    return targets[key]

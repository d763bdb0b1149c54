"""EngineCheckpoints: directories that DeepSpeed's engine writes, together with the rest of a run's state."""

from __future__ import annotations

import glob
import importlib
import os
import secrets
import shlex
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch.nn import Module

from leyden.plugins import CHECKPOINT_KEY, TorchCheckpointIO, refuse_foreign
from leyden.utilities.exceptions import CheckpointCorruptedError, MisconfigurationException
from leyden.utilities.rank_zero import rank_zero_warn
from leyden.utilities.storage import is_remote, local_path
from leyden_ddp.parallel import ParallelStrategy
from leyden_deepspeed.library import known_rank
from leyden_deepspeed.whole import Parts, is_divided, whole_values

REST = "leyden.ckpt"  # the file of everything that DeepSpeed does not save
TAG = "checkpoint"  # the directory within a checkpoint that the engine writes; Lightning's name
ENGINE_KEY = "deepspeed"  # the part of a checkpoint that says which engines can load it


def is_directory(path: str) -> bool:
    """Whether ``path`` is a checkpoint of this strategy."""
    return not is_remote(path) and (local_path(path) / REST).is_file() and (local_path(path) / TAG).is_dir()


def describe(path: str) -> str | None:
    """Say what a checkpoint of DeepSpeed's is, for whom a file is needed; None for another directory.

    Args:
        path: The local directory.
    """
    if is_directory(path):
        return (
            "it is a checkpoint of strategy='deepspeed', which reads it; for others, python -m "
            f"leyden_deepspeed.consolidate {shlex.quote(path)} whole.ckpt makes one file of its weights"
        )
    if next(local_path(path).glob("*/*_states.pt"), None) is not None:
        return (
            "it is a checkpoint that DeepSpeed wrote, but not under Leyden, which does not read it; zero_to_fp32.py in "
            "it makes one file of its weights"
        )
    return None


def read_weights(path: Path) -> dict[str, Any]:
    """Read the whole weights of a checkpoint, in 32 bits; this unpickles DeepSpeed's files, which can run code.

    Args:
        path: The directory of the checkpoint.

    Returns:
        The weights by name.
    """
    engine = path / TAG
    weights: dict[str, Any] = {}
    if (
        whole := engine / "mp_rank_00_model_states.pt"
    ).is_file():  # in stages 0 to 2; only this file has all weights that are not trained
        weights.update(torch.load(whole, map_location="cpu", weights_only=False)["module"])
    if next(engine.glob("*optim_states.pt"), None) is not None:
        converter = importlib.import_module("deepspeed.utils.zero_to_fp32")
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            weights.update(converter.get_fp32_state_dict_from_zero_checkpoint(str(path), TAG))
    half = (torch.bfloat16, torch.float16)  # of weights that are not trained DeepSpeed keeps no 32 bits
    return {name: value.float() if value.dtype in half else value for name, value in weights.items()}


class EngineCheckpoints(ParallelStrategy):
    """A strategy whose checkpoints are written by DeepSpeed's engine; each process writes its part."""

    exclude_frozen_parameters: bool
    stage: int
    _deepspeed: Any
    _dtypes: dict[str, torch.dtype]
    _dtype: torch.dtype | None
    _module: Any
    _engine_module: Module

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._engine: Any = None
        self._parts: Parts | None = None
        self._step: Any = None
        self._to_load: tuple[Path, dict[str, Any]] | None = None

    # -- saving ----------------------------------------------------------------------------------------------------

    def module_state_dict(self, module: Module) -> dict[str, Any]:
        """{} while there is an engine, which saves the parameters itself."""
        return super().module_state_dict(module) if self._engine is None else {}

    def optimizer_state_dict(self, optimizer: Any) -> dict[str, Any]:
        """{}: the engine saves the optimizer's state itself."""
        return {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str, storage_options: Any = None) -> None:
        """Write a directory; a checkpoint of weights only becomes one file, which every strategy and PyTorch load."""
        if self._engine is None:
            return super().save_checkpoint(checkpoint, path, storage_options)
        if "optimizer_states" not in checkpoint:
            state = dict(self._module.state_dict())
            if self._parts is None:
                state.update(whole_values(self._deepspeed, self._module))
            return super().save_checkpoint({**checkpoint, "state_dict": state}, path, storage_options)
        if is_remote(path) or storage_options is not None:
            raise MisconfigurationException(
                f"DeepSpeed writes to local and shared file systems only, not to {path!r} with "
                f"storage_options={storage_options!r}; only weights (save_weights_only=True) go elsewhere."
            )
        self._save_directory(checkpoint, local_path(self.broadcast(path)))

    def _save_directory(self, checkpoint: dict[str, Any], target: Path) -> None:
        if target.is_dir() and not is_directory(str(target)) and any(target.iterdir()):
            raise MisconfigurationException(
                f"{str(target)!r} is a directory and no checkpoint of strategy='deepspeed', so it is not replaced; "
                "save elsewhere."
            )
        trainer = self._module.trainer
        if trainer.progress.is_accumulating(trainer.accumulate_grad_batches):
            rank_zero_warn(
                "A checkpoint is saved between two optimizer steps: DeepSpeed does not save accumulated gradients, so "
                "a run that is resumed from it is not exact."
            )
        for rank in checkpoint[CHECKPOINT_KEY]["ranks"]:
            rank["gradients"] = {}  # only the engine could load them
        beside = target.with_name(self.broadcast(f".{target.name}.{secrets.token_hex(4)}.part"))
        unfinished = list(target.parent.glob(f"{glob.escape(f'.{target.name}.')}????????.part"))
        if self.is_global_zero:
            beside.mkdir(parents=True)
        if self._parts is not None:
            self._parts.exchange()
        with known_rank(self.local_rank), self.collective("save_checkpoint"):
            self._engine.save_checkpoint(str(beside), tag=TAG, exclude_frozen_parameters=self.exclude_frozen_parameters)
        if self._parts is not None:
            self._parts.exchange()
        if self.is_global_zero:
            checkpoint[ENGINE_KEY] = {"stage": self.stage, "world_size": self.world_size}
            TorchCheckpointIO().save_checkpoint(checkpoint, str(beside / REST))
            aside = target.with_name(f".{target.name}.old")
            _remove(aside)
            if target.exists():
                os.replace(target, aside)
            os.replace(beside, target)
            for left in (aside, *unfinished):  # by runs that were killed
                _remove(left)

    # -- loading ---------------------------------------------------------------------------------------------------

    def load_checkpoint(self, path: str, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a file or a directory; the engine loads the weights and the optimizer's state of a directory later.

        Raises:
            MisconfigurationException: ``weights_only`` forbids DeepSpeed's pickles, or the directory is another's.
        """
        self._to_load = None
        if not is_directory(path):
            return super().load_checkpoint(path, weights_only)
        if weights_only:
            raise MisconfigurationException(
                f"weights_only=True forbids the files that DeepSpeed wrote to {path!r}: they are pickles, which can "
                "run code. Leave weights_only out if you trust them, or turn the directory into one file: "
                "python -m leyden_deepspeed.consolidate."
            )
        directory = local_path(path)
        checkpoint = refuse_foreign(TorchCheckpointIO().load_checkpoint(str(directory / REST)), path)
        if not isinstance(checkpoint.get(ENGINE_KEY), dict):
            raise CheckpointCorruptedError(f"{REST} in {path!r} does not say which engine wrote it; load an older one.")
        self._to_load = directory, checkpoint.pop(ENGINE_KEY)
        return checkpoint

    def load_module_state_dict(self, module: Module, state: dict[str, Any], strict: bool) -> None:
        """Load whole weights; in a fit, the engine loads those of a directory itself."""
        if self._to_load is None:
            return self._load_whole(module, state, strict)
        directory, _ = self._to_load
        if module.trainer.state.fn != "fit":  # type: ignore[union-attr]
            self._to_load = None
            self._load_whole(module, read_weights(directory), strict)

    def _load_whole(self, module: Module, state: dict[str, Any], strict: bool) -> None:
        if not is_divided(module):
            module.load_state_dict(state, strict=strict)
            return
        with self._deepspeed.zero.GatheredParameters(list(module.parameters()), modifier_rank=0):
            module.load_state_dict(state, strict=strict)

    def _load_engine(self) -> None:
        """Let the engine load the directory that :meth:`load_checkpoint` has read, if there is one."""
        if self._to_load is None:
            return
        (directory, written), self._to_load = self._to_load, None
        now = {"stage": self.stage, "world_size": self.world_size}
        if written != now:
            raise MisconfigurationException(
                f"{str(directory)!r} was written by {written['world_size']} processes in stage {written['stage']}, and "
                f"this run has {now['world_size']} in stage {now['stage']}: DeepSpeed can't resume from it. Turn it "
                "into one file of weights (python -m leyden_deepspeed.consolidate), and start a new fit from these."
            )
        with self.collective("load_checkpoint"):
            found, _ = self._engine.load_checkpoint(
                str(directory), tag=TAG, load_module_strict=self._module.strict_loading
            )
        if found is None:
            raise MisconfigurationException(f"DeepSpeed finds nothing in {str(directory)!r} that it could load.")

    def load_optimizer_state_dict(self, optimizer: Any, state: dict[str, Any]) -> None:
        """Do nothing for a directory, which the engine has loaded.

        Raises:
            MisconfigurationException: The state comes from a checkpoint of another strategy.
        """
        if state:
            raise MisconfigurationException(
                "The checkpoint was written by another strategy, and DeepSpeed can't load its optimizer's state; "
                "resume with that strategy, or load the weights with load_from_checkpoint and start a new fit."
            )


def _remove(path: Path) -> None:
    if path.exists():
        TorchCheckpointIO().remove_checkpoint(str(path))

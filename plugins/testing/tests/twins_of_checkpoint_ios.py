"""Broken checkpoint IOs: each is the core's with one thing wrong."""

import os
from pathlib import Path

import torch

from leyden.plugins import CheckpointIO, TorchCheckpointIO
from leyden_testing import CheckpointIOConformance as C

from .twins import breaks


def rounded(checkpoint):
    state = {name: t.half() if t.is_floating_point() else t for name, t in checkpoint["state_dict"].items()}
    return {**checkpoint, "state_dict": state}


@breaks(C, "what_is_saved_is_loaded", "dtype")
@breaks(C, "a_resumed_run_is_the_uninterrupted_one", "differs by")
class Rounding(TorchCheckpointIO):
    def save_checkpoint(self, checkpoint, path, storage_options=None):
        super().save_checkpoint(rounded(checkpoint), path, storage_options)


@breaks(C, "saving_does_not_change_what_is_saved", "keys()")
class Consuming(TorchCheckpointIO):
    def save_checkpoint(self, checkpoint, path, storage_options=None):
        super().save_checkpoint(checkpoint, path, storage_options)
        checkpoint.pop("loops", None)


@breaks(C, "a_checkpoint_replaces_the_one_before", "== 2")
class Keeping(TorchCheckpointIO):
    def save_checkpoint(self, checkpoint, path, storage_options=None):
        if not os.path.exists(path):
            super().save_checkpoint(checkpoint, path, storage_options)


@breaks(C, "a_missing_checkpoint_is_an_error", "DID NOT RAISE")
class Inventing(TorchCheckpointIO):
    def load_checkpoint(self, path, map_location=None, weights_only=None):
        return super().load_checkpoint(path, map_location, weights_only) if os.path.exists(path) else {}


@breaks(C, "it_is_removed", "FileNotFoundError")
class RemovesOnce(TorchCheckpointIO):
    def remove_checkpoint(self, path):
        os.remove(path)


@breaks(C, "a_failed_save_keeps_the_old_checkpoint", "Error")
@breaks(C, "a_kill_leaves_the_old_or_the_new_checkpoint", "Error")
class InPlace(CheckpointIO):
    """Overwrites the old file in place, slowly."""

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        existed = target.exists()
        with target.open("wb") as file:
            torch.save(checkpoint, file)
            if existed:
                file.truncate(1000)
                file.flush()
                while os.getpid() != PARENT:  # like a slow disk
                    pass

    def load_checkpoint(self, path, map_location=None, weights_only=None):
        return TorchCheckpointIO().load_checkpoint(path, map_location, weights_only)

    def remove_checkpoint(self, path):
        TorchCheckpointIO().remove_checkpoint(path)


PARENT = os.getpid()


@breaks(C, "a_damaged_checkpoint_is_never_returned", "DID NOT RAISE")
class Unchecked(TorchCheckpointIO):
    def load_checkpoint(self, path, map_location=None, weights_only=None):
        return torch.load(path, map_location, weights_only=True)


@breaks(C, "loading_runs_no_code", "DID NOT RAISE")
class Trusting(TorchCheckpointIO):
    def load_checkpoint(self, path, map_location=None, weights_only=None):
        return torch.load(path, map_location, weights_only=False)


@breaks(C, "teardown_completes_the_saves", "FileNotFoundError")
class Putting(TorchCheckpointIO):
    """Writes a checkpoint only when the next one is saved."""

    pending = ()

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        if self.pending:
            super().save_checkpoint(*self.pending)
        self.pending = checkpoint, path

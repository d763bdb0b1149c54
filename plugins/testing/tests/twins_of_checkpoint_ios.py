"""Broken twins of checkpoint IOs: the core's, but for one thing."""

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


@breaks(C, "where_nothing_is_there_is_nothing_to_load", "DID NOT RAISE")
class Inventing(TorchCheckpointIO):
    def load_checkpoint(self, path, map_location=None, weights_only=None):
        return super().load_checkpoint(path, map_location, weights_only) if os.path.exists(path) else {}


@breaks(C, "it_is_removed", "FileNotFoundError")
class RemovesOnce(TorchCheckpointIO):
    def remove_checkpoint(self, path):
        os.remove(path)


@breaks(C, "what_can_not_be_saved_leaves_the_old_one", "Error")
@breaks(C, "a_kill_leaves_the_old_one_or_the_new_one", "Error")
class InPlace(CheckpointIO):
    """Writes over the old file, slowly."""

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        existed = target.exists()
        with target.open("wb") as file:
            torch.save(checkpoint, file)
            if existed:
                file.truncate(1000)
                file.flush()
                while os.getpid() != PARENT:  # a slow disk
                    pass

    def load_checkpoint(self, path, map_location=None, weights_only=None):
        return TorchCheckpointIO().load_checkpoint(path, map_location, weights_only)

    def remove_checkpoint(self, path):
        TorchCheckpointIO().remove_checkpoint(path)


PARENT = os.getpid()


@breaks(C, "a_damaged_one_is_never_returned", "DID NOT RAISE")
class Unchecked(TorchCheckpointIO):
    def load_checkpoint(self, path, map_location=None, weights_only=None):
        return torch.load(path, map_location, weights_only=True)


@breaks(C, "loading_runs_no_code", "DID NOT RAISE")
class Trusting(TorchCheckpointIO):
    def load_checkpoint(self, path, map_location=None, weights_only=None):
        return torch.load(path, map_location, weights_only=False)


@breaks(C, "it_finishes_what_it_has_begun", "FileNotFoundError")
class Putting(TorchCheckpointIO):
    """Writes a checkpoint when the next one comes."""

    pending = ()

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        if self.pending:
            super().save_checkpoint(*self.pending)
        self.pending = checkpoint, path

"""Broken callbacks: each has one thing wrong."""

import torch

import leyden as pl
from leyden_testing import CallbackConformance as C

from .twins import breaks


@breaks(C, "its_hooks_take_what_hooks_offer", "extra")
class Demanding(pl.Callback):
    def on_train_start(self, trainer, pl_module, extra):
        pass


@breaks(C, "no_method_misspells_a_hook", "on_train_epoch_start")
class Misspelt(pl.Callback):
    def on_train_epoch_started(self, trainer, pl_module):
        pass


@breaks(C, "its_state_key_depends_on_class_and_arguments", "state_key")
class Unkeyed(pl.Callback):
    @property
    def state_key(self):
        return str(id(self))


@breaks(C, "its_state_is_plain_data_and_can_be_restored", "not plain data")
class Stateful(pl.Callback):
    def state_dict(self):
        return {"function": print}


@breaks(C, "a_resumed_run_is_the_uninterrupted_one", "differs by")
class Forgetful(pl.Callback):
    batches = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches += 1
        if self.batches % 4 == 0:
            with torch.no_grad():
                pl_module.layers[0].weight.mul_(0.5)


@breaks(C, "every_stage_runs_without_a_fit", "list index out of range")
class NeedsOptimizers(pl.Callback):
    def on_test_start(self, trainer, pl_module):
        trainer.optimizers[0].zero_grad()


@breaks(C, "a_dry_run_works", "no dry run")
class Undryable(pl.Callback):
    def setup(self, trainer, pl_module, stage):
        if trainer.fast_dev_run:
            raise RuntimeError("no dry run")


@breaks(C, "it_can_be_copied_to_other_processes", "pickle")
class Tied(pl.Callback):
    def __init__(self):
        self.lines = (line for line in ())

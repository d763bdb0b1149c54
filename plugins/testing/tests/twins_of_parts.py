"""Broken parts for the checks that all kinds share; broken plugins are in test_testing_twins.py."""

import os

import leyden as pl
from leyden_testing import AcceleratorConformance, CallbackConformance
from leyden_testing.training import Host

from .twins import breaks


@breaks(AcceleratorConformance, "it_answers_to_all_its_names", "has a space or a comma", {"aliases": ["two words"]})
class Spaced(Host):
    pass


@breaks(AcceleratorConformance, "its_target_is_what_its_kind_says", "is not a subclass of Accelerator")
class NoAccelerator:
    pass


@breaks(AcceleratorConformance, "a_trainer_takes_its_name_its_class_and_an_instance", "than arguments")
class Confused(Host):
    made = 0

    def __init__(self):
        type(self).made += 1
        if self.made > 1:
            raise TypeError("something else than arguments")


@breaks(AcceleratorConformance, "a_misspelt_name_suggests_the_right_one", "DID NOT RAISE", {"aliases": ["greedyy"]})
class Greedy(Host):
    pass


@breaks(AcceleratorConformance, "a_run_leaves_the_process_as_it_was", "the environment variable TWIN")
class LeavesVariable(Host):
    def setup_device(self, device):
        os.environ["TWIN"] = "1"


@breaks(CallbackConformance, "a_failed_run_raises_and_leaves_the_process_as_it_was", "environment variable TWIN")
class CleansUpAfterSuccess(pl.Callback):
    def on_fit_start(self, trainer, pl_module):
        os.environ["TWIN"] = "1"

    def on_fit_end(self, trainer, pl_module):
        del os.environ["TWIN"]

"""Broken accelerators: each is the CPU with one thing wrong."""

import os

import torch
from torch import nn

from leyden.utilities.exceptions import MisconfigurationException
from leyden_testing import AcceleratorConformance as A
from leyden_testing.training import Host

from .twins import breaks


class Hooked(Host):
    """Replaces each linear layer's output by that of :meth:`computed`, during runs."""

    def setup_device(self, device):
        def hook(module, arguments, output):
            return self.computed(module, output) if isinstance(module, nn.Linear) else None

        self.handle = nn.modules.module.register_module_forward_hook(hook)

    def teardown(self):
        if hasattr(self, "handle"):
            self.handle.remove()


@breaks(A, "it_says_what_device_it_is", "warp9")
class Unknown(Host):
    device_type = "warp9"


@breaks(A, "it_says_whether_it_is_available", "'yes'")
class Vague(Host):
    @classmethod
    def is_available(cls):
        return "yes"


@breaks(A, "a_device_that_is_not_there_is_refused", "the driver is missing")
class Eager(Host):
    def __init__(self):
        raise RuntimeError("the driver is missing")

    @classmethod
    def is_available(cls):
        return False


@breaks(A, "devices_are_counted_and_chosen", "isinstance")
class Lazy(Host):
    @classmethod
    def parse_devices(cls, devices):
        return tuple(super().parse_devices(devices))


@breaks(A, "wrong_devices_are_refused", "DID NOT RAISE")
class Tolerant(Host):
    @classmethod
    def parse_devices(cls, devices):
        try:
            return super().parse_devices(devices)
        except MisconfigurationException:
            return [0]


@breaks(A, "it_has_a_process_group_backend", "isinstance")
class Mute(Host):
    @classmethod
    def process_group_backend(cls):
        return None


@breaks(A, "it_can_be_set_up_and_torn_down_repeatedly", "left already")
class LeftOnce(Host):
    left = False

    def teardown(self):
        if self.left:
            raise RuntimeError("left already")
        self.left = True


@breaks(A, "its_statistics_are_numbers", "which is not a number")
class Wordy(Host):
    def get_device_stats(self, device):
        return {"memory": "much"}


@breaks(A, "its_random_state_can_be_restored", "not bytes")
class Numbers(Host):
    def get_rng_state(self, device):
        return torch.zeros(3, dtype=torch.int64)


@breaks(A, "a_seed_decides_what_it_draws", "torch.equal")
class Unseeded(Host):
    def setup_device(self, device):
        torch.manual_seed = lambda seed: None


@breaks(A, "batches_arrive_whole", "meta")
@breaks(A, "a_module_is_built_on_it", "meta")
class Elsewhere(Host):
    @classmethod
    def get_parallel_devices(cls, devices):
        return [torch.device("meta")] * len(devices)


@breaks(A, "it_trains_to_the_weights_of_the_host", "differs by")
@breaks(A, "several_loaders_train_as_on_the_host", "differs by")
@breaks(A, "it_validates_tests_and_predicts_as_the_host", "differs by")
@breaks(A, "its_checkpoint_resumes_on_the_cpu", "differs by")
@breaks(A, "a_checkpoint_of_the_cpu_resumes_on_it", "differs by")
class Inexact(Hooked):
    def computed(self, module, output):
        return output * 1.001


@breaks(A, "clipping_and_accumulation_are_those_of_the_host", "differs by")
class ClipsNothing(Host):
    def setup_device(self, device):
        self.real, nn.utils.clip_grad_norm_ = nn.utils.clip_grad_norm_, lambda parameters, value: torch.tensor(0.0)

    def teardown(self):
        nn.utils.clip_grad_norm_ = self.real


@breaks(A, "a_precision_is_computed_or_refused", "differs by")
class Crawls(Hooked):
    def computed(self, module, output):
        return output if output.dtype == torch.float32 else output * 3


@breaks(A, "deterministic_runs_are_the_same_to_the_last_bit", "differs by")
@breaks(A, "a_resumed_run_is_the_uninterrupted_one", "differs by")
class Restless(Hooked):
    def computed(self, module, output):
        return output + os.urandom(1)[0] / 1000


@breaks(A, "the_model_comes_back_to_the_host", "isinstance")
class Possessive(Hooked):
    gone = False

    def computed(self, module, output):
        return str(output) if self.gone else output

    def teardown(self):
        self.gone = True

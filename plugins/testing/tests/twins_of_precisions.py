"""Broken precisions: each is bfloat16 for everything, or 32 bits, with one thing wrong."""

import copy
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from leyden.plugins import Precision
from leyden_testing import PrecisionConformance as P

from .twins import breaks


class Brain(Precision):
    """Casts modules and batches to bfloat16."""

    precision = "brain"

    def convert_module(self, module):
        return module.bfloat16()


class Plain(Precision):
    """32 bits, under the component's name."""

    def __init__(self):
        self.precision = type(self).__name__.lower()


@breaks(P, "it_says_its_name", "32-true")
@breaks(P, "a_device_may_refuse_it", "DID NOT RAISE")
class Nameless(Precision):
    pass


@breaks(P, "modules_are_cast_in_place_and_once", "is Sequential")
class Copies(Plain):
    def convert_module(self, module):
        return copy.deepcopy(module)


@breaks(P, "modules_built_in_it_are_those_cast_to_it", "bfloat16")
class BuildsOtherwise(Brain):
    pass


@breaks(P, "batches_fit_the_module", "int64")
class CastsLabels(Plain):
    def convert_input(self, data):
        return {**data, "labels": data["labels"].float()}


@breaks(P, "its_contexts_leave_no_trace", "float64")
class LeavesDtype(Plain):
    @contextmanager
    def forward_context(self):
        torch.set_default_dtype(torch.float64)
        yield

    def teardown(self):
        torch.set_default_dtype(torch.float32)


@breaks(P, "gradients_are_unscaled", "weight")
class ScalesOnly(Plain):
    def scale_loss(self, loss):
        return loss * 1024


@breaks(P, "a_step_returns_what_the_optimizer_returns", "== 3")
class DropsArguments(Plain):
    def optimizer_step(self, optimizer, closure=None, **arguments):
        return super().optimizer_step(optimizer, closure)


@breaks(P, "a_closure_is_evaluated_once_and_returned", "== 1")
class EvaluatesTwice(Plain):
    def optimizer_step(self, optimizer, closure=None, **arguments):
        if closure is not None:
            closure()
        return super().optimizer_step(optimizer, closure, **arguments)


@breaks(P, "gradients_are_clipped", "0.01")
class ClipsNothing(Plain):
    def clip_gradients(self, parameters, clip_val, algorithm):
        return nn.utils.clip_grad_norm_(parameters, float("inf"))


@breaks(P, "its_state_is_plain_data_and_can_be_restored", "not plain data")
class Stateful(Plain):
    def state_dict(self):
        return {"function": print}


@breaks(P, "it_can_be_torn_down_repeatedly", "torn down")
class LeftOnce(Plain):
    is_set_up = False

    def setup(self, accelerator):
        self.is_set_up = True

    def teardown(self):
        if not self.is_set_up:
            raise RuntimeError("torn down already")
        self.is_set_up = False


@breaks(P, "it_trains_near_the_weights_of_32_bits", "differs by")
@breaks(P, "it_evaluates_and_predicts_near_32_bits", "differs by")
class Stretches(Plain):
    def convert_input(self, data):
        return [data[0] * 3, *data[1:]]


@breaks(P, "a_resumed_run_is_the_uninterrupted_one", "differs by")
class Forgetful(Plain):
    steps = 0

    def scale_loss(self, loss):
        self.steps += 1
        return loss * self.steps

    def forward_context(self):
        return nullcontext()

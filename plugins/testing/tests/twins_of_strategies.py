"""Broken strategies: each is DDP, or has one process, with one thing wrong."""

import os

import torch

from leyden.strategies import Launcher, Strategy
from leyden_ddp.strategy import DDPStrategy
from leyden_testing import StrategyConformance as S

from .twins import breaks


@breaks(S, "it_says_what_it_does", "uneven_inputs")
class Undecided(DDPStrategy):
    def connect(self):
        super().connect()
        self.uneven_inputs = "somehow"


@breaks(S, "too_many_devices_are_refused", "DID NOT RAISE", processes=1)
class Alone(Strategy):
    pass


@breaks(S, "each_process_knows_which_it_is", "place")
class AllFirst(DDPStrategy):
    @property
    def local_rank(self):
        return 0


@breaks(S, "reduce", "reduce('max')")
class Averages(DDPStrategy):
    def reduce(self, tensor, op="mean", group=None):
        return super().reduce(tensor, "mean" if op == "max" else op, group)


@breaks(S, "gather", "gathered")
class Concatenates(DDPStrategy):
    def all_gather(self, tensor, group=None, sync_grads=False):
        return super().all_gather(tensor, group, sync_grads).flatten(0, 1)


@breaks(S, "decisions", "all of some")
class Any(DDPStrategy):
    def reduce_boolean_decision(self, decision, all=True):
        return super().reduce_boolean_decision(decision, all=False)


@breaks(S, "broadcast", "of 0")
class FromFirst(DDPStrategy):
    def broadcast(self, value, src=0):
        return super().broadcast(value, 0)


@breaks(S, "a_barrier_waits_for_all", "here")
class NoBarrier(DDPStrategy):
    def barrier(self, name=None):
        pass


@breaks(S, "it_trains_to_the_weights_of_one_process", "differs by")
@breaks(S, "accumulation_and_clipping_are_those_of_one_process", "differs by")
class NoExchange(DDPStrategy):
    def setup_module(self, module, training=True):
        Strategy.setup_module(self, module, training)
        self._module = module


@breaks(S, "every_row_is_seen_once", "NoneType")
class Undivided(DDPStrategy):
    sampler_arguments = None


@breaks(S, "it_evaluates_and_predicts_as_one_process", "val_loss differs by")
class OwnMetrics(DDPStrategy):
    def reduce(self, tensor, op="mean", group=None):
        return tensor


@breaks(S, "it_can_be_used_again", "used already")
class Once(DDPStrategy):
    used = False

    def setup_module(self, module, training=True):
        if self.used and training:
            raise RuntimeError("used already")
        self.used = self.used or training
        super().setup_module(module, training)


@breaks(S, "uneven_processes_end_together", "{2, 4}")
class Apart(NoExchange):
    def reduce(self, tensor, op="mean", group=None):
        return tensor

    def reduce_boolean_decision(self, decision, all=True):
        return decision

    def all_gather_object(self, value, group=None):
        return [value]


@breaks(S, "a_resumed_run_is_the_uninterrupted_one", "differs by")
class LosesMomentum(DDPStrategy):
    def load_optimizer_state_dict(self, optimizer, state):
        pass


@breaks(S, "its_checkpoint_goes_on_alone", "keys()")
class Prefixed(DDPStrategy):
    def module_state_dict(self, module):
        return {f"module.{name}": value for name, value in module.state_dict().items()}

    def load_module_state_dict(self, module, state, strict):
        module.load_state_dict({name.removeprefix("module."): value for name, value in state.items()}, strict=strict)


@breaks(S, "a_checkpoint_of_one_process_goes_on_under_it", "differs by")
class LosesWeights(DDPStrategy):
    def load_module_state_dict(self, module, state, strict):
        pass


@breaks(S, "a_process_that_raises_ends_the_run", "something went wrong")
class Vague(DDPStrategy):
    def first_cause(self, error):
        super().first_cause(error)
        return error if self.global_rank else RuntimeError("something went wrong")


@breaks(S, "a_process_that_is_asked_to_end_ends_all", "but the run continued")
class Deaf(DDPStrategy):
    def must_end(self, reason):
        return ""


class Losing(Launcher):
    """A launcher that runs in this process and loses the weights."""

    takes_part = False

    def launch(self, function, *args):
        results = function(*args)
        with torch.no_grad():
            for parameter in function.__self__.module.parameters():
                parameter.zero_()
        return results


@breaks(S, "its_launcher_returns_the_results", "differs by", processes=1)
class LosesResults(Strategy):
    launcher = Losing()


@breaks(S, "a_run_leaves_the_process_as_it_was", "the environment variable TWIN")
class LeavesVariable(DDPStrategy):
    def setup_environment(self):
        super().setup_environment()
        os.environ["TWIN"] = "1"


@breaks(S, "a_failed_run_raises_and_leaves_the_process_as_it_was", "environment variable TWIN", processes=1)
class CleansUpAfterSuccess(Strategy):
    def setup_environment(self):
        super().setup_environment()
        os.environ["TWIN"] = "1"

    def on_fit_end(self):
        del os.environ["TWIN"]

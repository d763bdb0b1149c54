"""Broken profilers: each lists actions, with one thing wrong."""

import threading

import torch

from leyden.profilers import Profiler
from leyden.utilities.rank_zero import log
from leyden_testing import ProfilerConformance as P

from .twins import breaks


class Listing(Profiler):
    """Counts the calls of each action."""

    def __init__(self, dirpath=None, filename=None):
        super().__init__(dirpath, filename)
        self.calls = {}

    def start(self, action_name):
        self.calls[action_name] = self.calls.get(action_name, 0) + 1

    def summary(self):
        return "".join(f"{name}: {count}\n" for name, count in self.calls.items())


@breaks(P, "what_is_measured_is_reported", "the summary does not name")
class Shallow(Listing):
    def summary(self):
        return "".join(f"{name}: {count}\n" for name, count in [*self.calls.items()][-1:])


@breaks(P, "a_block_that_raises_is_stopped", "is running")
class Unstopped(Listing):
    def __init__(self, dirpath=None, filename=None):
        super().__init__(dirpath, filename)
        self.running = set()

    def start(self, action_name):
        if action_name in self.running:
            raise RuntimeError(f"{action_name} is running")
        self.running.add(action_name)


@breaks(P, "its_report_is_printed_on_rank_0_alone", "on rank 1")
class Loud(Listing):
    def describe(self):
        log.info(self.summary())


@breaks(P, "its_report_goes_to_a_file", "FileNotFoundError")
class Printing(Listing):
    def __init__(self, dirpath=None, filename=None):
        super().__init__(dirpath, None)


@breaks(P, "a_run_with_it_is_the_run_without", "differs by")
class Drawing(Listing):
    def start(self, action_name):
        torch.rand(1)


@breaks(P, "a_run_is_reported", "the report of a test")
class OnlyFits(Listing):
    def describe(self):
        if self._stage == "fit":
            super().describe()


@breaks(P, "it_can_be_copied_to_other_processes", "pickle")
class Locked(Listing):
    def __init__(self, dirpath=None, filename=None):
        super().__init__(dirpath, filename)
        self.lock = threading.Lock()

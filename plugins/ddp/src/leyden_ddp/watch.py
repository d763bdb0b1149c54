"""The watch of each rank over the others: when one fails, dies or goes another way, none waits for it for ever.

Every process has a thread that looks, twice a second, at two counters of the store through which the ranks met and at
whether the processes of its own machine are alive. The first failure of a run is written there, with its traceback;
every rank then ends with it: where it begins a batch or enters a collective next, or, if it is stuck in one, with its
process, since nothing else ends a collective whose peer is gone. The thread never judges by silence: a rank that
computes, debugs or waits for as long as it likes is well. But where all wait, and not in the same collective, none
will ever come.

Between two runs, and after the last, the thread ends nobody but a process that waits for a peer that is gone.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, cast

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from leyden.utilities.exceptions import SIGTERMException
from leyden_ddp.failure import ALL, Failure, PeerFailedError, is_of_connection, summary_of
from leyden_ddp.keys import Keys
from leyden_ddp.processes import epitaph, is_alive, machine
from leyden_ddp.signals import SIGTERM
from leyden_ddp.standstill import Standstill

INTERVAL = 0.5  # seconds between two looks
GRACE = 4.0  # seconds in which a rank may hear of another's failure, and again in which it may end with it
last_words: list[Callable[[PeerFailedError], None]] = []  # called when the watch ends this process
_watch: Watch | None = None


def watch_of_group(rank: int, size: int) -> Watch:
    """The watch of this process over the default process group; it begins with the first run and ends with it."""
    global _watch
    if _watch is None or _watch.group is not dist.group.WORLD:
        _watch = Watch(rank, size)
    return _watch


def end_watch() -> None:
    """This process leaves the group: the others are told that it will join in no run any more."""
    global _watch
    watch, _watch = _watch, None
    if watch is not None and watch.process == os.getpid():  # not a fork's, whose thread is not here
        watch.leave()


class Run:
    """What one process knows of one run.

    Args:
        name: The prefix of its keys.
        standstill: Knows whether this rank is stuck.

    Attributes:
        inside: The collective in which this rank waits for others, or "".
        failure: What ended it, on whichever rank.
        is_told: Whether this rank knows that it failed: an error of it, or of another rank, is being raised.
        has_ended: Whether this rank has come to its end in peace.
        is_over: Whether this rank waits for no other any more.
    """

    def __init__(self, name: str, standstill: Standstill) -> None:
        self.name, self.standstill = name, standstill
        self.batches = self.boundaries = self.collectives = 0
        self.inside = ""
        self.failure: Failure | None = None
        self.is_told = self.has_ended = self.is_over = self.has_read = self.has_obeyed = False
        self.place = self.last = -1  # the boundary at which this rank could end, and the one at which all do
        self.first_end: tuple[int, int] | None = None  # the rank that ended it first, and after how many batches
        self.lock = threading.Lock()
        self.settled = threading.Event()


class Watch:
    """One process's part of the watch.

    Args:
        rank: This rank.
        size: Ranks in all.

    Attributes:
        group: The process group that is watched over.
        process: The process whose watch it is.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size, self.process = rank, size, os.getpid()
        self.group = dist.group.WORLD
        default: Any = _get_default_store()  # of which PyTorch's own types know less than it can
        store, own = (dist.PrefixStore("watch", each) for each in (default, default.clone()))
        own.set_timeout(timedelta(seconds=GRACE))
        self._store, self._own = Keys(store, self._is_held), Keys(own, self._is_held)  # the latter is the thread's
        self._peers: dict[int, int] = {}
        self._machine = f"machine/{machine()}"
        cast(Any, store).append(self._machine, f"{rank} {os.getpid()} ")
        store.add("processes", 1)
        self._runs, self._run = 0, self._new_run(0)
        self._run.is_over = True  # there has been none yet
        patience = time.monotonic() + GRACE  # then the thread finds them later
        while not self._has_found_peers(self._store) and time.monotonic() < patience:
            time.sleep(0.001)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look_again_and_again, name="leyden-watch", daemon=True)
        self._thread.start()

    def _new_run(self, number: int) -> Run:
        return Run(f"run/{number}", Standstill(self._own, f"run/{number}", self.rank, self.size))

    def _is_held(self) -> bool:
        """Whether the store is still there, as far as can be seen from here: it is held by rank 0, or its launcher."""
        holder = self._peers.get(0) if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" else None
        return holder is None or is_alive(holder)

    # -- from the main thread -----------------------------------------------------------------------------

    def begin(self) -> dist.Store:
        """A run begins; returns a part of the store that is this run's alone.

        Raises:
            PeerFailedError: A rank has left already.
        """
        self._runs += 1
        self._run = self._new_run(self._runs)
        try:
            gone = self._gone(self._store)
        except dist.DistError as error:
            raise PeerFailedError("The process that holds the store is gone, and with it the other ranks.") from error
        if gone:
            raise PeerFailedError(
                f"This rank begins another run, but rank {', '.join(map(str, gone))} has ended its program: all ranks "
                "must make the same runs."
            )
        return dist.PrefixStore(f"watch/{self._run.name}", _get_default_store())

    @property
    def is_alone(self) -> bool:
        """Whether this rank's run is failing, so that it waits for no other any more."""
        return self._run.is_told

    def begin_batch(self) -> None:
        """A training batch begins.

        Raises:
            PeerFailedError: Another rank has failed.
        """
        run = self._run
        run.batches += 1
        if run.failure is not None:
            raise run.failure.as_error(self.rank)

    def enter(self, collective: str) -> str:
        """This rank is about to wait for others; returns in what it did so already, or "".

        Raises:
            PeerFailedError: A rank, perhaps this one, has failed, so that they would not come.
        """
        self.refuse_after_failure()
        run = self._run
        outer, run.inside = run.inside, collective
        run.collectives += 1
        return outer

    def leave_collective(self, outer: str = "") -> None:
        """This rank waits no longer, or again in what it was in before."""
        self._run.inside = outer

    def refuse_after_failure(self) -> None:
        """Raise if a rank has failed in this run.

        Raises:
            PeerFailedError: One has, perhaps this one.
        """
        if self._run.failure is not None:
            raise self._run.failure.as_error(self.rank)

    def first_cause(self, error: BaseException) -> BaseException:
        """Tell the others of an error of this rank; returns the failure of another that led to it, if one did."""
        run = self._run
        run.inside = ""
        if isinstance(error, SIGTERMException):  # agreed among all
            return error
        run.is_told = True
        if is_of_connection(error):
            self._wait_for_failure(run)
        if run.failure is None and not isinstance(error, PeerFailedError):
            self._publish(run, self._store, Failure.of(self.rank, error))
        failure = run.failure
        if failure is None or failure.rank == self.rank or isinstance(error, (PeerFailedError, KeyboardInterrupt)):
            return error
        return error if summary_of(error) == failure.summary else failure.as_error(self.rank)

    def ends_here(self, reason: str) -> str:
        """Whether the run ends at this step boundary, because a rank was asked to; the reason, or "".

        Args:
            reason: Why this rank should end, or "".
        """
        run = self._run
        with run.lock:
            run.boundaries += 1
            if reason and run.place < 0:
                self._store.compare_set(f"{run.name}/asked", "", reason)
                self._publish_place(run, self._store, run.boundaries)
        if run.place < 0 or run.boundaries < run.place:
            return ""
        if run.last < 0:
            self._wait_until(run, lambda: self._store.add(f"{run.name}/places", 0) >= self.size)
            self.refuse_after_failure()
            places = self._store.multi_get([f"{run.name}/place/{rank}" for rank in range(self.size)])
            run.last = max(map(int, places))
        if run.boundaries < run.last:
            return ""
        run.has_obeyed = True
        return self._store.get(f"{run.name}/asked").decode()

    def end(self) -> None:
        """This rank's part of the run ended: wait for the others, if all is well.

        Raises:
            PeerFailedError: Another rank failed, and this one has no error of its own.
            SIGTERMException: A rank got SIGTERM when there was no step boundary left for all to end at.
        """
        run = self._run
        if run.is_over:
            return
        asked = b""
        if run.failure is None:
            run.has_ended = True
            with suppress(dist.DistError):
                self._store.compare_set(f"{run.name}/end", "", json.dumps([self.rank, run.batches]))
                self._store.add(f"{run.name}/ended", 1)
                self._store.add(f"{run.name}/news", 1)
                self._wait_until(run, lambda: self._have_all_ended(run, self._store))
                if run.failure is None and not run.has_obeyed and self._store.check([f"{run.name}/asked"]):
                    asked = self._store.get(f"{run.name}/asked")
        run.is_over = True
        run.settled.set()
        self._let_others_read(run)
        if run.failure is not None and run.failure.rank != self.rank and not run.is_told:
            raise run.failure.as_error(self.rank)
        if asked.decode() == SIGTERM:
            raise SIGTERMException

    def leave(self) -> None:
        """This process joins in no run any more; one that fails lets the others read why."""
        run = self._run
        with suppress(dist.DistError):
            if not run.is_over and run.failure is None:  # an error that nobody was told of is on its way
                self._publish(run, self._store, Failure.told(self.rank, f"Rank {self.rank} left within a run."))
            if run.failure is None:  # else the others know, and rank 0 may have gone with the store
                self._store.set(f"gone/{self.rank}", "")
                self._store.add("gone", 1)
        if not run.is_over:
            self._let_others_read(run)
        run.settled.set()
        self._stop.set()
        self._thread.join(GRACE)

    def _let_others_read(self, run: Run) -> None:
        """Rank 0, whose process may hold the store, goes on when the others have what they need of it."""
        if self.rank != 0:
            self._say_read(run, self._store)
            return
        sees_all = len(self._peers) == self.size  # a dead rank reads nothing, and of one elsewhere that isn't known
        patience = time.monotonic() + (GRACE if run.failure is None or sees_all else 3 * INTERVAL)
        pause = 0.001
        with suppress(dist.DistError):
            while not self._have_others_read(run) and time.monotonic() < patience:
                time.sleep(pause)
                pause = min(2 * pause, INTERVAL / 10)

    def _have_others_read(self, run: Run) -> bool:
        missing = self.size - 1 - self._store.add(f"{run.name}/read", 0)
        if missing <= 0 or run.failure is None:
            return missing <= 0
        dead = [rank for rank, pid in self._peers.items() if not is_alive(pid)]
        return missing <= sum(not self._store.check([f"{run.name}/read/{rank}"]) for rank in dead)

    def _say_read(self, run: Run, store: Keys) -> None:
        with run.lock, suppress(dist.DistError):
            if not run.has_read:
                run.has_read = True
                store.set(f"{run.name}/read/{self.rank}", "")
                store.add(f"{run.name}/read", 1)

    def _wait_until(self, run: Run, is_so: Callable[[], bool]) -> None:
        """Wait for something, unless the run fails; asking seldom after a while, as others ask too."""
        pause = 0.001
        while run.failure is None and not is_so():
            time.sleep(pause)
            pause = min(2 * pause, INTERVAL / 2)

    def _wait_for_failure(self, run: Run) -> None:
        """A broken connection is seldom the first cause: give the thread the time to find who is gone."""
        patience = time.monotonic() + 4 * INTERVAL
        while run.failure is None and time.monotonic() < patience and self._thread.is_alive():
            time.sleep(INTERVAL / 10)

    # -- the thread ---------------------------------------------------------------------------------------

    def _look_again_and_again(self) -> None:
        while not self._stop.wait(INTERVAL):
            run = self._run
            had_failed = run.failure is not None
            try:
                self._look(run, self._own)
            except Exception as error:
                if self._stop.is_set():
                    return
                self._miss_store(run, error)
            if run.failure is not None and not had_failed:
                self._see_that_it_ends(run)
            elif run.failure is not None and run.standstill.is_stuck(run.collectives, run.inside):
                self._end_process(run)

    def _look(self, run: Run, store: Keys) -> None:
        inside = run.inside
        is_stuck = run.standstill.is_stuck(run.collectives, inside)
        if run.failure is None and store.add(f"{run.name}/news", 0):
            self._read_news(run, store)
        if run.failure is None and not run.has_ended and run.first_end is not None:
            self._compare_end(run, store, *run.first_end, inside if is_stuck else "")
        if run.failure is None:
            self._look_at_processes(run, store, is_stuck)
        if run.failure is None and (sentence := run.standstill.compare(inside if is_stuck else "")):
            self._publish(run, store, Failure.told(ALL, sentence))

    def _read_news(self, run: Run, store: Keys) -> None:
        if store.check([f"{run.name}/failure"]):
            run.failure = Failure.from_json(store.get(f"{run.name}/failure"))
            return
        if run.place < 0 and store.check([f"{run.name}/asked"]):
            with run.lock:
                if run.place < 0:
                    self._publish_place(run, store, run.boundaries + 1)
        if run.first_end is None and store.check([f"{run.name}/end"]):
            rank, batches = json.loads(store.get(f"{run.name}/end"))
            run.first_end = rank, batches

    def _compare_end(self, run: Run, store: Keys, rank: int, batches: int, stuck_in: str) -> None:
        """A rank that has ended its run joins no collective any more, so nobody may be in one or have gone on."""
        if rank == self.rank:
            return
        if run.batches > batches:
            went = f"went on to batch {run.batches}"
        elif stuck_in:
            went = f"waits for it in {stuck_in}"
        else:
            return
        sentence = (
            f"Rank {rank} ended its run after {batches} training batches, and rank {self.rank} {went}: all ranks must "
            "end together, and all enter a collective (trainer.strategy.reduce_boolean_decision helps to decide alike)."
        )
        self._publish(run, store, Failure.told(rank, sentence))

    def _look_at_processes(self, run: Run, store: Keys, is_stuck: bool) -> None:
        """Find a rank of this machine that has died, or one of any machine that has ended its program."""
        self._has_found_peers(store)
        dead = next((rank for rank, pid in self._peers.items() if not is_alive(pid)), None)  # this one is alive
        gone = next(iter(self._gone(store)), None)
        if (dead is None and gone is None) or (run.has_ended and self._have_all_ended(run, store)):
            return
        if run.is_over and not is_stuck:
            return
        if gone is not None:
            sentence = f"Rank {gone} has ended its program, and rank {self.rank} is still in a run."
            self._publish(run, store, Failure.told(gone, sentence))
        elif dead is not None:
            self._publish(run, store, Failure.told(dead, epitaph(dead, self._peers[dead])))

    def _has_found_peers(self, store: Keys) -> bool:
        """Learn which processes of this machine are whose, once all have said so."""
        if not self._peers and store.add("processes", 0) >= self.size:
            words = store.get(self._machine).decode().split()
            self._peers = dict(zip(map(int, words[::2]), map(int, words[1::2]), strict=True))
        return bool(self._peers)

    def _gone(self, store: Keys) -> list[int]:
        """The ranks that have ended their program."""
        if not store.add("gone", 0):
            return []
        return [rank for rank in range(self.size) if store.check([f"gone/{rank}"])]

    def _have_all_ended(self, run: Run, store: Keys) -> bool:
        return store.add(f"{run.name}/ended", 0) >= self.size

    def _publish_place(self, run: Run, store: Keys, place: int) -> None:
        """Say at which boundary this rank could end: one that it has not passed, and does not pass unheard."""
        run.place = place
        store.set(f"{run.name}/place/{self.rank}", str(place))
        store.add(f"{run.name}/places", 1)
        store.add(f"{run.name}/news", 1)

    def _publish(self, run: Run, store: Keys, failure: Failure) -> None:
        """Tell all ranks of a failure, unless there is one; the first counts."""
        try:
            run.failure = Failure.from_json(store.compare_set(f"{run.name}/failure", "", failure.to_json()))
            store.add(f"{run.name}/news", 1)
        except dist.DistError:  # the store is gone too
            run.failure = run.failure or failure

    def _miss_store(self, run: Run, error: Exception) -> None:
        """The store can't be reached, so that the process that holds it is gone; after a run that may well be."""
        if run.failure is not None or (run.is_over and not run.inside):
            return
        sentence = f"The store can't be reached, so rank 0, or the launcher that holds it, is gone ({error})."
        run.failure = Failure.told(0, sentence if self._is_held() else epitaph(0, self._peers[0]))

    def _see_that_it_ends(self, run: Run) -> None:
        """Wait until this rank has ended its run because of a failure; if it is stuck, end its process."""
        self._say_read(run, self._own)
        if run.is_over or run.failure is None:
            return
        at_once = run.failure.rank == ALL and self.rank != 0 and bool(run.inside)  # rank 0 is told so by its connection
        if not at_once and run.settled.wait(GRACE):
            return
        if run.is_told and not run.inside and (run.failure.rank == self.rank or run.settled.wait(GRACE)):
            return  # it knows, and its own hooks take their time
        if run.failure.rank != self.rank or run.inside:
            self._end_process(run)

    def _end_process(self, run: Run) -> None:
        assert run.failure is not None
        where = f" within {run.inside}" if run.inside else ""
        error = run.failure.as_error(self.rank)
        print(f"Rank {self.rank} ends{where}. {error}" if self.rank == 0 else error.brief, file=sys.stderr, flush=True)
        for tell in last_words:
            tell(error)
        for child in multiprocessing.active_children():  # loaders' workers, which notice it only seconds later
            child.kill()
        os._exit(1)

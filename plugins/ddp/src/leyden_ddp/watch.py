"""The watch of each rank over the others: when one fails, dies or leaves, no other waits for it for ever.

Every process has a thread that looks twice a second. It looks at two counters in the store through which the ranks
met, and at whether the processes of its own machine are alive. The first failure of a run is written to the store
with its traceback, and every rank then ends with that failure. A rank ends where it next begins a batch or enters a
collective. A rank that is stuck in a collective is ended together with its process, because nothing else ends a
collective that another process has left.

Silence is no failure: a rank may compute, wait or stand in a debugger for as long as it likes. A standstill is one: all
ranks wait, but not in the same collective, so none of these collectives can ever end. The end of a run counts as a
collective, so a rank that has ended its run and one that waits for it stand still.

What is concluded waits for what is known: a rank writes its own error to the store at once, and only what has held for
some looks of the thread is published as a failure. Patience for another rank is counted in looks too, since
they take longer on a machine that is slow.

Between two runs, and after the last one, the thread ends only a process that waits for a process that is gone.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, cast

import torch.distributed as dist
from torch import Tensor

from leyden.utilities.exceptions import SIGTERMException
from leyden_ddp.failure import ALL, Failure, PeerFailedError, is_of_connection, summary_of
from leyden_ddp.loop_thread import LoopThread
from leyden_ddp.processes import describe_death, is_alive, machine
from leyden_ddp.signals import SIGTERM
from leyden_ddp.standstill import REMEMBERED, STUCK, Collective, Position, StandstillDetector, parting_of
from leyden_ddp.store import WatchStore
from leyden_ddp.tracing import user_code
from leyden_ddp.trail import Trail, TrailOfPeer

INTERVAL = 0.5  # seconds between two looks
GRACE = 4.0  # seconds that a rank has to learn of another's failure, and then again to end with it
_ENOUGH = 30.0  # seconds after which nothing is waited for any more that should come within a few looks
exit_callbacks: list[Callable[[PeerFailedError], None]] = []  # called before the watch ends this process
_watch: Watch | None = None


def watch_over(store: dist.Store, rank: int, size: int) -> Watch:
    """Begin to watch over the processes that have met at a store."""
    global _watch
    _watch = Watch(store, rank, size)
    return _watch


def running_watch() -> Watch | None:
    """The watch of this process; None if it has none, or only that of the process of which it is a fork."""
    return _watch if _watch is not None and _watch.process == os.getpid() else None


def end_watch() -> None:
    """Tell the other ranks that this process takes part in no further run."""
    global _watch
    watch, _watch = _watch, None
    if watch is not None and watch.process == os.getpid():  # in a fork of its process the thread is missing
        watch.leave()


class Run:
    """What one process knows of one run.

    Args:
        number: Its number among the runs of this process.

    Attributes:
        name: The prefix of the run's keys in the store.
        batches: Training batches that this rank has begun.
        boundaries: Step boundaries that this rank has reached: places between two batches where a run may end.
        collectives: Collectives of all ranks that this rank has entered.
        history: The last of these.
        inside: The collective in which this rank waits for others, or None.
        failure: The first failure of the run, on any rank.
        first_end: The rank whose part of the run ended first, and after how many batches.
        looks_after_end: How many looks of the thread have found more batches here than that rank had.
        own_stop: The number of the step boundary at which this rank could end, once a rank was asked to end.
        stop: The number of the step boundary at which all ranks end, once they have agreed on one.
        is_failing: Whether an error, of this rank or of another, is being raised here.
        has_ended: Whether this rank's part of the run ended without an error.
        has_read: Whether this rank has told rank 0 that it needs nothing more from the store.
        over: Set once this rank waits for no other rank any more.
    """

    def __init__(self, number: int) -> None:
        self.number, self.name = number, f"run/{number}"
        self.batches = self.boundaries = self.collectives = 0
        self.history: deque[Collective] = deque(maxlen=REMEMBERED)
        self.inside: Collective | None = None
        self.failure: Failure | None = None
        self.first_end: tuple[int, int] | None = None
        self.looks_after_end = 0
        self.own_stop: int | None = None
        self.stop: int | None = None
        self.is_failing = self.has_ended = self.has_read = False
        self.over = threading.Event()
        self.lock = threading.Lock()

    @property
    def has_stopped(self) -> bool:
        """Whether this rank has reached the step boundary at which all end."""
        return self.stop is not None and self.boundaries >= self.stop


class Watch:
    """One process's part of the watch.

    Args:
        store: Where the ranks have met.
        rank: This rank.
        size: Ranks in all.

    Attributes:
        process: The process whose watch it is.
        met: The store.
    """

    def __init__(self, store: dist.Store, rank: int, size: int) -> None:
        self.rank, self.size, self.process = rank, size, os.getpid()
        met: Any = store  # its declared type lacks some of its methods
        self.met = store
        store, own = (dist.PrefixStore("watch", each) for each in (met, met.clone()))
        own.set_timeout(timedelta(seconds=GRACE))
        self._store, self._own = WatchStore(store, self._is_held), WatchStore(own, self._is_held)  # _own: the thread's
        self._peers: dict[int, int] = {}
        self._machine = f"machine/{machine()}"
        self._trail, self._trails = Trail(), dict[int, TrailOfPeer]()
        cast(Any, store).append(self._machine, f"{rank} {os.getpid()} {self._trail.file} ")
        store.add("processes", 1)
        self._standstill = StandstillDetector(self._own, rank, size)
        self._loop, self._looks = LoopThread(), 0
        self._run = Run(0)
        self._run.over.set()  # no run has begun yet
        patience = time.monotonic() + GRACE  # after that time the thread goes on searching
        while not self._has_found_peers(self._store) and time.monotonic() < patience:
            time.sleep(0.001)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="leyden-watch", daemon=True)
        self._thread.start()

    def _is_held(self) -> bool:
        """Whether the process that holds the store is alive, as far as this process can tell.

        Rank 0 holds the store, or the launcher does.
        """
        holder = self._peers.get(0) if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" else None
        return holder is None or is_alive(holder)

    # -- from the main thread -----------------------------------------------------------------------------

    def begin(self) -> dist.Store:
        """Begin a run; returns a part of the store for this run only.

        Raises:
            PeerFailedError: Another rank has ended its program.
        """
        self._loop, self._run = LoopThread(), Run(self._run.number + 1)
        try:
            gone = self._gone(self._store)
        except dist.DistError as error:
            raise PeerFailedError("The process that holds the store is gone, and with it the other ranks.") from error
        if gone:
            raise PeerFailedError(
                f"This rank begins another run, but rank {', '.join(map(str, gone))} has ended its program: all ranks "
                "must make the same runs."
            )
        return dist.PrefixStore(f"watch/{self._run.name}", self.met)

    @property
    def is_failing(self) -> bool:
        """Whether the run is failing on this rank, which then waits for no other."""
        return self._run.is_failing

    def begin_batch(self) -> None:
        """Count a training batch that begins.

        Raises:
            PeerFailedError: Another rank has failed.
        """
        run = self._run
        run.batches += 1
        if run.failure is not None:
            raise run.failure.as_error(self.rank)

    def enter(self, what: str, tensor: Tensor | None = None) -> Collective | None:
        """Note that this rank is about to wait for all others; returns the collective in which it waits already.

        Args:
            what: The name of what it waits in.
            tensor: The tensor that is exchanged, if it must have the same type and size on all ranks.

        Raises:
            PeerFailedError: A rank, perhaps this one, has failed, so the others would not come.
        """
        self.refuse_after_failure()
        return self._come_to(what, None if tensor is None else (tensor.dtype, tensor.shape))

    def _come_to(self, what: str, tensor: Any = None, batches: int | None = None) -> Collective | None:
        run = self._run
        run.collectives += 1
        code, line = user_code(sys._getframe(1))
        own = Collective(run.collectives, what, _operations(), tensor, code, line, batches)
        run.history.append(own)
        self._trail.write(run.number, own)
        outer, run.inside = run.inside, own
        return outer

    def leave_collective(self, outer: Collective | None = None) -> None:
        """Note that this rank waits no longer, or that it waits in ``outer`` again, which :meth:`enter` returned."""
        self._run.inside = outer

    @contextmanager
    def waiting_in(self, what: str, tensor: Tensor | None = None) -> Generator[None, None, None]:
        """A block in which this rank waits for all others; see :meth:`enter`."""
        outer = self.enter(what, tensor)
        try:
            yield
        finally:
            self.leave_collective(outer)

    def refuse_after_failure(self) -> None:
        """Raise if a rank has failed in this run.

        Raises:
            PeerFailedError: A rank, perhaps this one, has failed.
        """
        if self._run.failure is not None:
            raise self._run.failure.as_error(self.rank)

    def first_cause(self, error: BaseException) -> BaseException:
        """Tell the others of an error of this rank.

        Returns:
            The failure of another rank if that led to ``error``, else ``error``.
        """
        run = self._run
        run.inside = None
        if isinstance(error, SIGTERMException):  # all ranks have agreed to end
            return error
        run.is_failing = True
        if is_of_connection(error):
            self._wait_for_failure(run)
        if run.failure is None and not isinstance(error, PeerFailedError):
            self._publish(run, self._store, Failure.of(self.rank, error))
        failure = run.failure
        if failure is None or failure.rank == self.rank or isinstance(error, (PeerFailedError, KeyboardInterrupt)):
            return error
        return error if summary_of(error) == failure.summary else failure.as_error(self.rank)

    def ends_here(self, reason: str) -> str:
        """Whether the run ends at this step boundary because a rank was asked to end; the reason, or "".

        Each rank writes down the next boundary at which it could end. All end at the last one of these.

        Args:
            reason: Why this rank should end, or "".
        """
        run = self._run
        with run.lock:
            run.boundaries += 1
            if reason and run.own_stop is None:
                self._store.compare_set(f"{run.name}/asked", "", reason)
                self._publish_stop(run, self._store, run.boundaries)
        if run.own_stop is None or run.boundaries < run.own_stop:
            return ""
        if run.stop is None:
            self._wait_until(run, lambda: self._store.add(f"{run.name}/stops", 0) >= self.size)
            self.refuse_after_failure()
            stops = self._store.multi_get([f"{run.name}/stop/{rank}" for rank in range(self.size)])
            run.stop = max(map(int, stops))
        if not run.has_stopped:
            return ""
        return self._store.get(f"{run.name}/asked").decode()

    def end(self, asked: Callable[[], str] = lambda: "") -> None:
        """End this rank's part of the run, and wait for the others if no rank has failed.

        Args:
            asked: Returns why this rank was asked to end, or "".

        Raises:
            PeerFailedError: A rank failed, and this one has no error of its own.
            SIGTERMException: A rank got SIGTERM when no step boundary was left at which all could end.
        """
        run = self._run
        if run.over.is_set():
            return
        reason = ""
        if run.failure is None:
            with suppress(dist.DistError):
                reason = self._end_with_others(run, asked)
        run.inside = None
        run.over.set()
        self._let_others_read(run)
        if run.failure is not None and not run.is_failing:
            raise run.failure.as_error(self.rank)
        if reason == SIGTERM:
            raise SIGTERMException

    def _end_with_others(self, run: Run, asked: Callable[[], str]) -> str:
        """Wait until all have ended the run; returns why a rank was asked to end since the last boundary, or ""."""

        def have_all_ended() -> bool:
            if reason := asked():
                self._store.compare_set(f"{run.name}/asked", "", reason)
            return self._have_all_ended(run, self._store)

        self._come_to("the end of its run", batches=run.batches)
        run.has_ended = True
        self._store.compare_set(f"{run.name}/end", "", json.dumps([self.rank, run.batches]))
        have_all_ended()  # before this rank counts as one that has ended, others learn why it was asked to end
        self._store.add(f"{run.name}/ended", 1)
        self._store.add(f"{run.name}/news", 1)
        self._wait_until(run, have_all_ended)
        if run.failure is not None or run.has_stopped:
            return ""
        seen = self._store.get(f"{run.name}/asked").decode() if self._store.check([f"{run.name}/asked"]) else ""
        # The first to come here decides for all: a signal of after that comes after the run.
        return self._store.compare_set(f"{run.name}/verdict", "", seen or "none").decode().replace("none", "")

    def leave(self) -> None:
        """Take part in no further run; if this process ends within a run, let the others read why."""
        run = self._run
        was_over = run.over.is_set()
        with suppress(dist.DistError):
            if not was_over and run.failure is None:  # an error is ending this program that first_cause was not told
                sentence = f"Rank {self.rank} left within a run."
                self._publish(run, self._store, Failure.without_traceback(self.rank, sentence))
            if run.failure is None:  # after a failure the others know, and the store may be gone with rank 0
                self._store.set(f"gone/{self.rank}", "")
                self._store.add("gone", 1)
        if not was_over:
            self._let_others_read(run)
        run.over.set()
        self._stop.set()
        self._thread.join(GRACE)

    def _let_others_read(self, run: Run) -> None:
        """Have rank 0, whose process may hold the store, wait until the others need nothing more from the store."""
        if self.rank != 0:
            self._say_read(run, self._store)
            return
        sees_all = len(self._peers) == self.size  # of a rank on another machine it is not known whether it is alive
        patience = time.monotonic() + ((GRACE if run.failure is None else _ENOUGH) if sees_all else 3 * INTERVAL)
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

    def _say_read(self, run: Run, store: WatchStore) -> None:
        with run.lock, suppress(dist.DistError):
            if not run.has_read:
                run.has_read = True
                store.set(f"{run.name}/read/{self.rank}", "")
                store.add(f"{run.name}/read", 1)

    def _wait_until(self, run: Run, is_so: Callable[[], bool]) -> None:
        """Wait until ``is_so`` returns True or the run fails; the pauses grow, because every rank asks the store."""
        pause = 0.001
        while run.failure is None and not is_so():
            time.sleep(pause)
            pause = min(2 * pause, INTERVAL / 2)

    def _wait_for_failure(self, run: Run) -> None:
        """Give the thread some looks to find who is gone: a broken connection is seldom the first cause."""
        looks, patience = self._looks + STUCK, time.monotonic() + _ENOUGH
        while run.failure is None and self._looks < looks and time.monotonic() < patience and self._thread.is_alive():
            time.sleep(INTERVAL / 10)

    # -- the thread ---------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._stop.wait(INTERVAL):
            run = self._run
            had_failed = run.failure is not None
            self._standstill.look(self._position(run), self._loop.waits())
            try:
                self._look(run, self._own)
            except Exception as error:
                if self._stop.is_set():
                    return
                self._handle_lost_store(run, error)
            self._looks += 1
            if run.failure is not None and not had_failed:
                self._ensure_end(run)
            elif run.failure is not None and self._standstill.is_stuck:
                self._end_process(run)

    def _look(self, run: Run, store: WatchStore) -> None:
        if run.failure is None and store.add(f"{run.name}/news", 0):
            self._read_news(run, store)
        if run.failure is None and not run.has_ended and run.first_end is not None:
            self._compare_end(run, store, *run.first_end)
        if run.failure is None:
            self._look_at_processes(run, store)
        if run.failure is None and (found := self._standstill.compare(run.history)):
            ended, sentence = found
            self._publish(run, store, Failure.without_traceback(ALL if ended is None else ended, sentence))

    def _position(self, run: Run) -> Position | None:
        """Where this rank waits for all others; None if it does not, as far as is known."""
        inside, operations = run.inside, _operations()
        if inside is not None:
            return Position(
                run.number, inside.number, inside.kind, inside.name, inside.place, inside.batches, run.batches,
                inside.operations, operations,
            )  # fmt: skip
        direct = self._loop.collective()
        if direct is None:
            return None
        name, place = direct
        return Position(run.number, run.collectives, name, name, place, None, run.batches, operations - 1, operations)

    def _read_news(self, run: Run, store: WatchStore) -> None:
        if store.check([f"{run.name}/failure"]):
            run.failure = Failure.from_json(store.get(f"{run.name}/failure"))
            return
        if run.own_stop is None and store.check([f"{run.name}/asked"]):
            with run.lock:
                if run.own_stop is None:
                    self._publish_stop(run, store, run.boundaries + 1)
        if run.first_end is None and store.check([f"{run.name}/end"]):
            rank, batches = json.loads(store.get(f"{run.name}/end"))
            run.first_end = rank, batches

    def _compare_end(self, run: Run, store: WatchStore, rank: int, batches: int) -> None:
        """Publish a failure if this rank has gone on to further batches for some looks after a rank ended its run.

        With backends that wait on the device this rank may stand in no collective, so it is not found to be stuck.

        Args:
            run: The run.
            store: Where to publish it.
            rank: The rank that ended its run first; it enters no further collective.
            batches: How many batches that rank has trained on.
        """
        run.looks_after_end += run.batches > batches
        if rank == self.rank or run.looks_after_end < 2 * STUCK:
            return
        sentence = (
            f"Rank {rank} ended its run after {batches} training batches, and rank {self.rank} went on to batch "
            f"{run.batches}: all ranks must end together (trainer.strategy.reduce_boolean_decision helps to decide "
            "alike)."
        )
        self._publish(run, store, Failure.without_traceback(rank, sentence))

    def _look_at_processes(self, run: Run, store: WatchStore) -> None:
        """Look for a rank of this machine that has died, and for one of any machine that has ended its program."""
        self._has_found_peers(store)
        dead = next((rank for rank, pid in self._peers.items() if not is_alive(pid)), None)
        gone = next(iter(self._gone(store)), None)
        if (dead is None and gone is None) or (run.has_ended and self._have_all_ended(run, store)):
            return
        if run.over.is_set() and not self._standstill.is_stuck:
            return
        if gone is not None:
            sentence = f"Rank {gone} has ended its program, and rank {self.rank} is still in a run."
            self._publish(run, store, Failure.without_traceback(gone, sentence))
        elif dead is not None:
            sentence = self._describe_death(run, dead)
            self._publish(run, store, Failure.without_traceback(dead, sentence))

    def _describe_death(self, run: Run, rank: int) -> str:
        """A sentence about a rank of this machine that has died, and whether it had come to another collective."""
        own = {collective.number: collective.entry for collective in list(run.history)}
        parting = parting_of({self.rank: own, rank: self._trails[rank].read(run.number)})
        return describe_death(rank, self._peers[rank], "" if parting is None else str(parting))

    def _has_found_peers(self, store: WatchStore) -> bool:
        """Learn the process ids of the ranks of this machine, once all ranks have written theirs to the store."""
        if not self._peers and store.add("processes", 0) >= self.size:
            words = store.get(self._machine).decode().split()
            peers = list(zip(*[map(int, words)] * 3, strict=True))
            self._trails = {rank: TrailOfPeer(process, file) for rank, process, file in peers}
            self._peers = {rank: process for rank, process, _ in peers}
        return bool(self._peers)

    def _gone(self, store: WatchStore) -> list[int]:
        """The ranks that have ended their program."""
        if not store.add("gone", 0):
            return []
        return [rank for rank in range(self.size) if store.check([f"gone/{rank}"])]

    def _have_all_ended(self, run: Run, store: WatchStore) -> bool:
        return store.add(f"{run.name}/ended", 0) >= self.size

    def _publish_stop(self, run: Run, store: WatchStore, boundary: int) -> None:
        """Write down at which step boundary this rank could end; it has not passed that one yet."""
        run.own_stop = boundary
        store.set(f"{run.name}/stop/{self.rank}", str(boundary))
        store.add(f"{run.name}/stops", 1)
        store.add(f"{run.name}/news", 1)

    def _publish(self, run: Run, store: WatchStore, failure: Failure) -> None:
        """Tell all ranks of a failure, unless they have been told of one: the first counts."""
        try:
            run.failure = Failure.from_json(store.compare_set(f"{run.name}/failure", "", failure.to_json()))
            store.add(f"{run.name}/news", 1)
        except dist.DistError:  # the store is gone as well
            run.failure = run.failure or failure

    def _handle_lost_store(self, run: Run, error: Exception) -> None:
        """Take it for a failure that the store can't be reached, unless the run is over.

        The process that holds the store is gone then, which is normal after a run.
        """
        if run.failure is not None or (run.over.is_set() and not run.inside):
            return
        sentence = f"The store can't be reached, so rank 0, or the launcher that holds it, is gone ({error})."
        run.failure = Failure.without_traceback(0, sentence if self._is_held() else self._describe_death(run, 0))

    def _ensure_end(self, run: Run) -> None:
        """Wait until this rank has ended its run because of a failure; if it is stuck, end its process."""
        self._say_read(run, self._own)
        if run.over.is_set() or run.failure is None:
            return
        # At a standstill the other processes end at once: their broken connections then free rank 0, which says why.
        waits = run.inside is not None and run.inside.batches is None
        at_once = run.failure.rank == ALL and self.rank != 0 and waits
        if not at_once and run.over.wait(GRACE):
            return
        if run.is_failing and run.inside is None and (run.failure.rank == self.rank or run.over.wait(GRACE)):
            return  # the error is being raised here, and the user's hooks for it may take their time
        if run.failure.rank != self.rank or run.inside:
            self._end_process(run)

    def _end_process(self, run: Run) -> None:
        assert run.failure is not None
        error = run.failure.as_error(self.rank)
        if self.rank == 0:  # as the interpreter would print it
            where = f" within {run.inside.name}" if run.inside is not None else ""
            print(f"Rank 0 ends{where}.\n{summary_of(error)}", file=sys.stderr, flush=True)
        else:
            print(error.brief, file=sys.stderr, flush=True)
        for callback in exit_callbacks:
            callback(error)
        for child in multiprocessing.active_children():  # workers of loaders, which would notice only seconds later
            child.kill()
        os._exit(1)


def _operations() -> int:
    """How many operations this process has begun in the default process group; 0 before there is one."""
    group: Any = dist.group.WORLD
    try:
        return int(group._get_sequence_number_for_group()) if group is not None else 0
    except RuntimeError:  # of a backend that does not count
        return 0

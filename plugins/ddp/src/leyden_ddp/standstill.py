"""Finding a standstill: every rank waits for the others, but not all in the same collective.

Each rank remembers its last collectives. Two ranks that wait in different ones can never go on if the one came to
another collective than the other before, or if both are at the same operation of the process group. Otherwise one of
them may have left a collective whose last data are still on their way to the other, and that is no standstill.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from types import CodeType
from typing import NamedTuple

import torch

from leyden_ddp.store import WatchStore
from leyden_ddp.tracing import describe

STUCK = 4  # looks in a row that find a rank at the same place, after which it counts as stuck
LASTING = 12  # looks after which it counts as stuck for good
REMEMBERED = 64  # collectives that a rank remembers
Entry = tuple[str, str, str]  # of a collective: its kind, its name, and the line of the user's code


class Collective(NamedTuple):
    """A collective of all ranks that a rank has come to.

    Args:
        number: Its number among those of this rank in this run, from 1.
        what: Its name.
        operations: How many operations of the process group this rank had begun before.
        tensor: The type and the shape of the tensor that it exchanges, which must be the same on all ranks.
        code: The user's code that led to it.
        line: The line of that code.
        batches: Where this rank ends its run, the training batches of the run; else None.
    """

    number: int
    what: str
    operations: int = 0
    tensor: tuple[torch.dtype, torch.Size] | None = None
    code: CodeType | None = None
    line: int = 0
    batches: int | None = None

    @property
    def kind(self) -> str:
        """What must be the same on all ranks: the name, and the type and number of the elements."""
        name = "barrier" if self.what.startswith("barrier(") else self.what
        return name if self.tensor is None else f"{name} {self.tensor[0]} {self.tensor[1].numel()}"

    @property
    def name(self) -> str:
        """The name, with type and sizes."""
        if self.tensor is None:
            return self.what
        return f"{self.what} of {str(self.tensor[0]).removeprefix('torch.')}{list(self.tensor[1])}"

    @property
    def place(self) -> str:
        """The line of the user's code."""
        return describe(self.code, self.line)

    @property
    def entry(self) -> Entry:
        """What other ranks must know of it."""
        return self.kind, self.name, self.place


class Position(NamedTuple):
    """Where a rank waits, as plain data for the store.

    Args:
        run: The number of the run.
        number: How many collectives of all ranks this rank has come to in the run.
        kind: See :class:`Collective`.
        name: The name of the collective.
        place: The line of the user's code.
        batches: See :class:`Collective`.
        begun: The number of training batches that this rank has begun.
        first: How many operations of the process group this rank had begun when it came here.
        last: How many it has begun by now.
    """

    run: int
    number: int
    kind: str
    name: str
    place: str
    batches: int | None
    begun: int
    first: int
    last: int

    def excludes(self, other: Position) -> bool:
        """Whether two ranks stand in different collectives, but at the same operation of the process group."""
        differ = (self.run, self.kind) != (other.run, other.kind)
        return differ and max(self.first, other.first) < min(max(p.first + 1, p.last) for p in (self, other))


class Parting(NamedTuple):
    """Where two ranks came to different collectives.

    Args:
        one: A rank.
        other: A rank that came to another one.
        here: The name and the place of that of ``one``.
        there: The name and the place of that of ``other``.
        earlier: Whether they may have parted earlier, at a collective that not both remember.
    """

    one: int
    other: int
    here: str
    there: str
    earlier: bool

    def __str__(self) -> str:
        latest = " at the latest" if self.earlier else ""
        return (
            f"They parted{latest} where rank {self.one} came to {self.here}, and rank {self.other} to {self.there}. "
            "LEYDEN_DEBUG_COLLECTIVES=1 ends such a run there, before data get mixed up."
        )


def parting_of(histories: Mapping[int, Mapping[int, Entry]]) -> Parting | None:
    """The first collective at which a rank was not where the first one was, of those that all remember.

    Args:
        histories: Of each rank, the collectives by their numbers.
    """
    first, *others = histories
    common = sorted(set.intersection(*map(set, histories.values())))
    for number in common:
        for rank in others:
            (kind, *here), (other, *there) = histories[first][number], histories[rank][number]
            if kind != other:
                return Parting(first, rank, " ".join(here), " ".join(there), common[0] == number > 1)
    return None


class StandstillDetector:
    """Finds out whether this rank is stuck, and on rank 0 whether all ranks are.

    The thread of :mod:`leyden_ddp.watch` looks regularly. At each look, a rank that stands writes to the store where,
    and for how many looks. Rank 0 compares these notes. It waits until every note has changed once, because a rank
    that writes nothing new may have gone on and be too busy to say so.

    Args:
        store: Where ranks write their notes.
        rank: This rank.
        size: Ranks in all.
    """

    def __init__(self, store: WatchStore, rank: int, size: int) -> None:
        self._store, self._rank, self._size = store, rank, size
        self._position: Position | None = None
        self._looks = self._rests = 0
        self._is_counted = False
        self._before: list[tuple[Position, int]] | None = None

    def look(self, position: Position | None, waits: bool) -> None:
        """Take down one look.

        Args:
            position: Where this rank waits; None if it does not.
            waits: Whether its thread has computed nothing since the look before.
        """
        is_there = position is not None and position == self._position
        self._looks = self._looks + 1 if is_there else 0
        self._rests = self._rests + 1 if is_there and waits else 0
        self._position = position

    @property
    def is_stuck(self) -> bool:
        """Whether the last looks all found this rank in the same collective, and computing nothing."""
        return self._rests >= STUCK

    def compare(self, history: Iterable[Collective]) -> tuple[int | None, str] | None:
        """Write down where this rank stands.

        Args:
            history: The last collectives of this rank in this run, read only while it stands.

        Returns:
            On rank 0, if all ranks are at a standstill, the rank that ended its run, or None, and a sentence.
        """
        stands = self._looks >= STUCK
        if stands != self._is_counted:
            if stands:
                kept = {
                    collective.number: (collective.kind, collective.name, collective.place) for collective in history
                }
                self._store.set(f"history/{self._rank}", json.dumps(kept))
            self._store.add("stuck", 1 if stands else -1)
            self._is_counted = stands
        if not stands:
            self._before = None
            return None
        self._store.set(f"stuck/{self._rank}", json.dumps([self._position, self._looks, self._rests]))
        if self._rank != 0 or self._store.add("stuck", 0) < self._size:
            self._before = None
            return None
        return self._judge()

    def _judge(self) -> tuple[int | None, str] | None:
        notes = [json.loads(text) for text in self._store.multi_get([f"stuck/{rank}" for rank in range(self._size)])]
        now = [(Position(*position), looks) for position, looks, _ in notes]
        if self._before is None or [position for position, _ in self._before] != [position for position, _ in now]:
            self._before = now
        if not all(looks > then for (_, looks), (_, then) in zip(now, self._before, strict=True)):
            return None
        positions = [position for position, _ in now]
        first, lasts = positions[0], min(rests for _, _, rests in notes) >= LASTING
        agree = all(position[:3] == first[:3] for position in positions)
        if agree and not lasts:
            return None
        parting = self._parting(positions)
        if parting is not None and (lasts or not agree):
            return _describe(positions, parting.other, parting)
        other = next((rank for rank, position in enumerate(positions) if first.excludes(position)), None)
        return _describe(positions, other, None) if lasts and other is not None else None

    def _parting(self, positions: Sequence[Position]) -> Parting | None:
        """The first collective at which a rank was not where rank 0 was, of those that all remember."""
        if len({position.run for position in positions}) > 1:
            return None
        said = self._store.multi_get([f"history/{rank}" for rank in range(self._size)])
        return parting_of({rank: {int(number): entry for number, entry in json.loads(text).items()}
                           for rank, text in enumerate(said)})  # fmt: skip


def _describe(positions: Sequence[Position], other: int, parting: Parting | None) -> tuple[int | None, str]:
    """The rank that ended its run, if one did, and a sentence about the standstill of rank 0 and another."""
    pair = [0, other] if positions[other] != positions[0] else [0, _another(positions)]
    (one, here), (two, there) = ((rank, positions[rank]) for rank in pair)
    if here.batches is not None:
        one, here, two, there = two, there, one, here
    if there.batches is not None:
        ended: int | None = two
        went = f"went on to batch {here.begun}, where it " if here.begun > there.batches else ""
        text = (
            f"Rank {two} ended its run after {there.batches} training batches, and rank {one} {went}waits for it in "
            f"{here.name}: all ranks must end together, and all enter a collective "
            "(trainer.strategy.reduce_boolean_decision helps to decide alike)."
        )
    else:
        ended = None
        text = (
            f"Rank {one} waits for the others in {here.name}, and rank {two} in {there.name}: all ranks must come to "
            "the same collectives in the same order."
        )
    if parting is None:
        return ended, f"{text} Rank {one} is {here.place}, and rank {two} {there.place}."
    return ended, f"{text} {parting}"


def _another(positions: Sequence[Position]) -> int:
    """A rank that stands elsewhere than rank 0 if there is one; else rank 1."""
    return next((rank for rank, position in enumerate(positions) if position[:4] != positions[0][:4]), 1)

"""Whether sums fix hidden cells, where very many of these hang together: a proof by a witness.

Of a lattice, cells that no sum splits are *ends*; all other cells are sums of ends. A *witness* is
a change of the ends that keeps every sum, and leaves each shown cell as it is. What it moves, the
shown cells do not fix. A witness from random numbers moves all that can be moved, but for a set
of numbers of measure zero.

Where a witness of all shown cells cannot be found, because too much hangs together, some of them
are given up: what the witness then moves of the shown cells must be hidden, too. So what is hidden
in the end is proven not to be fixed by what is shown. Whether the witness keeps every sum and
every shown cell is checked once it is there; how it was found does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from catchment.studies.elimination import Floats, Rows, System
from catchment.studies.lattice import Flags, Indices, Ints, Lattice, joined

_STEP = 1 << 19  # relations that are looked at at once
_KEPT = 1e-6  # what is off by less, times the largest change, is as it was
_MOVED = 1e-4  # a cell that changes by less does not move


class Witness:
    """What can be said of any choice of shown cells of a lattice."""

    def __init__(self, lattice: Lattice) -> None:
        self._lattice = lattice
        self._depth = np.count_nonzero(lattice.codes, axis=1).astype(np.int8)
        # One sum for each cell: what it is split into.
        self._split = np.full(len(lattice.counts), -1, np.int32)
        for column in reversed(range(lattice.codes.shape[1])):
            own = lattice.relation[:, column]
            some = (lattice.codes[:, column] == 0) & (own >= 0)
            some[some] = lattice.rest[own[some]] == 0
            self._split[some] = own[some]
        self._moves: Floats | None = None

    def give_way(self, unknown: Flags) -> tuple[Ints, Ints]:
        """Shown cells that must be hidden, and hidden cells that the others then still fix.

        Where nothing can be proven, it is all shown cells.
        """
        shown, hidden = np.flatnonzero(~unknown), np.flatnonzero(unknown)
        if not len(shown):  # all may be larger by the same factor
            return shown, shown
        moves = self._moves
        if moves is None or not self._keeps(moves, shown) or not self._moved(moves[hidden]).all():
            moves = self._moves = self._found(unknown)
        if moves is None:
            return shown, shown[:0]
        return shown[self._moved(moves[shown], _KEPT)], hidden[~self._moved(moves[hidden])]

    @staticmethod
    def _moved(moves: Floats, by: float = _MOVED) -> Flags:
        return np.asarray(np.abs(moves) > by)

    def _keeps(self, moves: Floats, shown: Ints) -> bool:
        return not self._moved(moves[shown], _KEPT).any()

    def _found(self, unknown: Flags) -> Floats | None:
        """How a witness moves each cell; None where there is none that keeps every sum."""
        lattice = self._lattice
        number, system = self._sums
        width = system.unknowns
        still = np.unique(number[~unknown & (self._split < 0)]).astype(np.int64)
        needed = self._needed(unknown)
        system = system.with_rows(
            Rows(np.arange(len(still)), still, np.ones(len(still))), len(still)
        )
        rows, ends = self._ends(needed.astype(np.int32))
        more = Rows.summed(rows, number[ends], np.ones(len(rows)), width)
        system = system.with_rows(more, len(needed))
        # What is rolled up over more columns, and large, is given up last.
        price = 8.0 ** (lattice.codes.shape[1] - self._depth[needed]) * (1 + lattice.counts[needed])
        values = system.eliminated(price).solved(np.random.default_rng(7).normal(size=width))
        if values is None:
            return None
        moves = self._rolled(np.where(self._split < 0, values[number], 0.0))
        for _, parents, sums in self._relations(moves):
            if self._moved(sums - moves[parents], _KEPT).any():
                return None
        above, tied = self._tied
        return None if self._moved(moves[above] - moves[tied], _KEPT).any() else moves

    def _relations(
        self, values: npt.NDArray[Any]
    ) -> Iterator[tuple[Ints, Indices, npt.NDArray[Any]]]:
        """Relations that add up, some at a time: their numbers, parents and sums."""
        lattice = self._lattice
        for start in range(0, len(lattice.parents), _STEP):
            stop = min(start + _STEP, len(lattice.parents))
            first, last = lattice.starts[start], lattice.starts[stop]
            sums = np.add.reduceat(
                values[lattice.children[first:last]], lattice.starts[start:stop] - first
            )
            exact = np.flatnonzero(lattice.rest[start:stop] == 0)
            yield exact + start, lattice.parents[start:stop][exact], sums[exact]

    def _needed(self, unknown: Flags) -> Ints:
        """Shown cells, split into others, that no sum of shown cells implies."""
        needed = ~unknown & (self._split >= 0)
        for _, parents, hidden in self._relations(unknown.astype(np.int32)):
            needed[parents[hidden == 0]] = False
        return np.flatnonzero(needed)

    @cached_property
    def _sums(self) -> tuple[Ints, System]:
        """The number of each end, and what is needed to keep every sum; what moves alike has one.

        Of a cell there may be several sums, which lead to different ends.
        """
        lattice = self._lattice
        width = len(lattice.counts)
        same = np.arange(width, dtype=np.int32)
        random = np.random.default_rng(0).integers(0, 2**63, width, np.int64)
        depths = self._depth[lattice.parents]
        rows: list[Rows] = []
        for depth in range(lattice.codes.shape[1], -1, -1):
            while True:
                values = self._rolled(np.where(self._split < 0, random[same], 0))
                differ = [
                    which[(sums != values[parents]) & (depths[which] == depth)]
                    for which, parents, sums in self._relations(values)
                ]
                found = self._difference(np.concatenate(differ or [np.zeros(0, np.int64)]), same)
                first = np.flatnonzero(np.diff(found.rows, prepend=-1))
                pairs = first[np.diff(first, append=len(found.rows)) == 2]
                pairs = pairs[found.factors[pairs] == -found.factors[pairs + 1]]
                if not len(pairs):
                    break
                same = joined(same, found.columns[pairs], found.columns[pairs + 1])
            rows.append(found)
        every = self._split < 0
        own, places = np.unique(same[every], return_inverse=True)
        number = np.zeros(width, np.int64)
        number[every] = places
        system = System.of(len(own))
        for more in [*rows, self._ties()]:
            columns = number[same[more.columns]]
            again = Rows.summed(more.rows, columns, more.factors, len(own))
            system = system.with_rows(again, int(more.rows.max(initial=-1)) + 1)
        return number, system.eliminated()

    def _difference(self, relations: Ints, same: Indices) -> Rows:
        """What must be 0 for these sums to be their parents, in ends."""
        lattice = self._lattice
        width = len(lattice.counts)
        parts = []
        # A deep relation leads to few ends, one of all to all of them.
        length = np.cumsum(self._many[lattice.parents[relations]])
        cuts = np.searchsorted(length, np.arange(_STEP, length[-1:].sum(), _STEP))
        start = 0
        for some in np.split(relations, cuts):
            owner, children = lattice.members(some)
            below, ends = self._ends(children)
            other, more = self._ends(lattice.parents[some])
            parts.append(
                Rows.summed(
                    start + np.concatenate([owner[below].astype(np.int64), other]),
                    same[np.concatenate([ends, more])].astype(np.int64),
                    np.concatenate([np.ones(len(ends)), np.full(len(more), -1.0)]),
                    width,
                )
            )
            start += len(some)
        every = System.of(width).left
        for part in parts:
            every = every.with_(part)
        return every

    @cached_property
    def _many(self) -> Ints:
        """Of how many ends each cell is the sum."""
        return self._rolled(np.ones(len(self._lattice.counts), np.int64))

    @cached_property
    def _tied(self) -> tuple[Indices, Indices]:
        """Where sums do not add up: parents, and parts that are as large, taken for equal."""
        lattice = self._lattice
        loose = np.flatnonzero(lattice.rest < 0)
        owner, children = lattice.members(loose)
        above = lattice.parents[loose][owner]
        tied = lattice.counts[children] == lattice.counts[above]
        return above[tied], children[tied]

    def _ties(self) -> Rows:
        """What must be 0 for these to be equal, in ends."""
        above, tied = self._tied
        below, ends = self._ends(tied)
        other, more = self._ends(above)
        return Rows.summed(
            np.concatenate([below, other]),
            np.concatenate([ends, more]).astype(np.int64),
            np.concatenate([np.ones(len(ends)), np.full(len(more), -1.0)]),
            len(self._lattice.counts),
        )

    def _ends(self, cells: Indices) -> tuple[Ints, Indices]:
        """The ends that cells are split into: of each its cell's place, and it."""
        rows = np.arange(len(cells))
        found: list[tuple[Ints, Indices]] = [(rows[:0], cells[:0])]
        while len(cells):
            further = self._split[cells] >= 0
            found.append((rows[~further], cells[~further]))
            owner, children = self._lattice.members(self._split[cells[further]])
            rows, cells = rows[further][owner], children
        one, two = (np.concatenate(part) for part in zip(*found, strict=True))
        return one, two

    def _rolled(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The values of all cells, from those of the ends."""
        lattice = self._lattice
        for depth in range(lattice.codes.shape[1] - 1, -1, -1):
            cells = np.flatnonzero((self._depth == depth) & (self._split >= 0))
            for start in range(0, len(cells), _STEP):
                some = cells[start : start + _STEP]
                owner, children = lattice.members(self._split[some])
                first = np.flatnonzero(np.diff(owner, prepend=-1))
                values[some] = np.add.reduceat(values[children], first)
        return values

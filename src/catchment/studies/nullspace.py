"""Which unknowns a system of subtractions leaves open: linear algebra on large sparse systems.

Each equation says that some unknowns, with signs, add up to something known. An unknown is
*determined* when the equations together fix it. A random solution of the homogeneous system is 0
exactly there, but for a set of random numbers of measure zero: so one solution tells of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from catchment.studies.memory import in_one

type Ints = npt.NDArray[np.int64]
type Places = npt.NDArray[np.int32]
type Floats = npt.NDArray[np.float64]
type Short = npt.NDArray[np.float32]
type Flags = npt.NDArray[np.bool_]

_ZERO = 1e-6  # below it, an unknown does not move; what is open moves much more
_LARGE = 600  # unknowns that hang together: up to so many, a decomposition tells exactly
# Beyond, so many steps come near a solution; what then moves less than this is taken for fixed.
_STEPS = 200
_LITTLE = 5e-4
_ENTRIES = 1 << 20  # of equations that are summed at once
_AT_ONCE = 1 << 18  # of them, in a step: what stays in a cache


@dataclass(frozen=True, slots=True)
class Equations:
    """Entries of the matrix, in order of equation: an equation, an unknown, its factor there."""

    rows: Places
    columns: Places
    signs: npt.NDArray[np.float32]

    @classmethod
    def summed(
        cls, rows: npt.NDArray[Any], columns: Places, signs: npt.NDArray[Any], unknowns: int
    ) -> Equations:
        """Of entries in any order, those of one place added up."""
        keys = rows.astype(np.int64) * max(unknowns, 1) + columns
        order = np.argsort(keys, kind="stable")
        rows, columns, signs = rows[order], columns[order], signs[order]
        first = np.flatnonzero(np.diff(keys[order], prepend=-1))
        sums = np.add.reduceat(signs, first) if len(first) else signs
        some = np.abs(sums) > _ZERO
        first = first[some]
        return cls(rows[first].astype(np.int32), columns[first], sums[some].astype(np.float32))

    @classmethod
    def of(
        cls,
        rows: list[Places],
        columns: list[Places],
        signs: list[npt.NDArray[np.float32]],
    ) -> Equations:
        """Of pieces, in order; they are taken out of their lists, for they take much memory."""
        return cls(in_one(rows, np.int32), in_one(columns, np.int32), in_one(signs, np.float32))

    @classmethod
    def together(cls, parts: Sequence[Equations]) -> Equations:
        """All of them, the rows of each after those of the one before."""
        none = np.zeros(0, np.int32)
        return cls(
            np.concatenate([none, *(one.rows for one in parts)]),
            np.concatenate([none, *(one.columns for one in parts)]),
            np.concatenate([np.zeros(0, np.float32), *(one.signs for one in parts)]),
        )

    def apart(self, most: int) -> Iterator[Equations]:
        """All of them, so many entries at a time; entries of one equation stay together."""
        start = 0
        while start < len(self.rows):
            stop = len(self.rows)
            if start + most < stop:
                stop = int(np.searchsorted(self.rows, self.rows[start + most]))
                if stop <= start:  # one long equation
                    stop = int(np.searchsorted(self.rows, self.rows[start], "right"))
            yield Equations(self.rows[start:stop], self.columns[start:stop], self.signs[start:stop])
            start = stop

    def at(self, chosen: Ints | Flags) -> Equations:
        """Only some of the entries."""
        return Equations(self.rows[chosen], self.columns[chosen], self.signs[chosen])


def determined(parts: list[Equations], counts: Ints) -> tuple[Flags, bool]:
    """Of each unknown, whether the equations fix it; and whether that is exact.

    They are taken out of their list, for they take much memory.

    Where few unknowns hang together, one also counts as fixed unless it can be seen to have room
    for another whole number while none of the others falls below 0.

    Where very many do, the answer is not exact: some that are not fixed are named too, and one that
    only very many equations together fix may be missed.
    """
    fixed = np.zeros(len(counts), bool)
    equations = parts.pop()
    small, large = _apart(equations, len(counts))
    del equations
    for part in small:
        names = np.unique(part.columns)
        fixed[names] = ~_has_room(_solutions(part), counts[names])
    exact = True
    if len(large.rows):
        names = np.unique(large.columns)
        parts.append(large)
        del small, large
        mine, exact = _move(parts, len(counts))
        fixed[names] = mine[names]
    return fixed, exact


def _has_room(basis: Floats, counts: Ints) -> Flags:
    """Of each unknown, whether a solution moves it by 1 and no count below 0."""
    # Row by row the nearest solution to moving this unknown alone: symmetric, so also its column.
    moves = basis.T @ basis
    own = np.diagonal(moves)
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.where(np.abs(moves) > _ZERO, counts / np.abs(moves), np.inf)
        up = np.where(moves < 0, steps, np.inf).min(axis=1) * own
        down = np.where(moves > 0, steps, np.inf).min(axis=1) * own
    room = np.fmax(up, down) >= 1 - _ZERO
    return np.asarray(room & (own > _ZERO))


def _move(parts: list[Equations], unknowns: int) -> tuple[Flags, bool]:
    """Of each unknown, whether it is 0 in a random solution; and whether that is exact."""
    values = np.random.default_rng(7).normal(size=unknowns)
    little = np.full(unknowns, _ZERO)
    core, steps = _reduce(parts, unknowns)
    small, large = _apart(core, unknowns)
    del core
    for part in small:
        names = np.unique(part.columns)
        basis = _solutions(part)
        values[names] = basis.T @ (basis @ values[names])
    exact = True
    if len(large.rows):
        names = np.unique(large.columns)
        systems = [large]
        del large
        values[names] = _approach(systems, values[names])
        little[names] = _LITTLE
        exact = False
    for step in reversed(steps):
        step.undo(values, little)
    return np.abs(values) < little, exact


@dataclass(frozen=True, slots=True)
class _Folded:
    """Equations that had an unknown of their own, the ``last``: it gives way."""

    equations: Equations
    last: Flags

    def undo(self, values: Floats, little: Floats) -> None:
        some = self.equations
        first = np.flatnonzero(np.diff(some.rows, prepend=-1))
        others = some.columns
        held = np.where(self.last, 0, some.signs * values[others])
        sums = np.add.reduceat(held, first)
        least = np.maximum.reduceat(np.where(self.last, 0, little[others]), first)
        mine = np.flatnonzero(self.last)
        values[others[mine]] = -sums / some.signs[mine]
        little[others[mine]] = np.maximum(least, _ZERO)


@dataclass(frozen=True, slots=True)
class _Replaced:
    """Unknowns that are a multiple of another one."""

    names: Places
    by: Places
    factors: Floats

    def undo(self, values: Floats, little: Floats) -> None:
        values[self.names] = self.factors * values[self.by]
        little[self.names] = little[self.by]


def _reduce(parts: list[Equations], unknowns: int) -> tuple[Equations, list[_Folded | _Replaced]]:
    """Exactly the same with fewer unknowns, and how to come back.

    An equation that has an unknown of its own says nothing of the others; one of two unknowns says
    that one is a multiple of the other; one of a single unknown, that it does not move.
    """
    steps: list[_Folded | _Replaced] = []
    equations = parts.pop()
    while len(equations.rows):
        rows, columns = equations.rows, equations.columns
        first = np.flatnonzero(np.diff(rows, prepend=-1))
        lengths = np.diff(first, append=len(rows))
        own = np.flatnonzero(np.bincount(columns, minlength=unknowns)[columns] == 1)
        if len(own):
            _, once = np.unique(rows[own], return_index=True)
            last = np.zeros(len(rows), bool)
            last[own[once]] = True
            going = np.repeat(np.logical_or.reduceat(last, first), lengths)
            steps.append(_Folded(equations.at(going), last[going]))
            equations = equations.at(~going)
            continue
        alone = np.unique(columns[first[lengths == 1]])
        pairs = first[lengths == 2]
        if len(alone):
            zero = np.zeros(len(alone))
            steps.append(_Replaced(alone, alone, zero))
            gone = np.zeros(unknowns, bool)
            gone[alone] = True
            equations = equations.at(~gone[columns])
        elif len(pairs):
            step, used = _pairs(equations, pairs, unknowns)
            steps.append(step)
            keep = np.ones(len(rows), bool)
            keep[used], keep[used + 1] = False, False
            equations = _replace(equations.at(keep), step, unknowns)
        else:
            break
    return equations, steps


def _pairs(equations: Equations, pairs: Ints, unknowns: int) -> tuple[_Replaced, Ints]:
    """Unknowns that equations of two replace, and which of the equations (their first entries)."""
    columns, signs = equations.columns, equations.signs
    greater = pairs + (columns[pairs + 1] > columns[pairs])
    other = 2 * pairs + 1 - greater
    names, once = np.unique(columns[greater], return_index=True)
    by = np.arange(unknowns, dtype=np.int32)
    factors = np.ones(unknowns)
    by[names] = columns[other[once]]
    factors[names] = -signs[other[once]].astype(float) / signs[greater[once]]
    while True:  # the one that replaces may be replaced
        further = by[by]
        if np.array_equal(further, by):
            return _Replaced(names, by[names], factors[names]), pairs[once]
        factors *= factors[by]
        by = further


def _replace(equations: Equations, step: _Replaced, unknowns: int) -> Equations:
    by = np.arange(unknowns, dtype=np.int32)
    by[step.names] = step.by
    factors = np.ones(unknowns)
    factors[step.names] = step.factors
    return Equations.together(
        [
            Equations.summed(
                part.rows, by[part.columns], part.signs * factors[part.columns], unknowns
            )
            for part in equations.apart(_ENTRIES)
        ]
    )


def _apart(equations: Equations, unknowns: int) -> tuple[list[Equations], Equations]:
    """Parts that have no unknown in common: the small ones, one by one, and all others as one."""
    rows, columns = equations.rows, equations.columns
    if not len(rows):
        return [], equations
    first = np.flatnonzero(np.diff(rows, prepend=-1))
    lengths = np.diff(first, append=len(rows))
    by = np.argsort(columns, kind="stable").astype(np.int32)
    of = columns[by]
    starts = np.flatnonzero(np.diff(of, prepend=-1))
    names = of[starts]
    label = np.arange(unknowns, dtype=np.int32)
    while True:
        least = np.repeat(np.minimum.reduceat(label[columns], first), lengths)
        least = np.minimum.reduceat(least[by], starts)
        if np.array_equal(least, label[names]):
            break
        label[names] = least
        label = label[label]
    size = np.bincount(label[names], minlength=unknowns)
    mine = label[columns]
    few = size[mine] <= _LARGE
    place = np.flatnonzero(few)
    place = place[np.argsort(mine[place], kind="stable")]
    ends = np.flatnonzero(np.diff(mine[place], prepend=-1))[1:]
    small = [equations.at(some) for some in np.split(place, ends)] if len(place) else []
    return small, equations.at(~few)


def _solutions(part: Equations) -> Floats:
    """An orthonormal basis of all solutions, a row each."""
    unknowns, columns = np.unique(part.columns, return_inverse=True)
    names, rows = np.unique(part.rows, return_inverse=True)
    matrix = np.zeros((len(names), len(unknowns)))
    matrix[rows, columns] = part.signs
    if len(names) > len(unknowns):
        matrix = np.linalg.qr(matrix, mode="r")
    _, sizes, basis = np.linalg.svd(matrix)
    rank = int((sizes > 1e-10 * sizes[0] * max(matrix.shape)).sum())
    return np.asarray(basis[rank:])


def _approach(parts: list[Equations], start: Floats) -> Floats:
    """The solution nearest to ``start``, nearly: conjugate gradients on the normal equations.

    The equations are taken out of their list, for they take much memory.
    """
    # Half as exact as others here, for half the memory: it comes near, not to the end.
    part = parts.pop()
    columns = np.unique(part.columns, return_inverse=True)[1].astype(np.int32)
    first = np.flatnonzero(np.diff(part.rows, prepend=-1))
    lengths = np.diff(first, append=len(part.rows))
    sizes = np.sqrt(np.repeat(lengths, lengths).astype(np.float32))
    weights = np.asarray(part.signs / sizes, np.float32)
    by = np.argsort(columns, kind="stable").astype(np.int32)
    starts = np.flatnonzero(np.diff(columns[by], prepend=-1))
    rows = np.repeat(np.arange(len(first), dtype=np.int32), lengths)[by]
    turned = weights[by]
    del by, part, lengths, sizes
    forth, back = _Sums(weights, columns, first), _Sums(turned, rows, starts)
    result = start.astype(np.float32)
    residual = forth(result)
    step = back(residual)
    direction = step.copy()
    size = float(step @ step)
    for _ in range(_STEPS):
        if not size or np.abs(residual).max() < _ZERO:
            break
        moved = forth(direction)
        amount = np.float32(size / float(moved @ moved))
        result -= amount * direction
        moved *= amount
        residual -= moved
        step = back(residual)
        size, before = float(step @ step), size
        direction *= np.float32(size / before)
        direction += step
    return result.astype(np.float64)


class _Sums:
    """Factors times values of these places, summed where each ``first`` begins; in pieces.

    What is in memory at once stays small: it costs more to ask for memory than to add up.
    """

    def __init__(self, factors: Short, places: Places, first: Ints) -> None:
        self._factors, self._places, self._first = factors, places, first
        cuts = np.searchsorted(first, np.arange(_AT_ONCE, len(factors), _AT_ONCE))
        self._cuts = np.unique(np.concatenate([[0], cuts, [len(first)]])).tolist()
        self._ends = [*first[self._cuts[:-1]].tolist(), len(factors)]

    def __call__(self, values: Short) -> Short:
        made = np.empty(len(self._first), np.float32)
        for (start, stop), (low, high) in zip(
            pairwise(self._cuts), pairwise(self._ends), strict=True
        ):
            each = values[self._places[low:high]]
            each *= self._factors[low:high]
            np.add.reduceat(each, self._first[start:stop] - low, out=made[start:stop])
        return made

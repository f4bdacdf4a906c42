"""Elimination in very large sparse systems of sums that are to be 0, as far as it stays sparse.

Unknowns that are in few equations, and equations of few unknowns, go first. Where that would make
the others much longer, the last equations are left to a dense solution; where these are too many,
some equations are given up: whoever asks is told which, and hides what they say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

type Ints = npt.NDArray[np.int64]
type Flags = npt.NDArray[np.bool_]
type Floats = npt.NDArray[np.float64]

MOST = 2500  # equations of a dense solution: their square is held in memory, and inverted
_GROWTH = 1.3  # times the entries that a system has at first
_DEAR = 32  # entries that one step may add
_GIVEN_UP = 20  # one of so many equations at a time
_EACH = 8  # unknowns that an equation has at least to be met with
_SPARE = 3  # times as many unknowns as there are equations to meet them with
_PAIRS = 1 << 21  # entries of the square that are added at once
_RIDGE = 1e-9  # keeps equations that depend on each other apart
_TURNS = 20
_NONE = 1e-9  # a factor or a sum below it is 0
_SMALL = 0.01  # no pivot is below it


@dataclass(frozen=True, slots=True)
class Rows:
    """Entries of a matrix in order of row: a row, a column, a factor there."""

    rows: Ints
    columns: Ints
    factors: Floats

    @classmethod
    def summed(cls, rows: Ints, columns: Ints, factors: Floats, width: int) -> Rows:
        """Of entries in any order, those of one place added up."""
        keys = rows * width + columns
        order = np.argsort(keys, kind="stable")
        keys, factors = keys[order], factors[order]
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        factors = np.add.reduceat(factors, first) if len(first) else factors
        some = np.abs(factors) > _NONE
        keys = keys[first][some]
        return cls(keys // width, keys % width, factors[some])

    def compact(self) -> Ints:
        """The rows, numbered from 0 without gaps."""
        return np.cumsum(np.diff(self.rows, prepend=self.rows[:1]) != 0)

    def at(self, chosen: Flags) -> Rows:
        """Only some of the entries."""
        return Rows(self.rows[chosen], self.columns[chosen], self.factors[chosen])

    def with_(self, other: Rows) -> Rows:
        """These and others, in order."""
        rows = np.concatenate([self.rows, other.rows])
        order = np.argsort(rows, kind="stable")
        return Rows(
            rows[order],
            np.concatenate([self.columns, other.columns])[order],
            np.concatenate([self.factors, other.factors])[order],
        )


@dataclass(frozen=True, slots=True)
class _Step:
    """Unknowns, the pivots, that others stand for: each entry a pivot, another, its factor."""

    pivots: Ints
    rows: Rows  # its rows are the pivots


@dataclass(frozen=True, slots=True)
class System:
    """What was eliminated, in this order, and what is left; so many ``rows`` were given."""

    unknowns: int
    steps: tuple[_Step, ...]
    left: Rows
    rows: int = 0

    @classmethod
    def of(cls, unknowns: int) -> System:
        """Of no equations."""
        none = np.zeros(0, np.int64)
        return cls(unknowns, (), Rows(none, none, np.zeros(0)))

    def with_rows(self, more: Rows, many: int) -> System:
        """With so many more equations, numbered from 0; they follow those that there are."""
        more = replace(more, rows=more.rows + self.rows)
        for step in self.steps:
            more = _replaced(more, step, self.unknowns)
        return replace(self, left=self.left.with_(more), rows=self.rows + many)

    def eliminated(self, price: Floats | None = None) -> System:
        """With as few equations left as a dense solution can have.

        Args:
            price: of each of the last rows, what it costs to give it up; no other is given up.
        """
        price = np.zeros(0) if price is None else price
        base = self.rows - len(price)
        steps, left = [*self.steps], self.left
        most, dear = int(len(left.rows) * _GROWTH) + 1000, 1
        while len(left.rows):
            step, left = _pivoted(left, self.unknowns, dear if len(left.rows) < most else 0)
            if step is not None:
                steps.append(step)
                continue
            if dear < _DEAR and len(left.rows) < most:
                dear *= 4
                continue
            names, lengths = np.unique(left.rows, return_counts=True)
            own = names >= base
            if len(names) <= MOST or not own.any():
                break
            many = max(1, min(len(names) - MOST, len(names) // _GIVEN_UP))
            worth = lengths[own] / price[names[own] - base]
            going = names[own][np.argsort(-worth, kind="stable")[:many]]
            left = left.at(~np.isin(left.rows, going))
            dear = 1
        return replace(self, steps=tuple(steps), left=left)

    def solved(self, values: Floats) -> Floats | None:
        """A solution near random values; None where too many equations are left."""
        made = _met(self.left, values)
        if made is None:
            return None
        for step in reversed(self.steps):
            made[step.pivots] = 0
            rows = step.rows
            np.subtract.at(made, rows.rows, rows.factors * made[rows.columns])
        return made


def _pivoted(left: Rows, unknowns: int, dear: int) -> tuple[_Step | None, Rows]:
    """One step, of as many unknowns as do not get in each other's way; None: all are too dear."""
    rows, columns, factors = left.compact(), left.columns, left.factors
    lengths = np.bincount(rows)
    often = np.bincount(columns, minlength=unknowns)
    # Of each unknown the shortest of its equations.
    fit = np.flatnonzero(np.abs(factors) > _SMALL)
    least = np.full(unknowns, len(factors) + 1)
    np.minimum.at(least, columns[fit], lengths[rows[fit]])
    best = fit[lengths[rows[fit]] == least[columns[fit]]]
    place = np.full(unknowns, -1)
    place[columns[best]] = best
    pivots = np.flatnonzero(place >= 0)
    of = rows[place[pivots]]
    cost = (often[pivots] - 1) * (lengths[of] - 2) - lengths[of]
    cheap = (cost <= dear) | (lengths[of] == 1)
    if not cheap.any():
        return None, left
    pivots, of, cost = pivots[cheap], of[cheap], cost[cheap]
    # No chosen equation has a second chosen unknown.
    rank = np.full(unknowns, np.inf)
    rank[pivots] = np.where(lengths[of] == 1, -1e9, cost) + np.random.default_rng(5).random(
        len(pivots)
    )
    asked = np.zeros(len(lengths), bool)
    asked[of] = True
    mine = asked[rows]
    best = np.full(len(lengths), np.inf)
    np.minimum.at(best, rows[mine], rank[columns[mine]])
    beaten = np.zeros(unknowns, bool)
    beaten[columns[mine][rank[columns[mine]] > best[rows[mine]]]] = True
    some = ~beaten[pivots]
    pivots, of = pivots[some], of[some]
    pivot = np.full(len(lengths), -1)
    pivot[of] = pivots
    going = pivot[rows] >= 0
    own = going & (columns == pivot[rows])
    by = np.ones(len(lengths))
    by[rows[own]] = factors[own]
    rest = going & ~own
    step = _Step(
        pivots,
        Rows(pivot[rows[rest]], columns[rest], factors[rest] / by[rows[rest]]),
    )
    return step, _replaced(left.at(~going), step, unknowns)


def _replaced(rows: Rows, step: _Step, unknowns: int) -> Rows:
    """The same equations, of other unknowns than the pivots of a step."""
    is_pivot = np.zeros(unknowns, bool)
    is_pivot[step.pivots] = True
    hit = is_pivot[rows.columns]
    if not hit.any():
        return rows
    order = np.argsort(step.rows.rows, kind="stable")
    others, factors = step.rows.columns[order], step.rows.factors[order]
    lengths = np.zeros(unknowns, np.int64)
    np.add.at(lengths, step.rows.rows, 1)
    starts = np.cumsum(lengths) - lengths
    old = rows.at(hit)
    many = lengths[old.columns]
    owner = np.repeat(np.arange(len(many)), many)
    where = np.arange(len(owner)) + np.repeat(starts[old.columns] - np.cumsum(many) + many, many)
    changed = np.zeros(int(rows.rows[-1]) + 1, bool)
    changed[old.rows] = True
    stays = ~changed[rows.rows]
    kept = rows.at(~stays & ~hit)
    new = Rows.summed(
        np.concatenate([kept.rows, old.rows[owner]]),
        np.concatenate([kept.columns, others[where]]),
        np.concatenate([kept.factors, -old.factors[owner] * factors[where]]),
        unknowns,
    )
    return rows.at(stays).with_(new)


def _met(left: Rows, values: Floats) -> Floats | None:
    """The values, changed in a few so that all equations are met; None where none are found.

    A few are enough where the equations are met by them alone: then the others stay as random as
    they are.
    """
    values = values.copy()
    if not len(left.rows):
        return values
    names, rows = np.unique(left.rows, return_inverse=True)
    many = len(names)
    if many > MOST:
        return None
    count = np.bincount(rows)
    sizes = np.sqrt(np.bincount(rows, left.factors**2))
    left = Rows(rows, left.columns, left.factors / sizes[rows])
    random = np.random.default_rng(3)
    order = np.argsort(rows + random.random(len(rows)) * 0.999)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
    every = random.permutation(np.unique(left.columns))
    each, spare = _EACH, _SPARE
    while True:
        chosen = np.zeros(len(values), bool)
        chosen[left.columns[order[place < each]]] = True
        chosen[every[: spare * many]] = True
        mine = chosen[left.columns]
        made = _corrected(left, left.at(mine), many, values)
        if made is not None or mine.all():
            return made
        each, spare = each * 4, spare * 4


def _corrected(left: Rows, by: Rows, many: int, values: Floats) -> Floats | None:
    """The values with those of some unknowns changed, so that all equations are met; or None."""
    square = _square(by, many)
    square[np.diag_indices(many)] += _RIDGE
    inverse = np.linalg.inv(square)
    del square
    values = values.copy()
    for _ in range(_TURNS):
        off = np.bincount(left.rows, left.factors * values[left.columns], many)
        if np.abs(off).max() < _NONE * max(1.0, float(np.abs(values).max())):
            return values
        np.subtract.at(values, by.columns, by.factors * (inverse @ off)[by.rows])
    return None


def _square(by: Rows, many: int) -> Floats:
    """How much equations have in common: the matrix times itself, turned."""
    order = np.argsort(by.columns, kind="stable")
    rows, columns, factors = by.rows[order], by.columns[order], by.factors[order]
    first = np.flatnonzero(np.diff(columns, prepend=-1))
    lengths = np.diff(first, append=len(columns))
    square = np.zeros(many * many)
    done = np.cumsum(lengths**2)
    cuts = np.searchsorted(done, np.arange(_PAIRS, done[-1], _PAIRS))
    for part in filter(len, np.split(np.arange(len(first)), cuts)):
        length = np.repeat(lengths[part], lengths[part])
        left = np.repeat(np.arange(len(length)) + first[part[0]], length)
        right = np.repeat(np.repeat(first[part], lengths[part]) + length, length)
        right += np.arange(len(left)) - np.repeat(np.cumsum(length), length)
        np.add.at(square, rows[left] * many + rows[right], factors[left] * factors[right])
    return square.reshape(many, many)

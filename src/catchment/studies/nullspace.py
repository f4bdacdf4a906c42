"""Which unknowns a system of subtractions leaves open: linear algebra on large sparse systems.

Each equation says that some unknowns, with signs, add up to something known. An unknown is
*determined* when the equations together fix it. A random solution of the homogeneous system is 0
exactly there, but for a set of random numbers of measure zero: so one solution tells of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

type Ints = npt.NDArray[np.int64]
type Floats = npt.NDArray[np.float64]
type Flags = npt.NDArray[np.bool_]

_ZERO = 1e-6  # below it, an unknown does not move; what is open moves much more
_LARGE = 600  # unknowns that hang together: up to so many, a decomposition tells exactly
# Beyond, so many steps come near a solution; what then moves less than this is taken for fixed.
_STEPS = 200
_LITTLE = 5e-4


@dataclass(frozen=True, slots=True)
class Equations:
    """Entries of the matrix: an equation, an unknown, and its sign there."""

    rows: Ints
    columns: Ints
    signs: Floats

    def at(self, chosen: Ints | Flags) -> Equations:
        """Only some of the entries."""
        return Equations(self.rows[chosen], self.columns[chosen], self.signs[chosen])


def determined(equations: Equations, counts: Ints) -> tuple[Flags, bool]:
    """Of each unknown, whether the equations fix it; and whether that is exact.

    Where few unknowns hang together, one also counts as fixed unless it can be seen to have room
    for another whole number while none of the others falls below 0.

    Where very many do, the answer is not exact: some that are not fixed are named too, and one that
    only very many equations together fix may be missed.
    """
    fixed = np.zeros(len(counts), bool)
    large = np.zeros(len(equations.rows), bool)
    for entries in _parts(equations):
        part = equations.at(entries)
        names = np.unique(part.columns)
        if len(names) <= _LARGE:
            fixed[names] = ~_has_room(_solutions(part), counts[names])
        else:
            large[entries] = True
    exact = True
    if large.any():
        rest = equations.at(np.flatnonzero(large))
        names = np.unique(rest.columns)
        mine, exact = _move(rest, len(counts))
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


def _move(equations: Equations, unknowns: int) -> tuple[Flags, bool]:
    """Of each unknown, whether it is 0 in a random solution; and whether that is exact."""
    values = np.random.default_rng(7).normal(size=unknowns)
    core, folded = _fold(equations)
    little = np.full(unknowns, _ZERO)
    for entries in _parts(core):
        part = core.at(entries)
        names = np.unique(part.columns)
        if len(names) <= _LARGE:
            basis = _solutions(part)
            values[names] = basis.T @ (basis @ values[names])
        else:
            values[names] = _approach(part, values[names])
            little[names] = _LITTLE
    for fold, last in reversed(folded):
        # Each of these equations has one unknown that no equation after it has: it gives way.
        order = np.argsort(fold.rows, kind="stable")
        first = np.flatnonzero(np.diff(fold.rows[order], prepend=-1))
        held = np.where(last[order], 0, (fold.signs * values[fold.columns])[order])
        sums = np.add.reduceat(held, first)
        mine = order[last[order]]
        values[fold.columns[mine]] = -sums * fold.signs[mine]
    return np.abs(values) < little, bool((little == _ZERO).all())


def _fold(equations: Equations) -> tuple[Equations, list[tuple[Equations, Flags]]]:
    """Set aside equations that have an unknown of their own, over and over; and what remains."""
    folded = []
    while len(equations.rows):
        uses = np.bincount(equations.columns)
        own = np.flatnonzero(uses[equations.columns] == 1)
        if not len(own):
            break
        rows, first = np.unique(equations.rows[own], return_index=True)
        last = np.zeros(len(equations.rows), bool)
        last[own[first]] = True
        going = np.zeros(int(equations.rows.max()) + 1, bool)
        going[rows] = True
        out = going[equations.rows]
        folded.append((equations.at(out), last[out]))
        equations = equations.at(~out)
    return equations, folded


def _parts(equations: Equations) -> Iterator[Ints]:
    """The entries, apart where equations have no unknown in common."""
    if not len(equations.rows):
        return
    order = np.argsort(equations.rows, kind="stable")
    rows, columns = equations.rows[order], equations.columns[order]
    first = np.flatnonzero(np.diff(rows, prepend=-1))
    lengths = np.diff(first, append=len(rows))
    label = np.arange(int(columns.max()) + 1)
    while True:
        least = np.repeat(np.minimum.reduceat(label[columns], first), lengths)
        if (least == label[columns]).all():
            break
        np.minimum.at(label, columns, least)
        label = label[label]
    mine = label[columns]
    place = np.argsort(mine, kind="stable")
    starts = np.flatnonzero(np.diff(mine[place], prepend=-1))
    yield from np.split(order[place], starts[1:])


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


def _approach(part: Equations, start: Floats) -> Floats:
    """The solution nearest to ``start``, nearly: conjugate gradients on the normal equations."""
    columns = np.unique(part.columns, return_inverse=True)[1]
    rows = np.unique(part.rows, return_inverse=True)[1]
    weights = part.signs / np.sqrt(np.bincount(rows))[rows]
    result = start.copy()
    residual = np.bincount(rows, weights * result[columns])
    step = np.bincount(columns, weights * residual[rows])
    direction = step.copy()
    size = float(step @ step)
    for _ in range(_STEPS):
        if np.abs(residual).max() < _ZERO:
            break
        moved = np.bincount(rows, weights * direction[columns])
        amount = size / float(moved @ moved)
        result -= amount * direction
        residual -= amount * moved
        step = np.bincount(columns, weights * residual[rows])
        size, before = float(step @ step), size
        direction = step + (size / before) * direction
    return result

"""Disclosure control: what of a merged cube may be seen, decided once, at its release.

A cell below the minimum cell size is not shown, nor is any cell that would give one away. Three
rules are applied until nothing changes; the comments name them.

1. No cell that is not shown, and no group of cells that is missing in the cube itself (because a
   site held it back), is what remains of a sum when all its other parts are shown.
2. What remains of a shown sum is never below the minimum, nor so many that each cell would be 1.
3. No combination of sums, over the whole lattice, fixes a cell that is not shown.

Why that is enough: the counts not shown are all above 0, so a solution of the sums that is near
the true one is possible too, and by rule 3 there is one that differs in each such cell. Sums
that do not add up (a person can be in two cells) tell only that a cell is not above its parent;
where the two are equal, they are taken for known to be equal, which can only hide more.

Where very many hidden cells hang together, more are hidden, until rule 3 can be proven: see
:mod:`.witness`. Of cubes of more than a million cells that is beyond us: there rule 3 is not exact.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from catchment.core.errors import Invalid
from catchment.studies.lattice import (
    STEP,
    Codes,
    Flags,
    Indices,
    Ints,
    Lattice,
    build,
    encode,
    joined,
    steps,
)
from catchment.studies.marks import Sites
from catchment.studies.memory import lean
from catchment.studies.missing import Held, add_missing
from catchment.studies.nullspace import Equations, determined
from catchment.studies.rounding import Rounding, rounded, words
from catchment.studies.witness import Witness

MEASURE = "cnt"
SITE = "site"
MIN_CELL = 11  # as the Centers for Medicare and Medicaid Services ask

_MANY = 20_000  # hidden cells: of more, a witness is looked for at once
_PROVEN = 1_000_000  # cells: of more, a witness takes too much memory


@dataclass(frozen=True, slots=True)
class Release:
    """What may be seen of a cube.

    Attributes:
        table: the cube's columns and rows. ``cnt`` is NULL where the cell is suppressed; those
            rows come last, by their values, so that their place tells nothing.
        marks: row by row of the table: ``suppressed``, and of a cell over all sites how many of
            them ``reported`` it, how many of these are ``withheld`` (not shown one by one), and
            how many are ``absent`` (have no such row: none, or too few to send).
        told: what tells which cells are suppressed, and nothing of them: a digest, shortened.
    """

    table: pa.Table
    marks: pa.Table
    told: str

    @property
    def suppressed(self) -> int:
        """How many cells are suppressed."""
        return int(self.table[MEASURE].null_count)


def release(
    cube: pa.Table | Callable[[], pa.Table],
    *,
    min_cell: int = MIN_CELL,
    min_sites: int = 1,
    sites: int | None = None,
    rounding: Rounding | None = None,
) -> Release:
    """What may be seen of a merged cube.

    Args:
        cube: ``cnt``, columns of categories where NULL is rolled up, and ``site`` if there is one.
            Or what reads it: then it is not in memory while what to hide is looked for.
        min_cell: counts from 1 to below this are not shown; 0 turns suppression off.
        min_sites: cells that fewer sites reported are not shown, nor is each one's part of them.
        sites: how many sites the cube is of; default: as many as it names.
        rounding: of what is shown, once it is known what is not; it divides ``min_cell``.

    Raises:
        Invalid: kind ``bad-cube``, if it is not a cube; ``bad-setting``, below 0, or no multiple.
    """
    if min(min_cell, min_sites) < 0:
        raise Invalid(
            f"expected min_cell and min_sites of 0 or more, got {min_cell} and {min_sites}",
            kind="bad-setting",
        )
    if rounding is not None:
        rounding.check(min_cell)
    read = cube if callable(cube) else lambda: cube
    with lean():
        return _released(read, min_cell, min_sites, sites, rounding)


def _released(
    read: Callable[[], pa.Table],
    min_cell: int,
    min_sites: int,
    sites: int | None,
    rounding: Rounding | None,
) -> Release:
    table = read()
    counts, codes, sizes = encode(table, MEASURE)
    site = _site(table)
    told = words(table, MEASURE, rounding) if rounding else []
    del table
    pa.default_memory_pool().release_unused()
    # 1 more: a value that is listed nowhere
    held = Held(build(counts, codes, tuple(size + 1 for size in sizes)))
    hidden = (counts > 0) & (counts < min_cell)
    if min_sites > 1 and site is not None:
        known = Sites.of_lattice(held.lattice, site, sites, len(hidden))
        hidden |= known.everywhere() < min_sites
        del known
    del counts, codes  # the lattice has them
    if hidden.any() or min_cell > 1:
        hidden = close(held, hidden, min_cell, site)
    lattice = held.lattice
    del held
    marks = None if site is None else Sites.of_lattice(lattice, site, sites, len(hidden))
    codes = lattice.codes[: len(hidden)]
    near = rounded(lattice, hidden, told, rounding) if rounding else None
    del lattice
    return _shown(read(), codes, hidden, marks, near)


def close(held: Held, hidden: Flags, min_cell: int, site: int | None = None) -> Flags:
    """The cells not to show, so that neither these nor what is missing can be found out."""
    if not len(held.lattice.parents):
        return hidden
    cells = len(held.lattice.counts)
    add_missing(held, site)
    lattice = held.lattice.without_keys()
    del held.lattice
    if len(lattice.counts) > _PROVEN:
        lattice = lattice.shelved()
    unknown = np.ones(len(lattice.counts), bool)
    unknown[:cells] = hidden
    sums = _Sums(lattice)
    fresh = np.flatnonzero(unknown)
    held.lattice = lattice
    while True:
        _peel(lattice, unknown, fresh, min_cell)
        fresh, known = sums.unfix(unknown)
        unknown[fresh] = True
        if not known:  # as good as it gets: the next answer would name as many again
            _peel(lattice, unknown, fresh, min_cell)
        if not (len(fresh) and known):
            return unknown[:cells]


def _peel(lattice: Lattice, unknown: Flags, fresh: Ints, min_cell: int) -> None:
    """Rules 1 and 2: add to the unknown cells until every relation of theirs keeps its secret."""
    counts, rest, parents = lattice.counts, lattice.rest, lattice.parents
    adds_up = rest >= 0
    many, total = _many(lattice, unknown), _total(lattice, unknown)
    look = np.flatnonzero(((many > 0) | (rest > 0)) & adds_up).astype(np.int32)
    while True:
        new = [_equals(lattice, unknown, fresh)]
        for step in steps(len(look)):
            some = look[step]
            open_parts = many[some] + (rest[some] > 0)
            lone = (open_parts == 1) & ((many[some] == 1) | (rest[some] < min_cell))
            remains = total[some] + rest[some]
            shown = ~unknown[parents[some]]
            thin = shown & (remains > 0) & (remains < min_cell)
            ones = shown & (many[some] > 0) & (remains == many[some])
            new.append(_smallest(lattice, unknown, some[lone | thin | ones]))
        fresh = np.unique(np.concatenate(new))
        if not len(fresh):
            return
        unknown[fresh] = True
        looks = [look[:0]]
        for step in steps(len(fresh)):
            cells = fresh[step]
            touched = lattice.relation[cells]
            np.add.at(many, touched[touched >= 0], 1)
            child = (touched >= 0) & (lattice.codes[cells] > 0)
            amounts = np.broadcast_to(counts[cells][:, None], touched.shape)
            np.add.at(total, touched[child], amounts[child].astype(total.dtype))
            looks.append(np.unique(touched[touched >= 0]))
        look = np.unique(np.concatenate(looks))
        look = look[adds_up[look]]


def _many(lattice: Lattice, unknown: Flags) -> Indices:
    """Of each relation, how many of its cells are unknown."""
    many = unknown[lattice.parents].astype(np.int32)
    for some in steps(len(many)):
        first, last = lattice.starts[some.start], lattice.starts[some.stop]
        mine = unknown[lattice.children[first:last]].astype(np.int32)
        many[some] += np.add.reduceat(mine, lattice.starts[some] - first)
    return many


def _total(lattice: Lattice, unknown: Flags) -> Ints | Indices:
    """Of each relation, what its unknown children sum to."""
    total = np.empty(len(lattice.parents), lattice.rest.dtype)
    most = np.iinfo(total.dtype).max // 2
    for some in steps(len(total)):
        first, last = lattice.starts[some.start], lattice.starts[some.stop]
        children = lattice.children[first:last]
        mine = lattice.counts[children] * unknown[children]
        total[some] = np.minimum(np.add.reduceat(mine, lattice.starts[some] - first), most)
    return total


def _smallest(lattice: Lattice, unknown: Flags, relations: Ints | Indices) -> Ints:
    """The smallest shown cell of each relation: a child if there is one, or else the parent."""
    found = [np.zeros(0, np.int64)]
    for step in steps(len(relations)):
        some = relations[step]
        owner, children = lattice.members(some)
        shown = ~unknown[children] & (lattice.counts[children] > 0)
        owner, children = owner[shown], children[shown]
        first = np.flatnonzero(np.diff(owner, prepend=-1))
        without = np.ones(len(some), bool)
        without[owner[first]] = False
        above = lattice.parents[some[without]]
        shown = ~unknown[above] & (lattice.counts[above] > 0)
        found.append(np.concatenate([children[first], above[shown]]).astype(np.int64))
    return np.concatenate(found)


def _equals(lattice: Lattice, unknown: Flags, fresh: Ints) -> Ints:
    """Shown cells that must equal these, where sums do not add up: a parent, or a child."""
    found = [np.zeros(0, np.int64)]
    for step in steps(len(fresh)):
        touched = lattice.relation[fresh[step]]
        loose = (touched >= 0) & (lattice.rest[touched] < 0)
        cells, columns = np.nonzero(loose)
        relations = touched[cells, columns]
        cells = fresh[step][cells]
        below = lattice.codes[cells, columns] > 0
        above = lattice.parents[relations[below]]
        owner, children = lattice.members(relations[~below])
        of = cells[~below][owner]
        found += [
            above[lattice.counts[above] == lattice.counts[cells[below]]],
            children[lattice.counts[children] == lattice.counts[of]],
        ]
    every = np.concatenate(found)
    return np.unique(every[~unknown[every]])


class _Sums:
    """Rule 3, for one lattice."""

    def __init__(self, lattice: Lattice) -> None:
        self._lattice = lattice

    def unfix(self, unknown: Flags) -> tuple[Ints, bool]:
        """Cells to hide so that sums combined fix less; none, where they fix no cell.

        And whether what they fix is known, not only nearly.
        """
        many = np.count_nonzero(unknown)
        huge = len(unknown) > _PROVEN
        if huge or many <= _MANY:
            independent = self._independent
            self._lattice.close()
            parts, of, names = _equations(self._lattice, unknown, independent)
            counts = self._lattice.counts[names]
            self._lattice.close()
            mine, exact = determined(parts, counts)
            if huge or exact:
                told = np.flatnonzero(unknown)[mine[of]]
                return _near(self._lattice, unknown, told), exact
        shown, fixed = self._witness.give_way(unknown)
        return np.union1d(shown, _near(self._lattice, unknown, fixed)), True

    @cached_property
    def _independent(self) -> Flags:
        return self._lattice.independent()

    @cached_property
    def _witness(self) -> Witness:
        return Witness(self._lattice)


def _equations(
    lattice: Lattice, unknown: Flags, independent: Flags
) -> tuple[list[Equations], Indices, Ints]:
    """What the sums say of the unknown cells, those that must be equal taken for one.

    A list of the equations; of each unknown cell, in order, which unknown it is; of each of these,
    a cell.
    """
    many = _many(lattice, unknown)
    many[~independent] = 0
    alone = (many == 2) & unknown[lattice.parents]  # all that a cell has of what is unknown
    same = np.arange(len(unknown), dtype=np.int32)
    ones, others = [same[:0]], [same[:0]]
    for relations, tight in ((np.flatnonzero(alone), False), (_loose(lattice, unknown), True)):
        for step in steps(len(relations)):
            owner, children = lattice.members(relations[step])
            above = lattice.parents[relations[step]][owner]
            equal = unknown[children]
            if tight:
                equal &= lattice.counts[children] == lattice.counts[above]
            ones.append(children[equal])
            others.append(above[equal])
    same = joined(same, np.concatenate(ones), np.concatenate(others))
    del ones, others, relations
    names = np.flatnonzero(unknown & (same == np.arange(len(same), dtype=np.int32)))
    place = np.full(len(same), -1, np.int32)
    place[names] = np.arange(len(names), dtype=np.int32)
    place = place[same]
    row_of: list[Indices] = []
    column_of: list[Indices] = []
    sign_of: list[npt.NDArray[np.float32]] = []
    relations, made = np.flatnonzero((many > 0) & ~alone), 0
    for step in steps(len(relations), STEP >> 3):  # each is of many entries
        some = relations[step]
        owner, children = lattice.members(some)
        open_ = unknown[children]
        top = np.flatnonzero(unknown[lattice.parents[some]])
        rows = np.concatenate([owner[open_], top]) + made
        columns = place[np.concatenate([children[open_], lattice.parents[some[top]]])]
        signs = np.ones(len(rows))
        signs[int(open_.sum()) :] = -1
        one = Equations.summed(rows, columns, signs, len(names))
        row_of.append(one.rows)
        column_of.append(one.columns)
        sign_of.append(one.signs)
        made += len(some)
    del same, many, alone
    of = place[unknown]
    del place
    return [Equations.of(row_of, column_of, sign_of)], of, names


def _loose(lattice: Lattice, unknown: Flags) -> Ints:
    """Relations of unknown cells that do not add up."""
    return np.flatnonzero((lattice.rest < 0) & unknown[lattice.parents])


def _near(lattice: Lattice, unknown: Flags, start: Ints) -> Ints:
    """The smallest shown cells in the sums of these, or in sums that have a cell in common."""
    cells = start.astype(np.int32)
    while len(cells):
        touched = np.unique(lattice.relation[cells])
        touched = touched[touched >= 0]
        found = _smallest(lattice, unknown, touched)
        if len(found):
            return np.unique(found).astype(np.int64)
        wider = np.union1d(lattice.members(touched)[1], lattice.parents[touched])
        if len(wider) <= len(cells):
            break
        cells = wider
    return start[:0]


def _site(cube: pa.Table) -> int | None:
    """The place of the column of sites among those of categories."""
    names = [name for name in cube.column_names if name != MEASURE]
    return names.index(SITE) if SITE in names else None


def _shown(
    cube: pa.Table, codes: Codes, hidden: Flags, sites: Sites | None, near: Ints | None
) -> Release:
    """The table and its marks, the suppressed rows last; those shown may be ``near``."""
    shown, gone = np.flatnonzero(~hidden), np.flatnonzero(hidden)
    if near is not None:  # in order of these: that of the cube would tell which is greater
        again = np.lexsort([*(column[shown] for column in codes.T[::-1]), -near])
        shown, near = shown[again], near[again]
    if len(gone) and codes.shape[1]:  # in order of values, NULL after all
        gone = gone[np.lexsort([_null_last(column[gone]) for column in codes.T[::-1]])]
    order = np.concatenate([shown, gone])
    table, site = cube, _site(cube)
    if len(gone) or near is not None:
        columns = dict(zip(cube.column_names, cube.columns, strict=True))
        place = cube.column_names.index(MEASURE)
        del cube, table
        pa.default_memory_pool().release_unused()
        places = pa.array(order)
        if near is not None:
            counts = np.zeros(len(hidden), np.int64)
            counts[shown] = near
            columns[MEASURE] = pa.array(counts).cast(columns[MEASURE].type)
            del counts
        table = pa.table({name: columns.pop(name).take(places) for name in [*columns]})
        del places
        measure = pc.if_else(
            pa.array(hidden[order]), pa.scalar(None, table[MEASURE].type), table[MEASURE]
        )
        table = table.set_column(place, table.field(place).with_nullable(True), measure)
    marks = {"suppressed": pa.array(hidden[order])}
    if sites is not None:
        own = codes[:, site] > 0
        for name, values in sites.marks(hidden, own).items():
            marks[name] = pa.array(values[order].astype(np.int32))
    told = hashlib.sha256(np.packbits(hidden).tobytes()).hexdigest()[:32]
    return Release(table, pa.table(marks), told)


def _null_last(codes: Codes) -> Codes:
    return np.where(codes == 0, np.iinfo(codes.dtype).max, codes)

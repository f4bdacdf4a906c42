"""Disclosure control: what of a merged cube may be seen, decided once, at its release.

A cell below the minimum cell size is not shown, nor is any cell that would give one away. Three
rules are applied until nothing changes; the comments name them.

1. No cell that is not shown, and no group of cells that is missing in the cube itself (because a
   site held it back), is what remains of a sum when all its other parts are shown.
2. What remains of a shown sum is never below the minimum, be it one cell or several.
3. No combination of sums, over the whole lattice, fixes a cell that is not shown.

Why that is enough: the counts not shown are all above 0, so a solution of the sums that is near
the true one is possible too, and by rule 3 there is one that differs in each such cell. Sums
that do not add up (a person can be in two cells) tell only that a cell is not above its parent;
where the two are equal, they are taken for known to be equal, which can only hide more.

Where very many hidden cells hang together, more are hidden, until rule 3 can be proven: see
:mod:`.witness`. Of cubes of more than a million cells that is beyond us: there rule 3 is not exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catchment.core.errors import Invalid
from catchment.studies.lattice import Codes, Flags, Indices, Ints, Lattice, build, encode
from catchment.studies.marks import Sites
from catchment.studies.nullspace import Equations, determined
from catchment.studies.witness import Witness

MEASURE = "cnt"
SITE = "site"
MIN_CELL = 11  # as the Centers for Medicare and Medicaid Services ask

_MANY = 20_000  # hidden cells: of more, a witness is looked for at once
_PROVEN = 1_000_000  # cells: of more, a witness takes too much memory
_STEP = 1 << 19  # relations that are looked at at once
_FEW = 8  # values that may be missing in a relation for one to be worth a look


@dataclass(frozen=True, slots=True)
class Release:
    """What may be seen of a cube.

    Attributes:
        table: the cube's columns and rows. ``cnt`` is NULL where the cell is suppressed; those
            rows come last, by their values, so that their place tells nothing.
        marks: row by row of the table: ``suppressed``, and of a cell over all sites how many of
            them ``reported`` it, how many of these are ``withheld`` (not shown one by one), and
            how many are ``absent`` (have no such row: none, or too few to send).
    """

    table: pa.Table
    marks: pa.Table

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
) -> Release:
    """What may be seen of a merged cube.

    Args:
        cube: ``cnt``, columns of categories where NULL is rolled up, and ``site`` if there is one.
            Or what reads it: then it is not in memory while what to hide is looked for.
        min_cell: counts from 1 to below this are not shown; 0 turns suppression off.
        min_sites: cells that fewer sites reported are not shown, nor is each one's part of them.
        sites: how many sites the cube is of; default: as many as it names.

    Raises:
        Invalid: kind ``bad-cube``, if it is not a cube; ``bad-setting``, below 0.
    """
    if min(min_cell, min_sites) < 0:
        raise Invalid(
            f"expected min_cell and min_sites of 0 or more, got {min_cell} and {min_sites}",
            kind="bad-setting",
        )
    read = cube if callable(cube) else lambda: cube
    table = read()
    counts, codes, sizes = encode(table, MEASURE)
    site = _site(table)
    del table
    pa.default_memory_pool().release_unused()
    # 1 more: a value that is listed nowhere
    held = _Held(build(counts, codes, tuple(size + 1 for size in sizes)))
    marks = None if site is None else Sites.of_lattice(held.lattice, site, sites)
    hidden = (counts > 0) & (counts < min_cell)
    if min_sites > 1 and marks is not None:
        hidden |= marks.everywhere() < min_sites
    if hidden.any() or min_cell > 1:
        hidden = close(held, hidden, min_cell, site)
    del held
    return _shown(read(), codes, hidden, marks)


class _Held:
    """A lattice that whoever is given this may let go, for it takes much memory."""

    def __init__(self, lattice: Lattice) -> None:
        self.lattice = lattice


def close(held: _Held, hidden: Flags, min_cell: int, site: int | None = None) -> Flags:
    """The cells not to show, so that neither these nor what is missing can be found out."""
    if not len(held.lattice.parents):
        return hidden
    cells = len(held.lattice.counts)
    _add_missing(held, site)
    lattice = held.lattice.without_keys()
    del held.lattice
    unknown = np.ones(len(lattice.counts), bool)
    unknown[:cells] = hidden
    sums = _Sums(lattice)
    fresh = np.flatnonzero(unknown)
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
    many, total = _tally(lattice, unknown)
    look = np.flatnonzero(((many > 0) | (rest > 0)) & adds_up).astype(np.int32)
    while True:
        weak = [look[:0]]
        for start in range(0, len(look), _STEP):
            some = look[start : start + _STEP]
            open_parts = many[some] + (rest[some] > 0)
            lone = (open_parts == 1) & ((many[some] == 1) | (rest[some] < min_cell))
            remains = total[some] + rest[some]
            thin = ~unknown[parents[some]] & (remains > 0) & (remains < min_cell)
            weak.append(some[lone | thin])
        new = np.union1d(
            _smallest(lattice, unknown, np.concatenate(weak)), _equals(lattice, unknown, fresh)
        )
        if not len(new):
            return
        unknown[new] = True
        fresh = new
        touched = lattice.relation[new]
        np.add.at(many, touched[touched >= 0], 1)
        child = (touched >= 0) & (lattice.codes[new] > 0)
        amounts = np.broadcast_to(counts[new][:, None], touched.shape)
        np.add.at(total, touched[child], amounts[child].astype(total.dtype))
        look = np.unique(touched[touched >= 0])
        look = look[adds_up[look]]


def _tally(lattice: Lattice, unknown: Flags) -> tuple[Indices, Ints | Indices]:
    """Of each relation: how many of its cells are unknown, and what its unknown children sum to."""
    many = unknown[lattice.parents].astype(np.int32)
    total = np.zeros(len(many), lattice.rest.dtype)
    for start in range(0, len(many), _STEP):
        stop = min(start + _STEP, len(many))
        first, last = lattice.starts[start], lattice.starts[stop]
        children, starts = lattice.children[first:last], lattice.starts[start:stop] - first
        mine = unknown[children]
        many[start:stop] += np.add.reduceat(mine.astype(np.int32), starts)
        sums = np.add.reduceat(lattice.counts[children] * mine, starts)
        total[start:stop] = np.minimum(sums, np.iinfo(total.dtype).max // 2)
    return many, total


def _smallest(lattice: Lattice, unknown: Flags, relations: Ints | Indices) -> Ints:
    """The smallest shown cell of each relation: a child if there is one, or else the parent."""
    owner, children = lattice.members(relations)
    shown = ~unknown[children] & (lattice.counts[children] > 0)
    owner, children = owner[shown], children[shown]
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    without = np.ones(len(relations), bool)
    without[owner[first]] = False
    above = lattice.parents[relations[without]]
    shown = ~unknown[above] & (lattice.counts[above] > 0)
    return np.concatenate([children[first], above[shown]])


def _equals(lattice: Lattice, unknown: Flags, fresh: Ints) -> Ints:
    """Shown cells that must equal these, where sums do not add up: a parent, or a child."""
    touched = lattice.relation[fresh]
    loose = (touched >= 0) & (lattice.rest[touched] < 0)
    cells, columns = np.nonzero(loose)
    relations = touched[cells, columns]
    cells = fresh[cells]
    below = lattice.codes[cells, columns] > 0
    above = lattice.parents[relations[below]]
    owner, children = lattice.members(relations[~below])
    of = cells[~below][owner]
    found = np.concatenate(
        [
            above[lattice.counts[above] == lattice.counts[cells[below]]],
            children[lattice.counts[children] == lattice.counts[of]],
        ]
    )
    return np.unique(found[~unknown[found]])


class _Sums:
    """Rule 3, for one lattice."""

    def __init__(self, lattice: Lattice) -> None:
        self._lattice = lattice

    def unfix(self, unknown: Flags) -> tuple[Ints, bool]:
        """Cells to hide so that sums combined fix less; none, where they fix no cell.

        And whether what they fix is known, not only nearly.
        """
        names = np.flatnonzero(unknown)
        huge = len(unknown) > _PROVEN
        if huge or len(names) <= _MANY:
            equations = _equations(self._lattice, unknown, self._independent)
            told, exact = determined(equations, self._lattice.counts[names])
            if huge or exact:
                return _near(self._lattice, unknown, names[told]), exact
        shown, fixed = self._witness.give_way(unknown)
        return np.union1d(shown, _near(self._lattice, unknown, fixed)), True

    @cached_property
    def _independent(self) -> Flags:
        return self._lattice.independent()

    @cached_property
    def _witness(self) -> Witness:
        return Witness(self._lattice)


def _equations(lattice: Lattice, unknown: Flags, independent: Flags) -> Equations:
    """What the sums say of the unknown cells, which are numbered in their order."""
    place = np.cumsum(unknown, dtype=np.int32) - np.int32(1)
    many, _ = _tally(lattice, unknown)
    sums = np.flatnonzero(independent & (many > 0))
    owner, children = lattice.members(sums)
    open_ = unknown[children]
    rows, columns = [owner[open_]], [place[children[open_]]]
    above = lattice.parents[sums]
    top = np.flatnonzero(unknown[above])
    rows.append(top.astype(np.int32))
    columns.append(place[above[top]])
    signs = [np.ones(len(rows[0]), np.float32), np.full(len(top), -1, np.float32)]
    loose = np.flatnonzero((lattice.rest < 0) & unknown[lattice.parents])
    owner, children = lattice.members(loose)
    above = lattice.parents[loose][owner]
    tight = unknown[children] & (lattice.counts[children] == lattice.counts[above])
    ties = np.arange(int(tight.sum()), dtype=np.int32) + np.int32(len(sums))
    rows += [ties, ties]
    columns += [place[children[tight]], place[above[tight]]]
    signs += [np.ones(len(ties), np.float32), np.full(len(ties), -1, np.float32)]
    del owner, children, open_, above
    every = np.concatenate(rows)
    order = np.argsort(every, kind="stable").astype(np.int32)
    return Equations(every[order], np.concatenate(columns)[order], np.concatenate(signs)[order])


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


def _add_missing(held: _Held, site: int | None) -> None:
    """Add a cell for each that is not there, but whose count a single sum would tell."""
    listed = len(held.lattice.counts)
    while True:
        lattice = held.lattice
        codes, counts = _missing(lattice, np.flatnonzero(lattice.rest > 0), site)
        if not len(counts):
            return
        codes = np.asfortranarray(np.concatenate([lattice.codes, codes]))
        counts = np.concatenate([lattice.counts, counts])
        sizes = lattice.sizes
        del lattice, held.lattice
        held.lattice = build(counts, codes, sizes, listed=listed, site=site)


def _missing(lattice: Lattice, relations: Ints, site: int | None) -> tuple[Indices, Ints]:
    """The only cell that can be missing in a relation, of those where it is one; its count.

    Where none of the values that are listed can be, it is of one that is listed nowhere.
    What is missing over all sites is what is missing of some of them: only these are looked at.
    """
    lengths = np.diff(lattice.starts)[relations]
    found_codes, found_counts = [lattice.codes[:0]], [lattice.counts[:0]]
    splits = lattice.codes[lattice.children[lattice.starts[relations]]]
    above = lattice.codes[lattice.parents[relations]]
    own = np.ones(len(relations), bool) if site is None else above[:, site] > 0
    for column, size in enumerate(lattice.sizes):
        if column == site:
            continue
        here = (splits[:, column] > 0) & (above[:, column] == 0) & (size - lengths <= _FEW) & own
        chosen = relations[here]
        owner, children = lattice.members(chosen)
        there = np.zeros((len(chosen), size), bool)
        there[owner, lattice.codes[children, column] - 1] = True
        owner, value = (found.astype(np.int32) for found in np.nonzero(~there))
        codes = lattice.codes[lattice.parents[chosen[owner]]]
        codes[:, column] = value + 1
        can = _possible(lattice, codes, site)
        last = value + 1 == size
        some = np.bincount(owner[can & ~last], minlength=len(chosen)) > 0
        can &= ~(last & some[owner])
        owner, codes = owner[can], codes[can]
        only = np.bincount(owner, minlength=len(chosen))[owner] == 1
        found_codes.append(codes[only])
        found_counts.append(lattice.rest[chosen[owner[only]]])
    counts = np.concatenate(found_counts)
    order = np.argsort(counts, kind="stable")
    codes, first = np.unique(np.concatenate(found_codes)[order], axis=0, return_index=True)
    return codes.astype(lattice.codes.dtype), counts[order][first]


def _possible(lattice: Lattice, codes: Indices, site: int | None) -> Flags:
    """Of cells that are not there, whether they can be above 0: no sum is complete without."""
    can = np.ones(len(codes), bool)
    for column in range(codes.shape[1]):
        if column == site:  # the sum over all sites is complete without what one held back
            continue
        split = np.flatnonzero(can & (codes[:, column] > 0))
        above = codes[split]
        above[:, column] = 0
        parents = lattice.keys.find(above)
        there = parents >= 0
        relations = lattice.relation[parents[there], column]
        complete = (relations >= 0) & (lattice.rest[relations] == 0)
        can[split[there]] &= ~complete
        if not there.all():
            can[split[~there]] &= _possible(lattice, above[~there], site)
    return can


def _site(cube: pa.Table) -> int | None:
    """The place of the column of sites among those of categories."""
    names = [name for name in cube.column_names if name != MEASURE]
    return names.index(SITE) if SITE in names else None


def _shown(cube: pa.Table, codes: Codes, hidden: Flags, sites: Sites | None) -> Release:
    """The table and its marks, the suppressed rows last."""
    shown, gone = np.flatnonzero(~hidden), np.flatnonzero(hidden)
    if len(gone) and codes.shape[1]:  # in order of values, NULL after all
        gone = gone[np.lexsort([_null_last(column[gone]) for column in codes.T[::-1]])]
    order = np.concatenate([shown, gone])
    table = cube
    if len(gone):
        table = cube.take(pa.array(order))
        place = table.column_names.index(MEASURE)
        measure = pc.if_else(
            pa.array(hidden[order]), pa.scalar(None, table[MEASURE].type), table[MEASURE]
        )
        table = table.set_column(place, table.field(place).with_nullable(True), measure)
    marks = {"suppressed": pa.array(hidden[order])}
    if sites is not None:
        own = codes[:, _site(cube)] > 0
        for name, values in sites.marks(hidden, own).items():
            marks[name] = pa.array(values[order].astype(np.int32))
    return Release(table, pa.table(marks))


def _null_last(codes: Codes) -> Codes:
    return np.where(codes == 0, np.iinfo(codes.dtype).max, codes)

"""A cube as a lattice: which cells add up to which, in arrays.

A *cell* is a row of the cube. A *relation* is a cell, its parent, together with the cells that
split it by one more column, its children: what one subtraction can be done with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from catchment.core.errors import Invalid
from catchment.studies.memory import Shelf, in_one

type Ints = npt.NDArray[np.int64]
type Indices = npt.NDArray[np.int32]
type Codes = npt.NDArray[np.int16] | npt.NDArray[np.int32]
type Flags = npt.NDArray[np.bool_]

_FEW = 1 << 14  # values that two bytes can tell apart, those listed nowhere included
_SHORT = 1 << 30  # counts that four bytes hold, and their differences
_ROOM = 1 << 62  # keys are 64 bits wide
STEP = 1 << 18  # cells or relations that are looked at at once, so that memory stays small


@dataclass(frozen=True, slots=True)
class Keys:
    """Finds cells by their codes."""

    strides: npt.NDArray[np.uint64]
    keys: npt.NDArray[np.uint64]  # of all cells, sorted
    order: Indices  # the cell of each key
    codes: Codes
    hashed: bool  # two cells that are not there may then share a key

    def of(self, codes: Codes) -> npt.NDArray[np.uint64]:
        """The keys that cells with these codes have."""
        return _keys(codes, self.strides)

    def find(self, codes: Codes) -> Indices:
        """The cells that have these codes, -1 for those that do not exist."""
        found = self._at(self.of(codes))
        if self.hashed:
            found[(self.codes[found] != codes).any(axis=1)] = -1
        return found

    def _at(self, keys: npt.NDArray[np.uint64]) -> Indices:
        places = np.searchsorted(self.keys, keys)
        places[places == len(self.keys)] = 0
        found = self.order[places]
        found[self.keys[places] != keys] = -1
        return found

    def above(self, column: int) -> tuple[Indices, Indices]:
        """All cells that a column splits, in order of keys, and what they become without it.

        -1: that is not there.
        """
        cells, found = [self.order[:0]], [self.order[:0]]
        for some in steps(len(self.order)):
            mine = self.order[some]
            own = self.codes[mine, column]
            split = own > 0
            mine = mine[split]
            if self.hashed:
                wanted = self.codes[mine]
                wanted[:, column] = 0
                found.append(self.find(wanted))
            else:
                less = own[split].astype(np.uint64) * self.strides[column]
                found.append(self._at(self.keys[some][split] - less))
            cells.append(mine)
        return np.concatenate(cells), np.concatenate(found)


@dataclass(frozen=True, slots=True)
class Lattice:
    """The cells and the relations between them.

    Attributes:
        counts: of each cell.
        codes: of each cell and column: 0 where it is rolled up, else the number of its value.
        sizes: of each column, how many values it has.
        relation: of each cell and column, the relation it is part of, as a child where its code
            is not 0, else as the parent; -1 where there is none.
        parents: the parent of each relation.
        starts: where the children of each relation begin in ``children``, and the end of the last.
        children: of all relations, within each by rising count.
        rest: the parent's count less the children's, of each relation: above 0 where cells are
            missing, below 0 where a person can be in two cells.
    """

    counts: Ints
    codes: Codes
    sizes: tuple[int, ...]
    keys: Keys
    relation: Indices
    parents: Indices
    starts: Indices
    children: Indices
    rest: Ints | Indices
    shelf: Shelf | None = None

    def without_keys(self) -> Lattice:
        """The same, in which no cell can be found any more; it takes less memory."""
        none = np.zeros(0, np.uint64)
        keys = Keys(self.keys.strides, none, np.zeros(0, np.int32), self.codes[:0], False)
        return replace(self, keys=keys)

    def shelved(self) -> Lattice:
        """The same, whose arrays take memory only while they are looked at."""
        shelf = Shelf()
        names = ("counts", "codes", "relation", "parents", "starts", "children", "rest")
        kept: dict[str, Any] = {name: shelf.put(getattr(self, name)) for name in names}
        return replace(self, **kept, shelf=shelf)

    def close(self) -> None:
        """It is not looked at for a while."""
        if self.shelf is not None:
            self.shelf.close()

    def members(self, relations: npt.NDArray[np.integer[Any]]) -> tuple[Indices, Indices]:
        """The children of some relations: the place of each one's relation among them, and it."""
        starts = self.starts[relations]
        lengths = self.starts[relations + 1] - starts
        owner = np.repeat(np.arange(len(relations), dtype=np.int32), lengths)
        where = np.repeat(starts - np.cumsum(lengths, dtype=np.int32) + lengths, lengths)
        where += np.arange(len(owner), dtype=np.int32)
        return owner, self.children[where]

    def sums(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Of each relation, what its children's values add up to."""
        found = np.empty(len(self.parents), values.dtype)
        for some in steps(len(found)):
            first, last = self.starts[some.start], self.starts[some.stop]
            mine = values[self.children[first:last]]
            found[some] = np.add.reduceat(mine, self.starts[some] - first)
        return found

    def independent(self) -> Flags:
        """Of each relation that adds up, whether the deeper ones do not already imply it.

        A cell that is split by one column, and each part by another, needs not be split by the
        other first as well: both orders end at the same cells.
        """
        exact: Flags = self.rest == 0
        needed: Flags = exact.copy()
        if not len(self.parents):
            return needed
        names = np.random.default_rng(0).integers(0, 2**64, len(self.counts), np.uint64)
        sums = self.sums(names)
        del names
        splits = np.empty(self.codes.shape, bool, order="F")
        for column in range(len(self.sizes)):
            own = self.relation[:, column]
            splits[:, column] = (own >= 0) & (self.codes[:, column] == 0) & exact[own]
        first = splits.argmax(axis=1).astype(np.int8)
        for column in range(1, len(self.sizes)):
            cells = np.flatnonzero(splits[:, column] & (first < column))
            for before in range(column):
                both = cells[first[cells] == before]
                for step in steps(len(both)):
                    some = both[step]
                    one, other = self.relation[some, before], self.relation[some, column]
                    ends = [
                        self._ends(relations, beyond, exact, sums)
                        for relations, beyond in ((one, column), (other, before))
                    ]
                    same = ends[0][0] & ends[1][0] & (ends[0][1] == ends[1][1])
                    needed[other[same]] = False
        return needed

    def _ends(
        self, relations: Indices, column: int, exact: Flags, sums: npt.NDArray[np.uint64]
    ) -> tuple[Flags, npt.NDArray[np.uint64]]:
        """Of relations whose children are split further: whether all add up, and into what."""
        if not len(relations):
            return np.zeros(0, bool), sums[:0]
        owner, children = self.members(relations)
        further = self.relation[children, column]
        fine = (further >= 0) & exact[further]
        first = np.flatnonzero(np.diff(owner, prepend=-1))
        return np.logical_and.reduceat(fine, first), np.add.reduceat(sums[further], first)


def encode(cube: pa.Table, measure: str) -> tuple[Ints, Codes, tuple[int, ...]]:
    """Counts, codes and sizes of a cube (see :class:`Lattice`).

    Raises:
        Invalid: kind ``bad-cube``, where a count is missing, negative or not whole.
    """
    counts = cube[measure]
    if not pa.types.is_integer(counts.type) or counts.null_count:
        raise Invalid(
            f"expected whole counts in {measure}, got {counts.type} with {counts.null_count} NULL",
            kind="bad-cube",
        )
    if len(counts) and pc.min(counts).as_py() < 0:
        raise Invalid(f"expected counts of 0 or more in {measure}, got less", kind="bad-cube")
    columns = [_encoded(cube[name]) for name in cube.column_names if name != measure]
    sizes = tuple(int(column.max(initial=0)) for column in columns)
    kind = np.int16 if max(sizes, default=0) < _FEW else np.int32
    codes = np.zeros((cube.num_rows, len(columns)), kind, order="F")
    for place, column in enumerate(columns):
        codes[:, place] = column
    return counts.cast(pa.int64()).to_numpy(), codes, sizes


def _encoded(column: pa.ChunkedArray) -> Indices:
    """0 where a value is NULL, else the place of the value in their order, from 1."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    known = values_of(column)
    codes: list[Indices] = [np.zeros(0, np.int32)]
    for chunk in column.chunks:
        places = pc.fill_null(pc.index_in(chunk.dictionary, value_set=known), -1)
        places = np.append(places.to_numpy(), -1) + 1
        codes.append(places[pc.fill_null(chunk.indices.cast(pa.int32()), -1).to_numpy()])
    return np.concatenate(codes).astype(np.int32)


def values_of(column: pa.ChunkedArray) -> pa.Array:
    """The values that a column may have, in their order."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    dictionaries = [chunk.dictionary for chunk in column.unify_dictionaries().chunks[:1]]
    known = pc.drop_null(pc.unique(pa.chunked_array(dictionaries, column.type.value_type)))
    return known.take(pc.sort_indices(known))


def index(codes: Codes, sizes: tuple[int, ...]) -> Keys:
    """What finds cells by their codes; Invalid (kind ``bad-cube``) where two have the same."""
    total, strides = 1, []
    for size in sizes:
        strides.append(min(total, _ROOM))
        total *= size + 1
    multipliers = np.array(strides, np.uint64)
    random = np.random.default_rng(0)
    while True:
        if total > _ROOM:
            multipliers = random.integers(0, 2**64, len(sizes), np.uint64) | np.uint64(1)
        own = _keys(codes, multipliers)
        order = np.argsort(own).astype(np.int32)
        keys = own[order]
        del own
        same = np.flatnonzero(keys[1:] == keys[:-1])
        if not len(same):
            return Keys(multipliers, keys, order, codes, total > _ROOM)
        if (codes[order[same]] == codes[order[same + 1]]).all(axis=1).any():
            raise Invalid(
                "expected each combination of values once, got one twice", kind="bad-cube"
            )


def _keys(codes: Codes, strides: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    total = np.zeros(len(codes), np.uint64)
    for column, stride in enumerate(strides):
        total += codes[:, column].astype(np.uint64) * stride
    return total


def build(
    counts: Ints,
    codes: Codes,
    sizes: tuple[int, ...],
    *,
    listed: int | None = None,
    site: int | None = None,
) -> Lattice:
    """The lattice of cells with these counts and codes.

    Args:
        counts: of each cell.
        codes: of each cell and column.
        sizes: of each column.
        listed: so many cells, the first, are in the cube; the others are missing in it.
        site: the column of sites. A cell over all sites is the sum of those that are in the cube.
    """
    keys = index(codes, sizes)
    cells, width = codes.shape
    relation = np.full((cells, width), -1, np.int32, order="F")
    rising = np.argsort(counts, kind="stable").astype(np.int32)
    rank = np.empty(cells, np.int32)
    rank[rising] = np.arange(cells, dtype=np.int32)
    parents, lengths, rests = [], [], []
    children = np.empty(np.count_nonzero(codes), np.int32)  # at most; what is not used is no memory
    relations = found_children = 0
    short = np.int32 if counts.max(initial=0) < _SHORT else np.int64
    for column in range(width):
        split, found = keys.above(column)
        there = found >= 0
        if column == site and listed is not None:
            there &= (split < listed) | (found >= listed)
        # By parent, within each by rising count.
        order = np.sort((found[there].astype(np.int64) << 32) | rank[split[there]])
        del there
        split = rising[order & 0xFFFFFFFF]
        found = (order >> 32).astype(np.int32)
        del order
        first = np.flatnonzero(np.diff(found, prepend=-1))
        length = np.diff(first, append=len(found))
        parent = found[first]
        number = np.arange(relations, relations + len(parent), dtype=np.int32)
        relation[split, column] = np.repeat(number, length)
        relation[parent, column] = number
        sums = np.add.reduceat(counts[split], first) if len(first) else counts[:0]
        sums = np.minimum(sums, counts[parent] + _SHORT)  # by how much above does not matter
        parents.append(parent.astype(np.int32))
        lengths.append(length.astype(np.int32))
        children[found_children : found_children + len(split)] = split
        found_children += len(split)
        rests.append((counts[parent] - sums).astype(short))
        relations += len(parent)
    del rising, rank
    starts = np.zeros(relations + 1, np.int32)
    np.cumsum(in_one(lengths, np.int32), out=starts[1:])
    return Lattice(
        counts,
        codes,
        sizes,
        keys,
        relation,
        in_one(parents, np.int32),
        starts,
        children[:found_children],
        in_one(rests, short),
    )


def steps(many: int, most: int = STEP) -> Iterator[slice]:
    """So many things, some at a time."""
    for start in range(0, many, most):
        yield slice(start, min(start + most, many))


def joined(same: Indices, ones: Ints | Indices, others: Ints | Indices) -> Indices:
    """The least number of all that are the same, where these pairs are the same as well."""
    while True:
        one, other = same[ones], same[others]
        if np.array_equal(one, other):
            return same
        np.minimum.at(same, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(further := same[same], same):
            same = further

"""Rounding: counts that are shown become multiples of a base, up or down at random.

A count goes to one of the two multiples beside it, to the nearer one more often, so that it is kept
on average (random rounding: Hundepool et al., Statistical Disclosure Control, 2012, section 5.4).
Then one release subtracted from another does not tell by how much a count has changed.

A keyed digest of the cell and of its count decides, and nothing is remembered: who asks again, in
another release or of another package, is told the same, and no average of answers is better than
one. For that, cells of the same people are one cell: where all of 40 are women, 40 people and 40
women are rounded alike.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catchment.core.errors import Invalid
from catchment.studies.lattice import Flags, Indices, Ints, Lattice, steps, values_of

type Words = npt.NDArray[np.uint64]


class Rounding(NamedTuple):
    """To multiples of what, and the secret by which it is decided up or down."""

    to: int
    key: bytes

    def check(self, min_cell: int) -> None:
        """Invalid (kind ``bad-setting``) unless it divides the least count that is shown.

        Or else what is rounded to less than that would lie in the few numbers between.
        """
        if self.to < 2 or min_cell % self.to:
            raise Invalid(
                f"expected a min_cell that is a multiple of what counts are rounded to, 2 or more, "
                f"got {min_cell} and {self.to}",
                kind="bad-setting",
                hint="set round_to to what min_cell is",
            )


def words(cube: pa.Table, measure: str, rounding: Rounding) -> list[Words]:
    """Of each column, a number for each code; 0 where it is rolled up.

    The sum of a cell's numbers stands for the cell, in whatever order its columns are, and
    whatever columns others have.
    """
    found = []
    for name in cube.column_names:
        if name != measure:
            texts = (json.dumps([name, str(v)]) for v in values_of(cube[name]).to_pylist())
            own = _digests((text.encode() for text in texts), rounding.key, b"value")
            found.append(np.concatenate([np.zeros(1, np.uint64), own]))
    return found


def rounded(lattice: Lattice, hidden: Flags, columns: list[Words], rounding: Rounding) -> Ints:
    """The counts of those of the first cells that are not ``hidden``, rounded."""
    same = _same(lattice, len(hidden))[~hidden]
    lattice.close()
    wanted = np.zeros(len(hidden), bool)
    wanted[same] = True
    cells = np.flatnonzero(wanted)
    made = np.zeros(len(cells), np.int64)
    for step in steps(len(cells)):
        some = cells[step]
        counts = lattice.counts[some]
        rest = counts % rounding.to
        told = np.zeros((len(some), 2), "<u8")
        for column, own in enumerate(columns):
            told[:, 0] += own[lattice.codes[some, column]]
        told[:, 1] = counts
        data, width = told.tobytes(), told.strides[0]
        each = (data[at : at + width] for at in range(0, len(data), width))
        chance = _digests(each, rounding.key, b"cell") % np.uint64(rounding.to)
        made[step] = counts - rest + rounding.to * (chance < rest.astype(np.uint64))
    lattice.close()
    return made[np.cumsum(wanted, dtype=np.int32)[same] - 1]


def _same(lattice: Lattice, cells: int) -> Indices:
    """Of each of the first cells, the one of most columns that is of the same people.

    A cell is of the same people as one of its children of the same count.
    """
    found = np.arange(cells, dtype=np.int32)
    for some in steps(len(lattice.parents)):
        above = lattice.parents[some]
        largest = lattice.children[lattice.starts[some.start + 1 : some.stop + 1] - 1]
        same = (above < cells) & (largest < cells)  # beyond are those that nobody listed
        above, largest = above[same], largest[same]
        same = lattice.counts[above] == lattice.counts[largest]
        found[above[same]] = largest[same]
    while not np.array_equal(further := found[found], found):
        found = further
    return found


def _digests(texts: Iterable[bytes], key: bytes, use: bytes) -> Words:
    """A number of 64 bits for each text; only who has the key can tell it."""
    begun = hashlib.blake2b(key=key, digest_size=8, person=use)
    found = []
    for text in texts:
        one = begun.copy()
        one.update(text)
        found.append(one.digest())
    return np.frombuffer(b"".join(found), "<u8").astype(np.uint64)

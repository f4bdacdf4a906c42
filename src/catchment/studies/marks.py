"""Marks: how many sites are in a cell of a merged cube."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from catchment.studies.lattice import Flags, Indices, Lattice

# What people read of a row's marks, in the order in which they are stored.
# The last only where counts are rounded.
NAMES = ("suppressed", "sites_reported", "sites_suppressed", "sites_absent", "rounded_to")


def named(columns: Iterable[str], marks: int) -> list[str]:
    """Names for so many marks beside these columns: a site may call some of its own so."""
    taken = {name.casefold() for name in columns}  # SQL does not tell the case of names
    found = []
    for name in NAMES[:marks]:
        while name in taken:
            name += "_"  # noqa: PLW2901 - until it is free
        found.append(name)
    return found


@dataclass(frozen=True, slots=True)
class Sites:
    """Which sites are in which cell.

    Attributes:
        above: of each cell of a site, the cell over all sites; -1 of those over all sites.
        reported: of each cell over all sites, how many reported it; 1 of a site's own.
        of: how many sites there are.
    """

    above: Indices
    reported: Indices
    of: int

    @classmethod
    def of_lattice(cls, lattice: Lattice, column: int, sites: int | None, cells: int) -> Sites:
        """Of the first ``cells`` of a lattice, those of the cube.

        Its ``column`` is of sites; how many ``sites`` there are, default: those in it.
        """
        own = lattice.codes[:cells, column] > 0
        above = np.full(len(own), -1, np.int32)
        relations = lattice.relation[:cells, column]
        there = own & (relations >= 0)
        above[there] = lattice.parents[relations[there]]
        reported = np.bincount(above[there], minlength=len(own)).astype(np.int32)
        reported[own] = 1
        return cls(above, reported, lattice.sizes[column] - 1 if sites is None else sites)

    def everywhere(self) -> Indices:
        """Of each cell, how many sites reported the same over all sites."""
        return np.where(self.above >= 0, self.reported[self.above], self.reported)

    def marks(self, hidden: Flags, own: Flags) -> dict[str, Indices]:
        """The marks of each cell: see :class:`~catchment.studies.disclosure.Release`."""
        parts = self.above[hidden & (self.above >= 0)]
        withheld = np.bincount(parts, minlength=len(hidden)).astype(np.int32)
        withheld[own] = hidden[own]
        absent = np.where(own, 0, np.maximum(self.of - self.reported, 0))
        return {"reported": self.reported, "withheld": withheld, "absent": absent}

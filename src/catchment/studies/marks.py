"""Marks: how many sites are in a cell of a merged cube."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catchment.studies.lattice import Flags, Indices, Ints, Lattice


@dataclass(frozen=True, slots=True)
class Sites:
    """Which sites are in which cell.

    Attributes:
        above: of each cell of a site, the cell over all sites; -1 of those over all sites.
        reported: of each cell over all sites, how many reported it; 1 of a site's own.
        of: how many sites there are.
    """

    above: Indices
    reported: Ints
    of: int

    @classmethod
    def of_lattice(cls, lattice: Lattice, column: int, sites: int | None) -> Sites:
        """Of a lattice whose ``column`` is of sites; how many ``sites``, default: those in it."""
        own = lattice.codes[:, column] > 0
        above = np.full(len(own), -1, np.int32)
        relations = lattice.relation[:, column]
        there = own & (relations >= 0)
        above[there] = lattice.parents[relations[there]]
        reported = np.bincount(above[there], minlength=len(own))
        reported[own] = 1
        return cls(above, reported, lattice.sizes[column] - 1 if sites is None else sites)

    def everywhere(self) -> Ints:
        """Of each cell, how many sites reported the same over all sites."""
        return np.where(self.above >= 0, self.reported[self.above], self.reported)

    def marks(self, hidden: Flags, own: Flags) -> dict[str, npt.NDArray[np.int64]]:
        """The marks of each cell: see :class:`~catchment.studies.disclosure.Release`."""
        parts = self.above[hidden & (self.above >= 0)]
        withheld = np.bincount(parts, minlength=len(hidden))
        withheld[own] = hidden[own]
        absent = np.where(own, 0, np.maximum(self.of - self.reported, 0))
        return {"reported": self.reported, "withheld": withheld, "absent": absent}

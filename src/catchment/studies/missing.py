"""Cells that are not in a cube, because a site held them back, but that a sum would tell."""

from __future__ import annotations

import numpy as np

from catchment.studies.lattice import Flags, Indices, Ints, Lattice, build, steps

_FEW = 8  # values that may be missing in a relation for one to be worth a look


class Held:
    """A lattice that whoever is given this may let go, for it takes much memory."""

    def __init__(self, lattice: Lattice) -> None:
        self.lattice = lattice


def add_missing(held: Held, site: int | None) -> None:
    """Add a cell for each that is not there, but whose count a single sum would tell."""
    listed = len(held.lattice.counts)
    while True:
        lattice = held.lattice
        relations = np.flatnonzero(lattice.rest > 0)
        found = [_missing(lattice, relations[step], site) for step in steps(len(relations))]
        counts = np.concatenate([lattice.counts[:0], *(one for _, one in found)])
        if not len(counts):
            return
        codes = np.concatenate([one for one, _ in found])
        del found, relations
        order = np.argsort(counts, kind="stable")
        codes, first = np.unique(codes[order], axis=0, return_index=True)
        codes, counts = codes.astype(lattice.codes.dtype), counts[order][first]
        codes = np.asfortranarray(np.concatenate([lattice.codes, codes]))
        counts = np.concatenate([lattice.counts, counts])
        sizes = lattice.sizes
        del lattice, held.lattice
        held.lattice = build(counts, codes, sizes, listed=listed, site=site)


def _missing(lattice: Lattice, relations: Ints, site: int | None) -> tuple[Indices, Ints]:
    """The only cells that can be missing in relations, of those where it is one; their counts.

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
    return np.concatenate(found_codes), np.concatenate(found_counts)


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

"""Memory of large arrays: given back where the C library can, and nothing else changes."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from catchment.studies import disclosure, lattice, memory
from catchment.studies.disclosure import release
from catchment.testing.studies import wide_cube
from tests.studies.test_disclosure import cube, people


@pytest.fixture(autouse=True)
def anew():
    memory._library.cache_clear()
    yield
    memory._library.cache_clear()


def test_what_is_large_is_mapped_only_within(monkeypatch):
    calls = []

    class Library:
        def mallopt(self, option, value):
            calls.append((option, value))

        def malloc_trim(self, keep):
            calls.append(keep)

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library())
    with memory.lean():
        assert calls == [(-3, 4 << 20), (-1, 16 << 20), 0]
    assert calls[3:] == [(-3, 32 << 20), (-1, 64 << 20), 0]
    del calls[:]
    with memory.roomy():
        assert calls == [(-3, 32 << 20), (-1, 1 << 30)]
    assert calls[2:] == [(-1, 64 << 20), 0]


@pytest.mark.parametrize("error", [OSError, AttributeError, TypeError])
def test_another_c_library_is_left_alone(monkeypatch, error):
    def without(_):
        raise error

    monkeypatch.setattr(ctypes, "CDLL", without)
    table = cube(people(("a", "a", 2), ("b", "b", 9)), 0, ["c0", "c1"])
    assert release(table, min_cell=5).suppressed
    with memory.roomy():
        assert memory._library() is None


def test_what_is_on_the_shelf_is_as_it_was():
    shelf = memory.Shelf()
    array = np.asfortranarray(np.arange(5000, dtype=np.int32).reshape(1000, 5))
    kept = shelf.put(array)
    shelf.close()
    assert kept.flags.f_contiguous
    assert (kept == array).all()
    assert shelf.put(array[:0]).shape == (0, 5)


def test_a_lattice_on_the_shelf_tells_the_same(monkeypatch):
    """Of very many cells the lattice is not in memory while nobody looks at it."""
    table = wide_cube(3, 900)
    before = release(table, min_cell=5)
    monkeypatch.setattr(disclosure, "_PROVEN", 0)
    after = release(table, min_cell=5)
    assert before.suppressed
    assert (after.told, after.table, after.marks) == (before.told, before.table, before.marks)


@pytest.mark.parametrize("columns", [3, 14])
def test_what_a_cell_becomes_without_a_column(columns):
    """Also where keys are too many for 64 bits, and two cells may share one."""
    random = np.random.default_rng(1)
    codes = np.unique(random.integers(0, 3, (400, columns)) % 3, axis=0).astype(np.int16)
    codes[0] = 0
    sizes = (40,) * columns
    codes = np.asfortranarray(np.unique(codes, axis=0))
    keys = lattice.index(codes, sizes)
    assert keys.hashed == (columns == 14)
    place = {tuple(cell): number for number, cell in enumerate(codes.tolist())}
    for column in range(columns):
        cells, found = keys.above(column)
        assert sorted(cells) == np.flatnonzero(codes[:, column]).tolist()
        for cell, above in zip(cells, found, strict=True):
            wanted = codes[cell].tolist()
            wanted[column] = 0
            assert above == place.get(tuple(wanted), -1)

"""Memory of large arrays: given back where the C library can, and nothing else changes."""

from __future__ import annotations

import ctypes

import pytest

from catchment.studies import memory
from catchment.studies.disclosure import release
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
        assert calls == [(-3, 1 << 20), 0]
    assert calls[2:] == [(-3, 32 << 20), 0]
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

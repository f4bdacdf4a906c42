"""The part of a store's contract that is about compositions."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catchment.core.errors import Conflict, Corrupt, Invalid, NotFound, Unavailable
from catchment.core.store import Range, Segment, Store
from catchment.testing.faults import Faults, inject

MIB = 1 << 20


class ComposeContract:
    """What every store promises of compositions; a part of ``StoreContract``."""

    examples = 50

    def test_a_composition_joins_bytes(self, store: Store, other: Store) -> None:
        sources = {(s, n): bytes([65 + n]) * n * 7 for s in (store, other) for n in range(4)}
        for (where, n), data in sources.items():
            where.put(f"source/{n}", data)
        targets = count()

        @st.composite
        def ranges(draw: st.DrawFn) -> Range:
            where, n = draw(st.sampled_from(list(sources)))
            start = draw(st.integers(0, n * 7))
            return Range(where, f"source/{n}", start, draw(st.integers(0, n * 7 - start)))

        @settings(max_examples=self.examples, deadline=None, database=None)
        @given(st.lists(ranges() | st.binary(max_size=9), max_size=8), st.booleans())
        def check(segments: list[Segment], digest: bool) -> None:  # noqa: FBT001
            target = f"target/{next(targets)}"
            expected = b"".join(
                sources[s.store, int(s.key[-1])][s.start : s.start + s.length]
                if isinstance(s, Range)
                else s
                for s in segments
            )
            composed = store.compose(target, segments, digest=digest)
            assert store.read(target) == expected
            hashed = f"sha256:{hashlib.sha256(expected).hexdigest()}" if digest else None
            assert composed == (target, len(expected), hashed)

        check()

    @pytest.mark.parametrize("digest", [False, True])
    def test_a_big_composition(self, store: Store, other: Store, digest: bool) -> None:  # noqa: FBT001
        data = hashlib.shake_128(b"seed").digest(13 * MIB)
        store.put("a", data)
        other.put("b", data)
        segments: list[Segment] = [
            b"head",
            Range(store, "a", 1, 6 * MIB),
            b"between",
            Range(store, "a", 6 * MIB + 1, MIB),
            Range(store, "a", 7 * MIB + 1, 6 * MIB - 1),  # touches the last
            Range(other, "b", 0, 13 * MIB),
            *(Range(other, "b", n * 3, 2) for n in range(100)),
            b"foot",
        ]
        expected = (
            b"head"
            + data[1 : 6 * MIB + 1]
            + b"between"
            + data[6 * MIB + 1 :]
            + data
            + b"".join(data[n * 3 : n * 3 + 2] for n in range(100))
            + b"foot"
        )
        composed = store.compose("target", segments, digest=digest)
        assert store.read("target") == expected
        assert composed.size == len(expected)
        if digest:
            assert composed.digest == f"sha256:{hashlib.sha256(expected).hexdigest()}"
        with pytest.raises(Conflict):
            store.compose("target", segments)
        store.compose("target", [Range(store, "target", 0, 7 * MIB)], mode="overwrite")
        assert store.read("target") == expected[: 7 * MIB]

    def test_a_composition_with_a_bad_source_leaves_nothing(self, store: Store) -> None:
        store.put("a", bytes(6 * MIB))
        whole = Range(store, "a", 0, 6 * MIB)
        bad: list[tuple[Segment, type[Exception], str]] = [
            (Range(store, "none", 0, 6 * MIB), NotFound, "not-found"),
            (Range(store, "none", 0, 0), NotFound, "not-found"),
            (Range(store, "a", 1, 6 * MIB), Corrupt, "short-source"),
            (Range(store, "a", 7 * MIB, 1), Corrupt, "short-source"),
            (Range(store, "a", -1, 1), Invalid, "bad-range"),
            (Range(store, "a", 1, -1), Invalid, "bad-range"),
        ]
        for segment, error, kind in bad:
            with pytest.raises(error) as caught:
                store.compose("target", [whole, b"x", segment])
            assert getattr(caught.value, "kind", "") == kind
        assert [stat.key for stat in store.list()] == ["a"]
        assert store.sweep(timedelta(0)) == 0

    def test_a_composition_whose_source_fails_leaves_nothing(
        self, store: Store, other: Store
    ) -> None:
        store.put("target", b"before")
        other.put("a", bytes(6 * MIB))
        for step in range(1, 4):
            source = inject(other, Faults(fail_at=step))
            segments: list[Segment] = [b"x" * 6 * MIB, Range(source, "a", 0, 6 * MIB)]
            with pytest.raises(Unavailable):
                store.compose("target", segments, mode="overwrite")
        assert [(s.key, store.read(s.key)) for s in store.list()] == [("target", b"before")]
        assert store.sweep(timedelta(0)) == 0

    def test_a_composition_refuses_a_taken_key(self, store: Store) -> None:
        store.put("target", b"before")
        with pytest.raises(Conflict) as caught:
            store.compose("target", [b"after"])
        assert caught.value.kind == "key-taken"
        assert store.read("target") == b"before"
        store.compose("target", [b"not ", Range(store, "target", 0, 6)], mode="overwrite")
        assert store.read("target") == b"not before"

"""Rules for segments: what is joined, and how an upload is cut into parts."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.core import compose
from catchment.core.compose import COPY_PART, MAX_PARTS, PART, joined, plan_parts
from catchment.core.errors import Corrupt, Invalid
from catchment.core.store import Range, open_store

HERE, THERE = open_store("memory://here"), open_store("memory://there")
MIB = 1 << 20


def copyable(source):
    return source.store is HERE


def size(segment):
    return segment.length if isinstance(segment, Range) else len(segment)


def flat(segments):
    """Where each stretch of bytes comes from, with all that touch joined: two lists that give the
    same bytes in the same way are equal."""
    found = []
    for segment in filter(size, segments):
        if not isinstance(segment, Range):
            found.append(segment)
        elif found and not isinstance(found[-1], bytes) and follows(found[-1], segment):
            found[-1] = found[-1]._replace(length=found[-1].length + segment.length)
        else:
            found.append(segment)
        if len(found) > 1 and isinstance(found[-1], bytes) and isinstance(found[-2], bytes):
            found[-2:] = [found[-2] + found[-1]]
    return found


def follows(one, other):
    return one[:2] == other[:2] and one.start + one.length == other.start


lengths = st.integers(0, 9) | st.integers(0, 30 * MIB) | st.sampled_from([PART - 1, PART, PART + 1])
ranges = st.builds(
    Range,
    st.sampled_from([HERE, THERE]),
    st.sampled_from(["a", "b"]),
    st.integers(0, 3) | st.integers(0, MIB),
    lengths,
)
segments = st.lists(ranges | st.binary(max_size=5), max_size=12)


@given(segments)
def test_joining_keeps_the_bytes(given_):
    done = list(joined(given_))
    assert flat(done) == flat(given_)
    assert len(done) <= len(given_)
    for one, other in pairwise(done):
        assert isinstance(one, bytes) or isinstance(other, bytes) or not follows(one, other)


@given(segments, st.integers(1, 9))
def test_joining_does_not_wait_for_more_than_it_was_told(given_, most):
    done = list(joined(given_, most))
    assert flat(done) == flat(given_)


def test_a_range_that_is_long_enough_is_given_before_the_next_is_asked_for():
    def coming():
        yield Range(HERE, "a", 0, 3)
        yield Range(HERE, "a", 3, 3)
        raise AssertionError

    assert next(joined(coming(), 6)) == Range(HERE, "a", 0, 6)


def test_ranges_that_touch_become_one():
    pieces = [Range(HERE, "a", start, 10) for start in range(0, 1000, 10)]
    assert list(joined(pieces)) == [Range(HERE, "a", 0, 1000)]
    apart = [Range(HERE, "a", 0, 1), Range(HERE, "b", 1, 1), Range(THERE, "b", 2, 1)]
    assert list(joined(apart)) == apart
    split = [Range(HERE, "a", 0, 1), b"x", Range(HERE, "a", 1, 1)]
    assert list(joined(split)) == split


def test_a_missing_source_is_not_joined_away():
    assert list(joined([Range(HERE, "none", 0, 0)])) == [Range(HERE, "none", 0, 0)]


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, -1)])
def test_a_bad_range_is_refused(start, length):
    with pytest.raises(Invalid) as caught:
        list(joined([Range(HERE, "a", start, length)]))
    assert caught.value.kind == "bad-range"


@given(segments)
def test_parts_keep_the_bytes_and_the_rules_of_s3(given_):
    parts = plan_parts(given_, copyable)
    assert flat([segment for part in parts for segment in part]) == flat(given_)
    for part in parts[:-1]:
        assert sum(map(size, part)) >= PART
    for part in parts:
        copied = len(part) == 1 and isinstance(part[0], Range) and copyable(part[0])
        assert copied or sum(map(size, part)) <= PART, "more in memory than a part"
    sent = sum(size(s) for part in parts for s in part if len(part) > 1 or size(s) < PART)
    big = [
        s for s in joined(given_) if isinstance(s, Range) and copyable(s) and s.length >= 2 * PART
    ]
    copied = sum(size(part[0]) for part in parts if len(part) == 1)
    assert copied >= sum(s.length - PART for s in big), "a big range is copied by the storage"
    assert sent + copied >= sum(map(size, given_))


def test_a_huge_range_is_copied_in_pieces_of_one_size():
    parts = plan_parts([Range(HERE, "a", 7, 3 * COPY_PART + 1)], copyable)
    assert [len(part) for part in parts] == [1] * 4
    assert {part[0].length - 3 * COPY_PART // 4 for part in parts} <= {0, 1}
    assert parts[0][0].start == 7


def test_parts_are_never_too_many():
    small = [Range(HERE, f"{n}", 0, PART + n % 2) for n in range(MAX_PARTS + 500)]
    parts = plan_parts(small, copyable)
    assert len(parts) <= MAX_PARTS
    assert sum(size(s) for part in parts for s in part) == sum(map(size, small))
    large = plan_parts([Range(HERE, "a", 0, 4 * MAX_PARTS * COPY_PART)], copyable)
    assert len(large) <= MAX_PARTS


def test_nothing_is_no_part():
    assert plan_parts([b"", Range(HERE, "a", 3, 0)], copyable) == []


def test_streaming_tells_of_a_short_source():
    store = open_store("memory://short")
    store.put("a", b"abc")
    assert b"".join(compose.stream([b"x", Range(store, "a", 1, 2)])) == b"xbc"
    with pytest.raises(Corrupt) as caught:
        list(compose.stream([Range(store, "a", 1, 3)]))
    assert caught.value.kind == "short-source"

"""Packing: the shared cases, and properties against slow and obvious models."""

from __future__ import annotations

import itertools
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.core.errors import Invalid
from catchment.exports.model import MIB, Piece, Rules
from catchment.exports.plan import cut, pack, plan, ready


def pieces_of(sizes):
    return [Piece(f"f{i:03}", 0, size) for i, size in enumerate(sizes, 1) if size]


def greedy(sizes, maximum):
    """The rule as it reads: the largest, then whatever still fits, largest first."""
    left = sorted(sizes, reverse=True)
    outputs = []
    while left:
        output = [left.pop(0)]
        for size in list(left):
            if sum(output) + size <= maximum:
                output.append(size)
                left.remove(size)
        outputs.append(output)
    return outputs


def first_fit_decreasing(sizes, maximum):
    """The textbook form: each into the first output that has room."""
    outputs = []
    for size in sorted(sizes, reverse=True):
        for output in outputs:
            if sum(output) + size <= maximum:
                output.append(size)
                break
        else:
            outputs.append([size])
    return outputs


def test_shared_cases(shared):
    cases = json.loads((shared / "cases/exports.json").read_text())["cases"]
    for case in cases:
        rules = Rules(case["max_bytes"], case["multiplier"])
        pieces = pieces_of(case["sizes"])
        outputs = list(plan(pieces, rules, done=case["phase"] == "done"))
        expected = case["expected"]["outputs"]
        sizes = {piece.part: piece.size for piece in pieces}
        assert [[p.size for p in output] for output in outputs] == [
            [sizes[name] for name in output["inputs"]] for output in expected
        ], case["id"]
        assert [sum(p.size for p in output) for output in outputs] == [
            output["size"] for output in expected
        ], case["id"]


SIZES = st.lists(st.integers(1, 40), max_size=60)


@given(SIZES, st.integers(1, 40))
def test_pack_is_first_fit_decreasing(sizes, maximum):
    outputs = [[p.size for p in output] for output in pack(pieces_of(sizes), maximum)]
    assert outputs == greedy(sizes, maximum) == first_fit_decreasing(sizes, maximum)


@given(SIZES, st.integers(1, 40), st.integers(0, 5), st.randoms())
def test_plan_does_not_depend_on_the_order_of_listing(sizes, maximum, multiplier, random):
    pieces = pieces_of(sizes)
    shuffled = random.sample(pieces, len(pieces))
    rules = Rules(maximum, multiplier)
    assert list(plan(shuffled, rules, done=False)) == list(plan(pieces, rules, done=False))


@given(SIZES, st.integers(1, 40), st.integers(0, 5))
def test_gate_holds_before_each_output_and_not_after_the_last(sizes, maximum, multiplier):
    rules = Rules(maximum, multiplier)
    outputs = list(plan(pieces_of(sizes), rules, done=False))
    left = sum(sizes)
    for output in outputs:
        assert left > multiplier * maximum
        left -= sum(p.size for p in output)
    assert left <= multiplier * maximum
    drained = list(plan(pieces_of(sizes), rules, done=True))
    assert drained[: len(outputs)] == outputs
    assert sum(p.size for output in drained for p in output) == sum(sizes)


def test_gate_is_strict_and_never_opens_for_nothing():
    rules = Rules(MIB, 2)
    assert not ready(2 * MIB, rules, done=False)
    assert ready(2 * MIB + 1, rules, done=False)
    assert not ready(0, rules, done=True)
    assert not ready(0, Rules(MIB, 0), done=False)
    # 2,048 MiB and more are ordinary numbers.
    huge = Rules(2048 * MIB, 2)
    assert not ready(4096 * MIB, huge, done=False)
    assert ready(4096 * MIB + 1, huge, done=False)


def test_time_grows_almost_as_the_pieces_do():
    def seconds(n):
        pieces = [Piece(str(i), 0, 1 + i * 7919 % 20_000) for i in range(n)]
        best = []
        for _ in range(3):
            start = time.process_time()
            assert sum(map(len, pack(pieces, 100_000))) == n
            best.append(time.process_time() - start)
        return min(best)

    assert seconds(80_000) < 80 * seconds(5_000)  # of 16 times as many; quadratic would be 256


@pytest.mark.parametrize(("maximum", "multiplier"), [(0, 2), (-1, 2), (1, -1), (1, float("nan"))])
def test_rules_that_cannot_be_meant_are_refused(maximum, multiplier):
    with pytest.raises(Invalid):
        Rules(maximum, multiplier)


def lines_of(data):
    return [line + b"\n" for line in data.removesuffix(b"\n").split(b"\n")] if data else []


def naive_cut(data, maximum):
    pieces = []
    for line in lines_of(data):
        if pieces and pieces[-1] + len(line) <= maximum:
            pieces[-1] += len(line)
        else:
            pieces.append(len(line))
    return pieces


@given(
    st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\n", b".")), max_size=30),
    st.booleans(),
    st.integers(1, 25),
    st.integers(1, 40),
)
def test_cut_is_the_greedy_cut_at_lines(lines, final_newline, maximum, chunk):
    data = b"\n".join(lines) + (b"\n" if final_newline else b"")
    chunks = [data[i : i + chunk] for i in range(0, len(data), chunk)]
    assert list(cut(chunks, maximum)) == naive_cut(data, maximum)


@given(st.binary(max_size=60).map(lambda b: bytes(c % 3 + 9 for c in b)), st.integers(1, 9))
def test_cut_goes_on_where_it_was_left(data, maximum):
    sizes = list(cut([data], maximum))
    for start, rest in zip(itertools.accumulate(sizes), range(1, len(sizes)), strict=False):
        assert list(cut([data[start:]], maximum)) == sizes[rest:]

"""Cubes of which very much hangs together: what is hidden there is proven not to be fixed."""

from __future__ import annotations

import random
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings

from catchment.studies import disclosure, elimination
from catchment.studies.disclosure import release
from catchment.studies.elimination import Rows, System
from tests.studies import attacker
from tests.studies.test_disclosure import cube, cubes, merged


@settings(max_examples=40, deadline=None)
@given(cubes())
def test_the_attacker_finds_no_cell_that_is_fixed(drawn):
    table, size, _ = drawn
    with always():
        assert fixed(table, size) == []


@settings(max_examples=20, deadline=None)
@given(cubes(most=3))
def test_neither_where_sums_do_not_add_up(drawn):
    table, size, _ = drawn
    with always():
        assert fixed(table, size) == []


@contextmanager
def always():
    """The way of very large cubes, for all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disclosure, "_MANY", -1)
        yield


def fixed(table, size, least=0, chosen=None):
    """The hidden cells that can have one count only, by an attacker's own solver."""
    made = release(table, min_cell=size)
    truth, seen = attacker.cells(table), attacker.cells(made.table)
    assert seen.keys() == truth.keys()
    assert all(count is None or count == truth[c] for c, count in seen.items())
    assert not any(count is not None and 0 < count < size for count in seen.values())
    hidden = [cell for cell, count in seen.items() if count is None]
    assert len(hidden) >= least
    place, options = attacker.problem(truth, seen)
    found = []
    for cell in random.Random(5).sample(hidden, min(len(hidden), chosen or len(hidden))):
        low, high = attacker.interval(place, options, cell)
        assert low - 1e-6 <= truth[cell] <= high + 1e-6
        if high - low < 1e-6:
            found.append(cell)
    return found


def crowd(seed, number, sizes, least=0):
    """The cube of people with one value in each column, of which some are rare."""
    source = random.Random(seed)
    people = []
    for _ in range(number):
        values = [min(int(source.paretovariate(0.8)), size) for size in sizes]
        people.append([tuple(f"v{value}" for value in values)])
    return cube(people, least, [f"c{n}" for n in range(len(sizes))])


@pytest.mark.parametrize("least", [0, 2])
def test_of_very_much_that_hangs_together_nothing_is_fixed(monkeypatch, least):
    monkeypatch.setattr(disclosure, "_MANY", 800)
    table = merged(*(crowd(seed, 1500, (6, 12, 30), least) for seed in range(3)))
    assert fixed(table, 11, least=1000, chosen=15) == []


def test_more_is_hidden_where_too_much_hangs_together(monkeypatch):
    """Few equations may be left: others are given up, first those of few people."""
    monkeypatch.setattr(disclosure, "_MANY", 800)
    table = merged(*(crowd(seed, 1500, (6, 12, 30)) for seed in range(3)))
    free = release(table, min_cell=11)
    monkeypatch.setattr(elimination, "MOST", 40)
    monkeypatch.setattr(elimination, "_DEAR", 1)
    assert fixed(table, 11, least=1000, chosen=8) == []
    made = release(table, min_cell=11)
    assert free.suppressed < made.suppressed < table.num_rows
    assert attacker.cells(made.table)[None, None, None, None] == 4500


@pytest.mark.parametrize("least", [0, 2])
@pytest.mark.parametrize("found", [lambda *_: None, lambda _, values: values])
def test_nothing_is_shown_that_no_witness_proves(monkeypatch, found, least):
    """However wrong a solution is: it is not taken for one."""
    monkeypatch.setattr(System, "solved", found)
    table = crowd(1, 300, (3, 5, 4), least)
    with always():
        assert release(table, min_cell=11).suppressed == table.num_rows


def test_a_system_that_is_too_large_for_a_dense_solution(monkeypatch):
    monkeypatch.setattr(elimination, "MOST", 1)
    rows = Rows(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), np.array([1.0, 2.0, 2.0, 1.0]))
    assert System.of(2).with_rows(rows, 2).solved(np.ones(2)) is None


def test_equations_are_met_by_more_unknowns_where_a_few_do_not_do(monkeypatch):
    monkeypatch.setattr(elimination, "_EACH", 1)
    monkeypatch.setattr(elimination, "_SPARE", 0)
    random_ = np.random.default_rng(1)
    many, width = 30, 200
    matrix = random_.integers(-1, 2, (many, width)).astype(float)
    matrix[5] = matrix[3] + matrix[4]
    rows, columns = np.nonzero(matrix)
    system = System.of(width).with_rows(Rows(rows, columns, matrix[rows, columns]), many)
    for one in (system, system.eliminated()):
        values = one.solved(random_.normal(size=width))
        assert np.abs(matrix @ values).max() < 1e-6
        assert np.abs(values).min() > 1e-6

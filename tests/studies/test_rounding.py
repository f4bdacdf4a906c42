"""Rounding at release: what it does to counts, and what it leaves to who compares releases."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from datetime import timedelta
from itertools import product

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.sparse import coo_matrix

from catchment.core.errors import Invalid
from catchment.studies import actions, capability, library
from catchment.studies.disclosure import release
from catchment.studies.rounding import Rounding
from catchment.testing.studies import wide_cube
from tests.studies import attacker, studying
from tests.studies.test_disclosure import cube, cubes, merged, people

KEY = bytes(range(32))


def shown(table, *, size=0, base=0, key=KEY, **more):
    rounding = Rounding(base, key) if base else None
    return release(table, min_cell=size, rounding=rounding, **more)


@settings(max_examples=30, deadline=None)
@given(cubes(most=2), st.sampled_from([2, 3, 5, 20]), st.sampled_from([0, 1, 2]))
def test_of_what_is_shown_each_count_is_a_multiple_near_its_own(drawn, base, times):
    table, _, _ = drawn
    size = base * times
    exact, near = shown(table, size=size), shown(table, size=size, base=base)
    truth, seen = attacker.cells(exact.table), attacker.cells(near.table)
    assert seen.keys() == truth.keys()
    assert near.table.schema.remove_metadata() == exact.table.schema.remove_metadata().set(
        0, pa.field("cnt", pa.int64())
    )
    for cell, count in truth.items():
        if count is None:
            assert seen[cell] is None
        else:
            assert seen[cell] % base == 0
            assert abs(seen[cell] - count) < base
            assert seen[cell] >= size or not count
    assert near.told == exact.told
    assert shown(table, size=size, base=base).table.equals(near.table)
    # Who reported what is told of the same cells; the order tells no more than the counts do.
    whose = [
        dict(zip(attacker.cells(one.table), one.marks.to_pylist(), strict=True))
        for one in (exact, near)
    ]
    assert whose[0] == whose[1]
    ordered = [
        (count is None, -(count or 0), [(v is not None, v or "") for v in cell])
        for cell, count in seen.items()
    ]
    visible = [row for row in ordered if not row[0]]
    assert visible == sorted(visible)
    assert ordered[: len(visible)] == visible


def test_on_average_nothing_changes():
    """Up in as many of a base's cases as the count is above the multiple below it."""
    values = np.arange(11, 11 + 22 * 400)
    table = pa.table({"cnt": values, "c": [f"v{n}" for n in values]})
    seen = attacker.cells(shown(table, size=11, base=11).table)
    error = np.array([seen[f"v{n}",] - n for n in values])
    spread = 11 / math.sqrt(6)  # of one, on average over what is left by a division
    assert abs(error.mean()) < 4 * spread / math.sqrt(len(values))
    assert abs(error.std() - spread) < 0.1
    for rest in range(11):
        mine = error[values % 11 == rest] > 0
        share = rest / 11
        assert abs(mine.mean() - share) <= 4 * math.sqrt(share * (1 - share) / len(mine))


def test_who_asks_again_is_told_the_same():
    """The same cell with the same count: in other packages, with other columns, beside others."""
    one = people(("f", "x", 13), ("f", "y", 25), ("m", "x", 37))
    first = attacker.cells(shown(cube(one, 0, ["sex", "race"]), base=11).table)
    later = people(("f", "x", 13), ("f", "y", 26), ("m", "x", 37), ("m", "z", 14))
    again = cube(later, 0, ["sex", "race"]).select(["cnt", "race", "sex"])
    second = attacker.cells(shown(again, base=11, size=11).table)
    for cell in (("f", "x"), ("m", "x"), (None, "x")):
        assert first[cell] == second[cell[::-1]]
    alone = cube([[(sex,)] for ((sex, _),) in one], 0, ["sex"])
    for key in (bytes([n]) * 32 for n in range(20)):
        wide = attacker.cells(shown(cube(one, 0, ["sex", "race"]), base=11, key=key).table)
        assert attacker.cells(shown(alone, base=11, key=key).table)["f",] == wide["f", None]


def test_cells_of_the_same_people_are_rounded_alike():
    """Each would be another estimate of their number, of which the mean is nearer than any."""
    one = people(("f", "x", 25), ("f", "y", 16))
    for table in (cube(one, 0, ["sex", "race"]), merged(cube(one, 0, ["sex", "race"]))):
        told = Counter()
        for key in (bytes([n]) * 32 for n in range(60)):
            seen = attacker.cells(shown(table, base=11, key=key).table)
            told[seen["f", None, *[None] * (len(next(iter(seen))) - 2)]] += 1
            groups = defaultdict(set)
            for cell, count in seen.items():
                groups[cell[1]].add(count)
            assert all(len(counts) == 1 for counts in groups.values())
        assert set(told) == {33, 44}


def test_a_key_decides():
    table = pa.table({"cnt": np.arange(5, 300), "c": [f"v{n}" for n in range(295)]})
    one, other = (attacker.cells(shown(table, base=10, key=k).table) for k in (KEY, KEY[::-1]))
    assert 60 < sum(one[c] != other[c] for c in one) < 140  # a third, on average


def test_a_cube_without_rows_or_columns():
    nothing = pa.table({"cnt": pa.array([], pa.int64()), "c": pa.array([], pa.string())})
    assert shown(nothing, size=5, base=5).table.num_rows == 0
    assert shown(pa.table({"cnt": [12]}), size=5, base=5).table["cnt"].to_pylist()[0] in {10, 15}


@pytest.mark.parametrize(("size", "base"), [(11, 5), (5, 10), (0, 1), (4, -2)])
def test_counts_are_rounded_to_what_divides_the_smallest(size, base):
    """Or else the least count that is shown would be told by being rounded to less."""
    with pytest.raises(Invalid) as caught:
        release(pa.table({"cnt": [12]}), min_cell=size, rounding=Rounding(base, KEY))
    assert caught.value.kind == "bad-setting"


# Two releases


def pair(random, columns=2):
    """Two merged cubes of two sites; to the second one a few people more came, at one of them."""
    values = [["a", "b", "c"][: random.integers(2, 4)] for _ in range(columns)]
    leaves = list(product(*values))
    names = [f"c{n}" for n in range(columns)]
    sites = [[int(n) for n in random.integers(0, 40, len(leaves))] for _ in range(2)]
    made = []
    changed = int(random.integers(len(leaves)))
    for more in (0, int(random.integers(1, 4))):
        sites[0][changed] += more
        parts = [
            cube([[leaf] for leaf, n in zip(leaves, site, strict=True) for _ in range(n)], 0, names)
            for site in sites
        ]
        made.append(merged(*parts))
    return made


class Attack:
    """What is possible for all that is not known: of each release each cell, all at once.

    The attacker knows which sums add up, that sites have people only once, how large a cell must be to be shown, to what
    counts are rounded, and that one site sent the same twice.
    """

    def __init__(self, tables, releases, size, base, same="s1"):
        self.truth = [attacker.cells(table) for table in tables]
        self.seen = [attacker.cells(one.table) for one in releases]
        self.place = {}
        self.bounds = []
        rows = []
        for number, (truth, seen) in enumerate(zip(self.truth, self.seen, strict=True)):
            for cell, count in seen.items():
                self.place[number, cell] = len(self.bounds)
                if count is None:
                    self.bounds.append((1, None))  # of 0 nothing is hidden
                elif base:
                    least = max(size, 1) if truth[cell] else 0
                    self.bounds.append((max(count - base + 1, least), count + base - 1))
                else:
                    self.bounds.append((count, count))
            for above, parts, equal in attacker.relations(truth, seen):
                assert equal
                row = {self.place[number, part]: 1 for part in parts}
                rows.append(row | {self.place[number, above]: -1})
        for (number, cell), place in self.place.items():
            if number == 0 and cell[-1] == same:
                rows.append({place: 1, self.place[1, cell]: -1})
        entries = [(n, k, v) for n, row in enumerate(rows) for k, v in row.items()]
        of, columns, signs = zip(*entries, strict=True)
        shape = (len(rows), len(self.bounds))
        self.options = {
            "A_eq": coo_matrix((signs, (of, columns)), shape).tocsr(),
            "b_eq": np.zeros(len(rows)),
            "bounds": self.bounds,
            "method": "highs",
        }

    def fixed(self, goal):
        """Whether a sum of cells, each with a factor, can be one whole number only."""
        ends = []
        for sign in (1, -1):
            wanted = np.zeros(len(self.bounds))
            for cell, factor in goal.items():
                wanted[self.place[cell]] = sign * factor
            answer = linprog(wanted, **self.options)
            if answer.status == 3:  # without bound
                return False
            assert answer.status == 0, answer.message
            ends.append(sign * answer.fun)
        return math.ceil(ends[0] - 1e-6) >= math.floor(ends[1] + 1e-6)

    def found(self, sums=5):
        """Changes that can be only what they are, of cells and of some sums of these; hidden cells."""
        moved = [c for c, count in self.truth[0].items() if self.truth[1].get(c, count) != count]
        goals = [(cell,) for cell in moved]
        random = np.random.default_rng(len(moved))
        for _ in range(sums):
            chosen = random.choice(
                len(moved), min(len(moved), random.integers(2, 5)), replace=False
            )
            goals.append(tuple(moved[n] for n in sorted(chosen)))
        changes = {
            cells
            for cells in goals
            if self.fixed({(n, cell): sign for cell in cells for n, sign in ((1, 1), (0, -1))})
        }
        hidden = {
            (number, cell)
            for number, seen in enumerate(self.seen)
            for cell, count in seen.items()
            if count is None and self.fixed({(number, cell): 1})
        }
        return changes, hidden


def attacked(tables, size, base):
    releases = [shown(table, size=size, base=base) for table in tables]
    return Attack(tables, releases, size, base).found()


@pytest.mark.parametrize("size", [5, 11])
def test_two_rounded_releases_fix_no_change_and_no_hidden_cell(size):
    """What is not rounded tells every change that it shows, and some of what it hides."""
    random = np.random.default_rng(3)
    told = Counter()
    for _ in range(4):
        tables = pair(random)
        assert attacked(tables, size, size) == (set(), set())
        for name, found in zip(("changes", "hidden"), attacked(tables, size, 0), strict=True):
            told[name] += len(found)
    assert told["changes"] > 20
    assert told["hidden"] == 5


def test_that_something_changed_is_told():
    """A limit that is known: counts that are rounded otherwise than before are others."""
    before = pa.table({"cnt": [60, 40, 20], "sex": [None, "f", "m"]})
    after = pa.table({"cnt": [62, 42, 20], "sex": [None, "f", "m"]})
    seen = set()
    for key in (bytes([n]) * 32 for n in range(60)):
        one, two = (
            attacker.cells(shown(t, size=11, base=11, key=key).table) for t in (before, after)
        )
        assert one["m",] == two["m",]
        seen.add(two["f",] - one["f",])
    assert seen == {-11, 0, 11}


def test_many_sums_of_the_same_people_tell_what_rounding_hides():
    """A limit that is known: a cube of many columns of few values shows each count many times over.

    The best guess of a cell by all sums is nearer than its own count, by a factor of sqrt(2 / 3) for each column of two values.
    """
    random = np.random.default_rng(3)
    columns = 7
    leaves = list(product("ab", repeat=columns))
    truth = {
        leaf: int(n) for leaf, n in zip(leaves, random.integers(15, 60, 2**columns), strict=True)
    }
    counts = Counter()
    for leaf, n in truth.items():
        for kept in product([True, False], repeat=columns):
            counts[tuple(v if k else None for v, k in zip(leaf, kept, strict=True))] += n
    table = pa.table(
        {"cnt": list(counts.values())}
        | {f"c{n}": pa.array([c[n] for c in counts], pa.string()) for n in range(columns)}
    )
    seen = attacker.cells(shown(table, size=11, base=11).table)
    place = {leaf: n for n, leaf in enumerate(leaves)}
    sums = np.zeros((len(seen), len(leaves)))
    for row, cell in enumerate(seen):
        for leaf in product(*("ab" if v is None else v for v in cell)):
            sums[row, place[leaf]] = 1
    guess = np.linalg.lstsq(sums, np.array([seen[c] for c in seen], float))[0]
    wrong = np.array([guess[place[leaf]] - n for leaf, n in truth.items()])
    alone = np.array([seen[leaf] - n for leaf, n in truth.items()])
    assert alone.std() > 3.5
    assert abs(wrong.std() / alone.std() - (2 / 3) ** (columns / 2)) < 0.1
    assert (abs(wrong) < 0.5).mean() < 0.5  # most of all guesses are still wrong


# In a workspace


def test_rules_that_tell_the_least_count_are_refused(tmp_path):
    for rules in ({"round_to": 4}, {"round_to": 1}, {"min_cell": 5, "round_to": 10}):
        with pytest.raises(Invalid, match="min_cell"):
            studying.workspace(
                tmp_path,
                **{"studies.core.min_cell": 11}
                | {f"studies.core.{k}": v for k, v in rules.items()},
            )


def test_what_is_not_rounded_is_as_ever_and_what_is_lies_beside_it(tmp_path):
    """Nothing is merged again, and neither policy takes the other's release for its own."""
    told = {}
    for base in (0, 5, 0, 10):
        rules = {"studies.core.min_cell": 10, "studies.core.round_to": base}
        with studying.workspace(tmp_path, **rules) as space:
            if not told:
                studying.send_cube(space, "a", wide_cube(1, 60))
            capability.run(space, "core")
            one = studying.package(space)
            assert one.round_to == base
            assert ("rounded_to" in one.marked) == (base > 0)
            kept = studying.below(space, "studies/core/merges/")
            entry = f"entry-10-1-{base}.json" if base else "entry-10-1.json"
            assert f"{one.released.key.rpartition('/')[0]}/{entry}" in kept
            assert told.setdefault(base, one.released) == one.released
            assert told.setdefault("merged", one.merged) == one.merged
            latest = space.ledger.latest("studies/core")
            assert ("round_to" in latest.provenance["config"]) == (base > 0)
            catalog = json.loads(space.store.read(f"{latest.location}catalog.json"))
            assert ("round_to" in catalog["cubes"][0]["merged"]) == (base > 0)
            assert [s.key for s in space.store.list("studies/") if "rounding" in s.key] == (
                ["studies/rounding.key"] if len(told) > 2 else []
            )
            assert not list(capability.orphans(space, grace=timedelta(seconds=-9)))
            assert one.total % max(base, 1) == 0
            studying.whole(space)
    assert len({told[base].key for base in (0, 5, 10)}) == 3


def test_a_release_made_anew_is_the_same(tmp_path):
    """Elsewhere, with the same key, and by whoever reprocesses it."""
    found = []
    for name in ("here", "there"):
        rules = {"studies.core.min_cell": 5, "studies.core.round_to": 5}
        with studying.workspace(tmp_path / name, **rules) as space:
            space.store.put("studies/rounding.key", KEY)
            studying.send_cube(space, "a", wide_cube(1, 60))
            actions.reprocess(library.house(space), "core")
            one = studying.package(space)
            found.append((one.released, one.csv))
    assert found[0] == found[1]

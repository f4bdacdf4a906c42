"""An attacker who knows all that is published, and how cubes are made; its own code throughout.

It knows which sums add up (gender has one value for each patient), that counts are whole and not
negative, and that a cell is never above its parents. It asks a solver for the least and the most
that each hidden cell can be; where they are the same, the cell is found out.
"""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import product

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_matrix

# ruff: noqa: C901 - one attack, read from top to bottom

type Cell = tuple[object, ...]


def cells(table) -> dict[Cell, int | None]:
    names = [name for name in table.column_names if name != "cnt"]
    columns = [table[name].to_pylist() for name in names]
    keys = zip(*columns, strict=True) if names else [() for _ in range(table.num_rows)]
    return dict(zip(keys, table["cnt"].to_pylist(), strict=True))


def groups(cube: dict[Cell, int | None]) -> dict[tuple[Cell, int], list[Cell]]:
    """Every parent and column, with the cells that split it there."""
    found = defaultdict(list)
    for cell in cube:
        for column, value in enumerate(cell):
            if value is not None:
                parent = (*cell[:column], None, *cell[column + 1 :])
                if parent in cube:
                    found[parent, column].append(cell)
    return found


def rests(truth: dict[Cell, int]) -> dict[tuple[Cell, int], int]:
    return {of: truth[of[0]] - sum(truth[c] for c in them) for of, them in groups(truth).items()}


def relations(truth, seen, *, site=None, absent=None):
    """All sums that hold: (parent, its parts, whether they are equal; else no part is above it).

    With ``absent``, the values of each column, cells that are not listed may be above 0 too: of
    people with one value in each column. Each site holds back its own: a cell over all sites, in the
    column ``site``, is the sum of what they listed, and lacks what they did not.
    """
    rest = rests(truth)
    split = groups(seen)
    if absent is None or not seen:
        for (parent, column), children in split.items():
            left = rest[parent, column]
            if left == 0:
                yield parent, children, True
            elif left > 0:
                yield parent, children, False
            else:
                yield from ((parent, [child], False) for child in children)
        return
    width = len(next(iter(seen), ()))
    values = [sorted({c[d] for c in seen} - {None}, key=str) for d in range(width)]
    for d, known in enumerate(absent):
        values[d] = sorted({*values[d], *known}, key=str)

    def parts(parent, column):
        return [(*parent[:column], v, *parent[column + 1 :]) for v in values[column]]

    own = [[None, *v] if d != site else v for d, v in enumerate(values)]
    for parent in product(*own):
        for column in range(width):
            if column != site and parent[column] is None:
                complete = rest.get((parent, column)) == 0
                all_ = split[parent, column] if complete else parts(parent, column)
                yield parent, all_, True
    for (parent, column), children in split.items():
        if column == site:
            yield parent, children, True
        elif site is not None and parent[site] is None:
            yield parent, children, rest[parent, column] == 0


def problem(truth, seen, *, site=None, absent=None):
    """What the attacker asks the solver: the place of each unknown cell, and the conditions."""
    sums_ = list(relations(truth, seen, site=site, absent=absent))
    used = {cell for parent, parts, _ in sums_ for cell in (parent, *parts)}
    hidden = [cell for cell, count in seen.items() if count is None]
    hidden += [cell for cell in used if cell not in seen]
    place = {cell: n for n, cell in enumerate(hidden)}
    systems = {"eq": [], "ub": []}
    for parent, parts, equal in sums_:
        row, known = defaultdict(int), 0
        for cell, sign in [(parent, -1), *((part, 1) for part in parts)]:
            if cell in place:
                row[place[cell]] += sign
            else:
                known += sign * seen[cell]
        if row:
            systems["eq" if equal else "ub"].append((row, -known))
        else:
            assert known == 0 if equal else known <= 0
    options = {"bounds": (0, None), "method": "highs"}
    for name, rows in systems.items():
        if rows:
            options[f"A_{name}"] = csr_matrix(
                (
                    [v for row, _ in rows for v in row.values()],
                    (
                        [n for n, (row, _) in enumerate(rows) for _ in row],
                        [k for row, _ in rows for k in row],
                    ),
                ),
                shape=(len(rows), len(hidden)),
            )
            options[f"b_{name}"] = [known for _, known in rows]
    return place, options


def interval(place, options, cell) -> list[float]:
    """The least and the most that a cell can be."""
    ends = []
    for sign in (1, -1):
        goal = np.zeros(len(place))
        goal[place[cell]] = sign
        answer = linprog(goal, **options)
        if answer.status == 3:  # without bound
            ends.append(-math.inf * sign)
            continue
        assert answer.status == 0, answer.message
        ends.append(answer.x[place[cell]])
    return ends


def solve(truth, seen, *, site=None, absent=None) -> dict[Cell, int]:
    """The cells that the attacker finds out, each with its count; 0 is no secret where absent."""
    place, options = problem(truth, seen, site=site, absent=absent)
    found = {}
    for cell in place:
        ends = interval(place, options, cell)
        if math.isfinite(ends[1]) and math.ceil(ends[0] - 1e-6) == math.floor(ends[1] + 1e-6):
            value = round(ends[0])
            if value or cell in seen:
                found[cell] = value
    return found


def subtract(truth, seen, *, absent=True) -> dict[Cell, int]:
    """What subtractions and bounds find out, one after another until nothing new is found.

    With ``absent``, also cells that are not listed, where no other cell could hold what is missing.
    """
    rest = rests(truth)
    least = {cell: 0 if count is None else count for cell, count in seen.items()}
    most = {cell: math.inf if count is None else count for cell, count in seen.items()}
    split = {of: list(them) for of, them in groups(seen).items()}
    if absent:
        candidates = missing(truth, rest)
        for cell in candidates:
            least[cell], most[cell] = 0, math.inf
        wider = groups(dict.fromkeys([*seen, *candidates]))
        split |= {of: them for of, them in wider.items() if of in rest}
    changed = set(least)

    def raise_(cell, value):
        if least[cell] < value <= most[cell]:  # beyond: what it believes contradicts itself
            least[cell] = value
            changed.add(cell)

    def lower(cell, value):
        if least[cell] <= value < most[cell]:
            most[cell] = value
            changed.add(cell)

    by_cell = defaultdict(list)
    for of, them in split.items():
        for cell in (of[0], *them):
            by_cell[cell].append(of)
    while changed:
        look = {of for cell in changed for of in by_cell[cell]}
        changed.clear()
        for of in look:
            parent, them = of[0], split[of]
            left = rest.get(of)
            for child in them:
                lower(child, most[parent])
                raise_(parent, least[child])
            if left is None or left < 0:
                continue
            lows = sum(least[c] for c in them)
            raise_(parent, lows)
            for child in them:
                lower(child, most[parent] - (lows - least[child]))
            if left == 0 or absent:
                highs = sum(most[c] for c in them)
                lower(parent, highs)
                for child in them:
                    others = (
                        highs - most[child]
                        if math.isfinite(highs)
                        else sum(most[c] for c in them if c != child)
                    )
                    if math.isfinite(others):
                        raise_(child, least[parent] - others)
    return {
        cell: least[cell]
        for cell in least
        if least[cell] == most[cell] and seen.get(cell) is None and (least[cell] or cell in seen)
    }


def missing(truth, rest) -> list[Cell]:
    """Cells that are not listed but may be above 0: something is missing in all of their sums."""
    width = len(next(iter(truth), ()))
    domains = [sorted({c[d] for c in truth} - {None}, key=str) for d in range(width)]
    tried: dict[Cell, bool] = {}

    def can(cell: Cell) -> bool:
        if cell not in tried:
            tried[cell] = all(
                rest.get((up, d), 1) != 0
                if (up := (*cell[:d], None, *cell[d + 1 :])) in truth
                else can(up)
                for d in range(width)
                if cell[d] is not None
            )
        return tried[cell]

    for (parent, d), left in rest.items():
        if left > 0:
            for value in domains[d]:
                cell = (*parent[:d], value, *parent[d + 1 :])
                if cell not in truth:
                    can(cell)
    return [cell for cell, ok in tried.items() if ok]

"""Charts: the reference's cases, people counted once, values that look like anything."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from itertools import product
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.core.errors import Invalid
from catchment.studies.charts.filters import OPERATORS, Condition, parse
from catchment.studies.charts.query import Cache, Chartable
from catchment.studies.disclosure import release

SHARED = Path(__file__).parents[3] / "shared"
CUBE = SHARED / "data" / "studies" / "mock_cube_col_types.parquet"
CASES = SHARED / "cases" / "charts.json"


def cases():
    return json.loads(CASES.read_text())["cases"] if CASES.exists() else []


@pytest.fixture(scope="module")
def mock():
    if not CUBE.exists():
        pytest.skip(f"no sample data: {CUBE}")
    return Chartable(CUBE)


@pytest.mark.parametrize("case", cases(), ids=lambda case: " ".join(case["filters"]))
def test_cases_of_the_reference(mock, case):
    answer = mock.chart(case["column"], None, parse(case["filters"]))
    assert answer["data"] == [{"rows": case["expected"]}]
    assert answer["suppressed"] == []
    assert answer["totalCount"] == sum(count for _, count in case["expected"])


def test_there_are_54_operators():
    assert len(OPERATORS) == 54


def test_any_of_two_counts_each_person_once(mock):
    filters = [
        "greek:strEq:alpha",
        "numeric:eq:1.1",
        "bool:isFalse",
        "timestamp:sameYear:2021-05-05",
    ]
    answer = mock.chart("nato", None, parse(filters))
    assert answer["totalCount"] == 60
    assert answer["data"] == [{"rows": [["alfa", 50], ["bravo", 10]]}]


def test_a_stratifier_splits(mock):
    answer = mock.chart("nato", "greek", parse(["greek:isNotNone"]))
    assert answer["counts"] == {"alpha": 50, "beta": 10}
    assert answer["data"] == [
        {"stratifier": "alpha", "rows": [["alfa", 40], ["bravo", 10]]},
        {"stratifier": "beta", "rows": [["alfa", 10]]},
    ]


@pytest.mark.parametrize("name", ["catchment rollup", "Catchment Rollup", "it's [a] b=1"])
def test_columns_and_folders_may_be_called_anything(tmp_path, name):
    (folder := tmp_path / "f=1 [x]* it's").mkdir()
    table = pa.table({"cnt": [5, 3], name: ["x", None], "site": pa.nulls(2, pa.string())})
    pq.write_table(table, folder / "cube.parquet")
    held = Chartable(folder / "cube.parquet")
    assert held.columns == [name, "site"]
    answer = held.chart(name, None, parse([]), sites=1)
    assert answer["data"] == [{"rows": [["x", 5]]}]


VALUES = [
    "O'Brien",
    "100%",
    "a_b",
    "axb",
    "1:2",
    "a,b",
    "2021-01-01T10:20:30",
    '"',
    "; DROP TABLE cells",
    "\\",
]


@pytest.fixture
def odd(tmp_path):
    counts = Counter(VALUES)
    table = pa.table(
        {
            "cnt": [20 * len(VALUES), *(20 * n for n in counts.values())],
            'na"me': [None, *counts],
        }
    )
    pq.write_table(table, tmp_path / "odd.parquet")
    return Chartable(tmp_path / "odd.parquet")


@pytest.mark.parametrize("value", VALUES)
def test_values_are_only_values(odd, value):
    where = json.dumps({"any": [{"all": [['na"me', "strEq", value]]}]})
    text = f"na%22me:strEq:{quote(value, safe='')}"
    for filters in (parse([], where), parse([text])):
        assert odd.chart('na"me', None, filters)["data"] == [{"rows": [[value, 20]]}]


def test_patterns_are_no_wildcards_of_sql(odd):
    answer = odd.chart('na"me', None, parse(['na"me:strContains:_']))
    assert answer["data"] == [{"rows": [["a_b", 20]]}]


def test_the_deepest_filter_that_is_allowed():
    text = '{"all":[' * 20 + '["a","isTrue"]' + "]}" * 20
    assert [one.column for one in parse([], text).conditions()] == ["a"]
    assert list(parse([], '["a","isTrue"]').conditions()) == [Condition("a", "isTrue")]


PEOPLE = list(product("abc", "xyz", "pq"))  # each at least once


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """A cube of people who differ in three columns, with all its roll-ups."""
    cells = Counter()
    for n, person in enumerate(PEOPLE):
        for kept in product((True, False), repeat=3):
            cells[tuple(v if k else None for v, k in zip(person, kept, strict=True))] += n + 20
    columns = dict(zip(("one", "two", "three"), zip(*cells, strict=True), strict=True))
    path = tmp_path_factory.mktemp("crowd") / "crowd.parquet"
    pq.write_table(pa.table({"cnt": list(cells.values()), **columns}), path)
    return Chartable(path)


LEAF = st.tuples(
    st.sampled_from(("one", "two", "three")),
    st.sampled_from(("strEq", "strNotEq")),
    st.sampled_from("abcxyzpq"),
).map(list)
TREE = st.recursive(
    LEAF,
    lambda inner: st.dictionaries(
        st.sampled_from(("any", "all")), st.lists(inner, max_size=4), min_size=1, max_size=1
    ),
    max_leaves=12,
)


def fits(tree, person):
    """The same said plainly; an empty group holds."""
    if isinstance(tree, list):
        column, operator, value = tree
        same = person[("one", "two", "three").index(column)] == value
        return same is (operator == "strEq")
    ((word, parts),) = tree.items()
    told = [fits(part, person) for part in parts]
    return all(told) if word == "all" else any(told) or not told


@given(TREE)
def test_groups_nest_as_one_would_count_by_hand(crowd, tree):
    wanted = Counter()
    for n, person in enumerate(PEOPLE):
        if fits(tree, person):
            wanted[person[0]] += n + 20
    answer = crowd.chart("one", None, parse([], json.dumps(tree)))
    assert dict(answer["data"][0]["rows"]) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "x",
        ":strEq:a",
        "a:nothing:b",
        "a:strEq",
        "a:eq:many",
        "a:eq:nan",
        "a:sameDay:then",
        "a:isTrue:1",
    ],
)
def test_a_bad_filter_is_told(text):
    with pytest.raises(Invalid) as caught:
        parse([text])
    assert caught.value.kind == "bad-filter"


@pytest.mark.parametrize(
    "where",
    [
        "[",
        "1",
        "{}",
        '{"any": [1]}',
        '{"any": [], "all": []}',
        '{"any": [{"all": [1]}]}',
        '{"any": [{"all": [[1, 2]]}]}',
        '{"any": [["a", "strEq", "b", "c"]]}',
        "[" * 5000,
        '{"any":[' * 21 + "]}" * 21,
        json.dumps({"all": [["a", "isTrue"]] * 101}),
    ],
)
def test_a_bad_json_filter_is_told(where):
    with pytest.raises(Invalid) as caught:
        parse([], where)
    assert caught.value.kind == "bad-filter"


def test_a_bad_pattern_and_a_bad_column_are_told(odd, mock):
    with pytest.raises(Invalid) as caught:
        odd.chart('na"me', None, parse(['na"me:matches:(']))
    assert caught.value.kind == "bad-filter"
    with pytest.raises(Invalid) as caught:
        mock.chart("nato", None, parse(["nobody:isNone"]))
    assert caught.value.kind == "no-column"
    with pytest.raises(Invalid):
        mock.chart("nato", "nato", parse([]))


def test_a_cube_of_very_many_columns_has_charts(tmp_path):
    names = [f"c{n:03}" for n in range(150)]
    rows = [[(5, {}), (3, {name: "x"}), (2, {name: "y"})][1:] for name in names]
    both = (4, {"c001": "x", "c063": "p", "c140": "q"})  # one in each number of a roll-up
    cells = [(5, {}), both, *(cell for some in rows for cell in some)]
    columns = {n: pa.array([c.get(n) for _, c in cells], pa.string()) for n in names}
    table = pa.table({"cnt": pa.array([count for count, _ in cells], pa.int64()), **columns})
    pq.write_table(table, tmp_path / "wide.parquet")
    wide = Chartable(tmp_path / "wide.parquet")
    for name in ("c000", "c061", "c062", "c123", "c124", "c149"):
        assert wide.chart(name, None, parse([]))["data"] == [{"rows": [["x", 3], ["y", 2]]}]
    told = wide.chart("c001", "c063", parse(["c140:strEq:q"]))
    assert told["data"] == [{"stratifier": "p", "rows": [["x", 4]]}]
    assert wide.chart("c001", "c063", parse([]))["data"] == []


def test_groups_of_truths_are_named_as_json_names_them(tmp_path):
    table = pa.table({"cnt": [5, 3, 2], "ill": [None, True, False], "a": [None, "x", "x"]})
    pq.write_table(table, tmp_path / "made.parquet")
    told = Chartable(tmp_path / "made.parquet").chart("a", "ill", parse([]))
    assert told["counts"] == {"false": 2, "true": 3}


def test_a_time_that_is_shown_is_found_again(tmp_path):
    times = [datetime(2024, 3, 1, 12), datetime(2024, 3, 2, 23, 30, 1, 500)]
    table = pa.table({"cnt": [9, 5, 4], "at": pa.array([None, *times], pa.timestamp("us"))})
    pq.write_table(table, tmp_path / "made.parquet")
    held = Chartable(tmp_path / "made.parquet")
    shown = held.chart("at", None, parse([]))["data"][0]["rows"]
    assert shown == [["2024-03-01T12:00:00", 5], ["2024-03-02T23:30:01.000500", 4]]
    for row in shown:
        asked = {"all": [["at", "strEq", row[0]]]}
        assert held.chart("at", None, parse([], json.dumps(asked)))["data"] == [{"rows": [row]}]
    told = held.chart("at", None, parse(["at:afterDay:2024-03-01T23:00:00"]))
    assert told["data"] == [{"rows": shown[1:]}]


def test_years_and_months_are_dates(tmp_path):
    values = [None, "2023", "2024", "2024-03", "none"]
    table = pa.table({"cnt": [14, 5, 4, 3, 2], "at": values})
    pq.write_table(table, tmp_path / "made.parquet")
    held = Chartable(tmp_path / "made.parquet")

    def found(text):
        return [value for value, _ in held.chart("at", None, parse([text]))["data"][0]["rows"]]

    assert found("at:sameYear:2024") == ["2024", "2024-03"]
    assert found("at:sameYearOrBefore:2023-07-01") == ["2023"]
    assert found("at:afterMonth:2024-02") == ["2024-03"]
    with pytest.raises(Invalid):
        parse(["at:sameYear:none"])


def test_suppressed_cells_are_marked(tmp_path):
    if not CUBE.exists():
        pytest.skip(f"no sample data: {CUBE}")
    table = pa.table({"cnt": [100, 60, 30, 7, 3], "a": [None, "x", "y", "z", "w"]})
    made = release(table, min_cell=5)
    pq.write_table(made.table, tmp_path / "made.parquet")
    answer = Chartable(tmp_path / "made.parquet").chart("a", None, parse([]))
    rows = dict(answer["data"][0]["rows"])
    assert rows["w"] is None
    assert [value for value, _ in answer["suppressed"]] == [v for v, c in rows.items() if c is None]
    assert answer["totalCount"] == sum(count or 0 for count in rows.values())


def test_the_cache_loads_a_version_once_and_lets_old_ones_go():
    if not CUBE.exists():
        pytest.skip(f"no sample data: {CUBE}")
    from contextlib import nullcontext

    opened = []

    def open_():
        opened.append(1)
        return nullcontext(CUBE)

    cache = Cache(rows=150)
    assert cache.get("a", open_) is cache.get("a", open_)
    cache.get("b", open_)
    cache.get("a", open_)
    assert len(opened) == 3


def test_a_column_may_be_called_as_ours(tmp_path):
    columns = {"cnt": [5, 3, 2], "catchment rollup": [None, "x", "y"]}
    pq.write_table(pa.table(columns), tmp_path / "made.parquet")
    told = Chartable(tmp_path / "made.parquet").chart("catchment rollup", None, parse([]))
    assert told["data"] == [{"rows": [["x", 3], ["y", 2]]}]


def test_a_table_without_counts_has_no_chart(tmp_path):
    pq.write_table(pa.table({"sex": ["f"]}), tmp_path / "made.parquet")
    with pytest.raises(Invalid) as caught:
        Chartable(tmp_path / "made.parquet")
    assert caught.value.kind == "not-a-cube"

# ruff: noqa: PT012 - what a block raises, as a whole, is what is shown
"""The contract of a warehouse: subclass :class:`WarehouseContract` to prove yours.

Needs pytest and Hypothesis.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from itertools import count
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catchment.core.errors import Conflict, Corrupt, Invalid
from catchment.core.store import Store, open_store
from catchment.core.warehouse import Relation, Source, Warehouse, load

PEOPLE = pa.schema([("id", pa.string()), ("n", pa.int64())])
_DAY = dt.date(2020, 2, 29)
_TIME = dt.datetime(2020, 2, 29, 1, 2, 3, 4567)  # noqa: DTZ001 - one without a zone is meant
# Type, values, and what a question shows of them.
_TYPES: tuple[tuple[pa.DataType, Sequence[Any]], ...] = (
    (pa.bool_(), [True, False]),
    (pa.int8(), [-128, 127]),
    (pa.int16(), [-(2**15), 2**15 - 1]),
    (pa.int32(), [-(2**31), 2**31 - 1]),
    (pa.int64(), [-(2**63), 2**63 - 1]),
    (pa.uint8(), [0, 255]),
    (pa.uint16(), [0, 2**16 - 1]),
    (pa.uint32(), [0, 2**32 - 1]),
    (pa.uint64(), [0, 2**64 - 1]),
    (pa.float32(), [0.5, -(2.0**100)]),
    (pa.float64(), [0.1, 1e300]),
    (pa.string(), ["", "é'\"\n"]),
    (pa.large_string(), ["a", "NULL"]),
    (pa.dictionary(pa.int8(), pa.string()), ["a", "b"]),
    (pa.binary(), [b"", b"\x00\xff"]),
    (pa.binary(2), [b"ab", b"\x00\x01"]),
    (pa.date32(), [_DAY, dt.date(1900, 1, 1)]),
    (pa.time32("ms"), [dt.time(1, 2, 3), dt.time(23, 59, 59, 999000)]),
    (pa.time64("us"), [dt.time(1, 2, 3, 4), dt.time(0, 0)]),
    (pa.timestamp("s"), [_TIME.replace(microsecond=0), dt.datetime(1970, 1, 1)]),  # noqa: DTZ001
    (pa.timestamp("us"), [_TIME, dt.datetime(1970, 1, 1)]),  # noqa: DTZ001
    (
        pa.timestamp("us", "UTC"),
        [_TIME.replace(tzinfo=dt.UTC), dt.datetime(1970, 1, 1, tzinfo=dt.UTC)],
    ),
    (pa.decimal128(10, 2), [Decimal("12345678.90"), Decimal("-0.01")]),
    (pa.decimal128(38, 3), [Decimal(10**34), Decimal("-0.001")]),
    (pa.null(), [None, None]),
)
_NESTED: tuple[tuple[pa.DataType, Sequence[Any]], ...] = (
    (pa.list_(pa.int64()), [[1, 2], []]),
    (pa.struct([("a", pa.int64()), ("b", pa.string())]), [{"a": 1, "b": "x"}, {"a": 2, "b": None}]),
)


def people(*rows: tuple[str | None, int | None]) -> pa.Table:
    """Rows of :data:`PEOPLE`."""
    return pa.table([[r[0] for r in rows], [r[1] for r in rows]], schema=PEOPLE)


def shown(warehouse: Warehouse, table: str = "people", columns: str = "id, n") -> list[Any]:
    """The rows of a table, in order."""
    query = f"SELECT {columns} FROM {table} ORDER BY {columns}"  # noqa: S608 - a test's own
    return [tuple(row) for row in warehouse.query(query)]


class WarehouseContract:
    """Override the fixture ``warehouse`` with an empty one that nobody else uses."""

    examples = 8
    odd = "Odd name'x"  # of a column

    @pytest.fixture
    def warehouse(self) -> Warehouse:
        raise NotImplementedError

    @pytest.fixture
    def another(self) -> Callable[[], Warehouse]:
        """Makes more empty ones."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, tmp_path_factory: pytest.TempPathFactory) -> Store:
        return open_store(tmp_path_factory.mktemp("objects").as_uri())

    @pytest.fixture
    def source(self, store: Store) -> Callable[[pa.Table], Source]:
        """Writes rows as an object."""
        numbers = count()

        def write(rows: pa.Table) -> Source:
            sink = io.BytesIO()
            pq.write_table(rows, sink)
            data = sink.getvalue()
            key = f"tables/{next(numbers)}/part.parquet"
            store.put(key, data)
            return Source(store, key, len(data), f"sha256:{hashlib.sha256(data).hexdigest()}")

        return write

    @pytest.fixture
    def relation(self, source: Callable[[pa.Table], Source]) -> Callable[..., Relation]:
        """A table that is one object; or one of partitions, by name."""

        def make(rows: pa.Table | None = None, **parts: pa.Table) -> Relation:
            if rows is not None:
                return Relation.whole(rows.schema, source(rows))
            schema = next(iter(parts.values())).schema
            return Relation(
                schema, {name: [source(t)] for name, t in parts.items()}, partitioned=True
            )

        return make

    def test_it_shows_nothing_before_the_first_snapshot(self, warehouse: Warehouse) -> None:
        assert warehouse.snapshot() is None

    def test_a_snapshot_is_shown_whole(
        self, warehouse: Warehouse, relation: Callable[..., Relation]
    ) -> None:
        tables = {"people": relation(people(("a", 1), ("b", None))), "more": relation(people())}
        assert load(warehouse, 3, lambda: tables) == {"people": 2, "more": 0}
        assert warehouse.snapshot() == 3
        assert shown(warehouse) == [("a", 1), ("b", None)]
        assert shown(warehouse, "more") == []
        assert warehouse.query("SELECT n FROM people WHERE id = ?", ["a"]) == [(1,)]

    def test_loading_again_loads_nothing(
        self, warehouse: Warehouse, relation: Callable[..., Relation]
    ) -> None:
        tables = {"people": relation(people(("a", 1)))}
        assert load(warehouse, 1, lambda: tables) == {"people": 1}
        assert load(warehouse, 1, lambda: tables) == {}
        assert load(warehouse, 2, lambda: tables) == {"people": 0}
        assert (warehouse.snapshot(), shown(warehouse)) == (2, [("a", 1)])

    def test_only_partitions_that_changed_are_loaded(
        self, warehouse: Warehouse, relation: Callable[..., Relation]
    ) -> None:
        first = relation(x=people(("a", 1)), y=people(("b", 2)), z=people(("c", 3)))
        load(warehouse, 1, lambda: {"people": first})
        changed = relation(y=people(("b", 5), ("d", 4)))
        second = Relation(
            first.schema, {"x": first.parts["x"], "y": changed.parts["y"]}, partitioned=True
        )
        assert load(warehouse, 2, lambda: {"people": second}) == {"people": 2}
        assert shown(warehouse) == [("a", 1), ("b", 5), ("d", 4)]
        found = shown(warehouse, columns="catchment_partition, n")
        assert found == [("x", 1), ("y", 4), ("y", 5)]

    def test_row_groups_of_one_object_are_parts(self, warehouse: Warehouse, store: Store) -> None:
        """Each is known by a digest of its own, and one that did not change is not loaded."""

        def snapshot(
            number: int, *groups: tuple[str, str, list[tuple[str, int]]]
        ) -> dict[str, Relation]:
            sink = io.BytesIO()
            with pq.ParquetWriter(sink, PEOPLE) as writer:
                for _, _, rows in groups:
                    writer.write_table(people(*rows))
            key = f"tables/{number}.parquet"
            store.put(key, sink.getvalue())
            whole = Source(store, key, len(sink.getvalue()), f"sha256:{number}")
            parts = {
                name: [whole._replace(digest=digest, groups=(n, n + 1))]
                for n, (name, digest, _) in enumerate(groups)
            }
            return {"people": Relation(PEOPLE, parts, partitioned=True)}

        first = snapshot(1, ("x", "1", [("a", 1)]), ("y", "2", [("b", 2), ("c", 3)]))
        assert load(warehouse, 1, lambda: first) == {"people": 3}
        second = snapshot(2, ("w", "3", [("d", 4)]), ("x", "1", [("a", 1)]), ("y", "4", [("b", 5)]))
        assert load(warehouse, 2, lambda: second) == {"people": 2}
        assert shown(warehouse, columns="catchment_partition, id, n") == [
            ("w", "d", 4),
            ("x", "a", 1),
            ("y", "b", 5),
        ]
        with warehouse.change() as change:
            assert change.partitions("people").keys() == {"w", "x", "y"}

    def test_constants_are_those_of_the_latest_snapshot(
        self, warehouse: Warehouse, source: Callable[[pa.Table], Source]
    ) -> None:
        def row(id_: str, day: str) -> Source:
            return source(pa.table({"id": [id_], "day": [day]}))

        schema = pa.schema([("id", pa.string()), ("day", pa.string())])
        parts = {"x": [row("a", "1")], "y": [row("b", "1")]}
        one = Relation(schema, parts, partitioned=True, constants={"day": "1"})
        load(warehouse, 1, lambda: {"people": one})
        parts = {"x": parts["x"], "y": [row("c", "2")]}
        two = Relation(schema, parts, partitioned=True, constants={"day": "2"})
        assert load(warehouse, 2, lambda: {"people": two}) == {"people": 1}
        assert shown(warehouse, columns="id, day") == [("a", "2"), ("c", "2")]
        with pytest.raises(ZeroDivisionError), warehouse.change(3) as change:
            change.assign("people", {"day": "3"})
            raise ZeroDivisionError
        assert shown(warehouse, columns="id, day") == [("a", "2"), ("c", "2")]

    def test_a_table_that_is_gone_is_dropped(
        self, warehouse: Warehouse, relation: Callable[..., Relation]
    ) -> None:
        load(warehouse, 1, lambda: {"people": relation(people()), "old": relation(people())})
        load(warehouse, 2, lambda: {"people": relation(people(("a", 1)))})
        with pytest.raises(Exception, match=r"(?i)old|2003"):
            shown(warehouse, "old")
        load(warehouse, 3, lambda: {"old": relation(people(("b", 2)))})
        assert shown(warehouse, "old") == [("b", 2)]

    def test_an_error_takes_all_back(
        self,
        warehouse: Warehouse,
        relation: Callable[..., Relation],
        source: Callable[[pa.Table], Source],
    ) -> None:
        load(warehouse, 1, lambda: {"people": relation(people(("a", 1))), "b": relation(people())})
        with pytest.raises(ZeroDivisionError), warehouse.change(2) as change:
            change.create("more", PEOPLE)
            change.replace("people", "", [source(people(("b", 2)))])
            change.replace("more", "", [source(people(("c", 3)))])
            change.drop("b")
            raise ZeroDivisionError
        assert (warehouse.snapshot(), shown(warehouse)) == (1, [("a", 1)])
        assert shown(warehouse, "b") == []
        again = {"people": relation(people(("b", 2))), "more": relation(people(("c", 3)))}
        assert load(warehouse, 2, lambda: again) == {"people": 1, "more": 1}

    def test_columns_may_change(
        self, warehouse: Warehouse, relation: Callable[..., Relation]
    ) -> None:
        old = pa.table({"id": ["a"], "n": pa.array([1], pa.int64()), "gone": [True]})
        new = pa.table({"id": ["a", "b"], "n": ["one", "2"], "came": [0.5, None]})
        load(warehouse, 1, lambda: {"people": relation(old)})
        assert load(warehouse, 2, lambda: {"people": relation(new)}) == {"people": 2}
        assert shown(warehouse, columns="id, n, came") == [("a", "one", 0.5), ("b", "2", None)]
        load(warehouse, 3, lambda: {"people": relation(old)})
        assert shown(warehouse, columns="id, n, gone") == [("a", 1, True)]

    def test_columns_that_change_in_a_change_that_fails_keep_their_rows(
        self,
        warehouse: Warehouse,
        relation: Callable[..., Relation],
        source: Callable[[pa.Table], Source],
    ) -> None:
        load(warehouse, 1, lambda: {"people": relation(people(("a", 1), ("b", 2)))})
        new = pa.table({"id": ["c"], "n": ["x"]})
        with pytest.raises(ZeroDivisionError), warehouse.change(2) as change:
            change.create("people", new.schema)
            change.replace("people", "", [source(new)])
            raise ZeroDivisionError
        found = [(id_, str(n)) for id_, n in shown(warehouse)]
        assert found == [("a", "1"), ("b", "2")]
        load(warehouse, 2, lambda: {"people": relation(new)})
        assert shown(warehouse) == [("c", "x")]

    def test_a_slow_loader_undoes_nothing(
        self, warehouse: Warehouse, relation: Callable[..., Relation]
    ) -> None:
        load(warehouse, 5, lambda: {"people": relation(people(("new", 5)))})
        assert load(warehouse, 4, lambda: {"people": relation(people(("old", 4)))}) == {}
        with pytest.raises(Conflict) as caught, warehouse.change(4) as change:
            change.drop("people")
        assert caught.value.kind == "warehouse-newer"
        assert (warehouse.snapshot(), shown(warehouse)) == (5, [("new", 5)])

    def test_a_merge_knows_rows_by_their_keys(
        self, warehouse: Warehouse, source: Callable[[pa.Table], Source]
    ) -> None:
        rows = source(people(("a", 1), ("b", 2), ("d", None)))
        more = source(people(("b", 5), ("c", 3), ("a", None)))
        for _ in range(2):  # a second time changes nothing
            with warehouse.change() as change:
                change.create("people", PEOPLE, keys=["id"])
                assert change.merge("people", [rows]) == 3
                assert change.merge("people", [more]) == 3
            assert shown(warehouse) == [("a", None), ("b", 5), ("c", 3), ("d", None)]
        for wrong in (people(("e", 1), ("e", 2)), people((None, 1))):
            with pytest.raises(Invalid) as caught, warehouse.change() as change:
                change.merge("people", [source(wrong)])
            assert caught.value.kind == "warehouse-keys"
        assert len(shown(warehouse)) == 4

    def test_a_merge_needs_keys(
        self, warehouse: Warehouse, source: Callable[[pa.Table], Source]
    ) -> None:
        with pytest.raises(Invalid) as caught, warehouse.change() as change:
            change.create("people", PEOPLE)
            change.merge("people", [source(people())])
        assert caught.value.kind == "warehouse-keys"

    def test_tables_are_created_before_rows_change(
        self, warehouse: Warehouse, source: Callable[[pa.Table], Source]
    ) -> None:
        with pytest.raises(Invalid) as caught, warehouse.change() as change:
            change.create("people", PEOPLE)
            change.replace("people", "", [source(people())])
            change.create("more", PEOPLE)
        assert caught.value.kind == "late-create"
        with pytest.raises(Invalid) as caught, warehouse.change() as change:
            change.replace("nothing", "", [source(people())])
        assert caught.value.kind == "late-create"

    def test_what_is_loaded_has_the_types_of_the_table(
        self,
        warehouse: Warehouse,
        relation: Callable[..., Relation],
        source: Callable[[pa.Table], Source],
    ) -> None:
        load(warehouse, 1, lambda: {"people": relation(people(("a", 1)))})
        for other in (
            pa.table({"id": ["b"], "n": [2.5]}),
            pa.table({"id": ["b"]}),
            pa.table({"id": ["b"], "n": [1], "more": [1]}),
        ):
            with pytest.raises(Invalid) as caught, warehouse.change(2) as change:
                change.replace("people", "", [source(other)])
            assert caught.value.kind == "warehouse-type"
            assert (warehouse.snapshot(), shown(warehouse)) == (1, [("a", 1)])

    def test_what_an_object_of_an_earlier_version_lacks_is_null(
        self,
        warehouse: Warehouse,
        relation: Callable[..., Relation],
        source: Callable[[pa.Table], Source],
    ) -> None:
        rows = pa.table({"id": ["a"]})
        old = source(rows)._replace(may_lack=True)
        load(warehouse, 1, lambda: {"people": Relation(rows.schema, {"x": [old]}, True)})
        wanted = relation(y=people(("b", 2)))
        wanted = wanted._replace(parts={**wanted.parts, "x": [old]})
        assert load(warehouse, 2, lambda: {"people": wanted}) == {"people": 2}
        assert shown(warehouse) == [("a", None), ("b", 2)]
        for other in (pa.table({"id": [1]}), pa.table({"id": ["b"], "more": [1]})):
            with pytest.raises(Invalid) as caught, warehouse.change(3) as change:
                change.replace("people", "x", [source(other)._replace(may_lack=True)])
            assert caught.value.kind == "warehouse-type"
        assert shown(warehouse) == [("a", None), ("b", 2)]

    def test_an_object_that_is_no_parquet_changes_nothing(
        self, warehouse: Warehouse, relation: Callable[..., Relation], store: Store
    ) -> None:
        load(warehouse, 1, lambda: {"people": relation(people(("a", 1)))})
        store.put("bad", b"PAR1 no such thing PAR1")
        bad = Source(store, "bad", 23, "sha256:00")
        with pytest.raises(Corrupt), warehouse.change(2) as change:
            change.replace("people", "", [bad])
        assert (warehouse.snapshot(), shown(warehouse)) == (1, [("a", 1)])

    def test_a_table_of_somebody_else_is_left_alone(
        self, warehouse: Warehouse, source: Callable[[pa.Table], Source]
    ) -> None:
        with warehouse.change() as change:
            change.create("ours", PEOPLE)
        self.foreign(warehouse)
        with pytest.raises(Conflict) as caught, warehouse.change() as change:
            change.create("theirs", PEOPLE)
            change.replace("theirs", "", [source(people())])
        assert caught.value.kind == "warehouse-taken"
        with warehouse.change() as change:
            change.drop("theirs")
            assert change.tables() == {"ours"}
        assert warehouse.query("SELECT * FROM theirs") == [(7,)]

    def foreign(self, warehouse: Warehouse) -> None:
        """Make a table ``theirs`` with one row, the number 7."""
        raise NotImplementedError

    @pytest.mark.parametrize("column", _TYPES + _NESTED, ids=lambda c: str(c[0]))
    def test_values_of_all_types_are_what_they_were(
        self,
        warehouse: Warehouse,
        relation: Callable[..., Relation],
        column: tuple[pa.DataType, Sequence[Any]],
    ) -> None:
        kind, values = column
        rows = pa.table({"i": [0, 1, 2], self.odd: pa.array([*values, None], kind)})
        load(warehouse, 1, lambda: {"typed": relation(rows)})
        column_ = f'"{self.odd}"' if warehouse.name == "duckdb" else f'"{self.odd.upper()}"'
        none = [not any(value is not None for value in values)] * 2 + [True]
        asked = warehouse.query(f"SELECT i, {column_} IS NULL FROM typed ORDER BY i")  # noqa: S608
        assert [bool(row[1]) for row in asked] == none
        query = f"SELECT i, {column_} FROM typed WHERE {column_} IS NOT NULL"  # noqa: S608
        found = [row[1] for row in sorted(warehouse.query(query))]
        if (kind, values) in _NESTED:
            found = [json.loads(v) if isinstance(v, str) else v for v in found]
            found = [{"b": None} | v if isinstance(v, dict) else v for v in found]
        assert found == [value for value in values if value is not None]

    @pytest.mark.parametrize(
        "schema",
        [
            pa.schema([("d", pa.decimal256(50, 0))]),
            pa.schema([("d", pa.list_(pa.decimal256(50, 0)))]),
            pa.schema([("d", pa.struct([("x", pa.decimal256(50, 0))]))]),
            pa.schema([("d", pa.map_(pa.string(), pa.decimal256(50, 0)))]),
            pa.schema([("d", pa.month_day_nano_interval())]),
        ],
        ids=str,
    )
    def test_a_type_that_cannot_be_held_is_refused(
        self, warehouse: Warehouse, schema: pa.Schema
    ) -> None:
        with pytest.raises(Invalid) as caught, warehouse.change() as change:
            change.create("t", schema)
        assert caught.value.kind == "warehouse-type"

    @pytest.mark.parametrize("names", [["a", "A"], ["Catchment_Partition"], []])
    def test_names_that_cannot_be_told_apart_are_refused(
        self, warehouse: Warehouse, names: list[str]
    ) -> None:
        with pytest.raises(Invalid) as caught, warehouse.change() as change:
            change.create("t", pa.schema([(name, pa.int64()) for name in names]))
        assert caught.value.kind == "warehouse-columns"

    def test_it_always_shows_the_latest_snapshot(
        self, another: Callable[[], Warehouse], relation: Callable[..., Relation]
    ) -> None:
        """Whatever the snapshots before it were: the model is a dictionary."""
        shapes: Mapping[str, pa.DataType] = {"int": pa.int64(), "text": pa.string()}
        part = st.lists(st.integers(0, 3), max_size=3)
        table = st.tuples(
            st.sampled_from(sorted(shapes)),
            st.dictionaries(st.sampled_from("xyz"), part, min_size=1),
        )
        snapshot = st.dictionaries(st.sampled_from(["t", "u"]), table, max_size=2)
        made: dict[str, Relation] = {}

        def of(kind: str, parts: dict[str, list[int]]) -> Relation:
            def rows(values: list[int]) -> pa.Table:
                texts = [str(v) for v in values] if kind == "text" else values
                return pa.table({"v": pa.array(texts, shapes[kind])})

            for name, values in parts.items():
                text = f"{kind}{values}"
                if text not in made:
                    made[text] = relation(rows(values))
                _ = name
            return Relation(
                pa.schema([("v", shapes[kind])]),
                {n: made[f"{kind}{v}"].parts[""] for n, v in parts.items()},
                partitioned=True,
            )

        @settings(
            max_examples=self.examples,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        )
        @given(st.lists(snapshot, min_size=1, max_size=4))
        def follow(snapshots: list[dict[str, tuple[str, dict[str, list[int]]]]]) -> None:
            warehouse = another()
            for number, wanted in enumerate(snapshots, 1):
                load(warehouse, number, lambda w=wanted: {n: of(*t) for n, t in w.items()})  # type: ignore[misc]
                for name, (_, parts) in wanted.items():
                    expected = sorted((p, str(v)) for p, values in parts.items() for v in values)
                    query = f"SELECT catchment_partition, v FROM {name}"  # noqa: S608 - ours
                    assert sorted((p, str(v)) for p, v in warehouse.query(query)) == expected
                with warehouse.change() as change:
                    assert change.tables() == wanted.keys()

        follow()

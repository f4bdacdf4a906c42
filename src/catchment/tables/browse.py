"""What people look at in a snapshot of tables: shares, drift, differences, rows. Plain types."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from catchment.core.account import Account
from catchment.core.ledger import Snapshot
from catchment.core.store_file import seekable
from catchment.tables.snapshot import Table

ROWS = "rows"


def tables_of(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Each table: rows, bytes, columns, and what each site gave to it."""
    account = Account.from_json(snapshot.provenance["catchment"]["account"])
    lines: dict[str, list[dict[str, Any]]] = {}
    for line, balance in account:
        if line.unit == ROWS:
            told = {"site": line.site, "received": balance.received, "kept": balance.kept}
            told |= {"dropped": dict(balance.dropped), "quarantined": dict(balance.quarantined)}
            lines.setdefault(line.part, []).append(told)
    return [
        {
            "table": item["table"],
            "rows": item["rows"],
            "bytes": item["size"],
            "digest": item["digest"],
            "key": item["key"],
            "columns": dict(snapshot.provenance["tables"][item["table"]]["columns"]),
            "sites": lines.get(item["table"], []),
        }
        for item in sorted(_objects(snapshot), key=lambda o: str(o["table"]))
    ]


def drift_of(snapshot: Snapshot) -> dict[str, Any]:
    """Site by table: how many columns differ there from what the table became, and how."""
    cells: dict[str, dict[str, Counter[str]]] = {}
    columns = []
    for table, facts in sorted(snapshot.provenance["tables"].items()):
        for item in facts["drift"]:
            columns.append({"table": table} | item)
            for site, kinds in item["sites"].items():
                if kinds != [item["type"]]:
                    action = item["action"] if kinds else "missing"
                    cells.setdefault(site, {}).setdefault(table, Counter())[action] += 1
    return {
        "sites": {
            site: {table: dict(sorted(counts.items())) for table, counts in found.items()}
            for site, found in sorted(cells.items())
        },
        "columns": columns,
    }


def difference(old: Snapshot, new: Snapshot) -> dict[str, Any]:
    """What the newer of two snapshots has otherwise: tables, columns, and rows by site."""
    before = {one["table"]: one for one in tables_of(old)}
    after = {one["table"]: one for one in tables_of(new)}
    tables = []
    for name in sorted(before | after):
        was, now = before.get(name), after.get(name)
        had, has = (one["columns"] if one else {} for one in (was, now))
        rows_was, rows_now = _kept(was), _kept(now)
        sites = [
            {"site": site, "was": rows_was.get(site, 0), "now": rows_now.get(site, 0)}
            for site in sorted(rows_was | rows_now)
            if rows_was.get(site, 0) != rows_now.get(site, 0)
        ]
        tables.append(
            {
                "table": name,
                "state": "new" if was is None else "gone" if now is None else "both",
                "same": bool(was and now and was["digest"] == now["digest"]),
                "rows_was": was["rows"] if was else 0,
                "rows_now": now["rows"] if now else 0,
                "columns_new": sorted(set(has) - set(had)),
                "columns_gone": sorted(set(had) - set(has)),
                "columns_changed": [
                    {"column": c, "was": had[c], "now": has[c]}
                    for c in sorted(set(had) & set(has))
                    if had[c] != has[c]
                ],
                "sites": sites,
            }
        )
    versions = [one.provenance["dataset_aggregator"]["latest_versions"] for one in (old, new)]
    return {
        "old": old.number,
        "new": new.number,
        "tables": tables,
        "versions": [
            {"site": site, "was": versions[0].get(site), "now": versions[1].get(site)}
            for site in sorted(versions[0] | versions[1])
            if versions[0].get(site) != versions[1].get(site)
        ],
    }


def rows_of(table: Table, most: int) -> dict[str, Any]:
    """The first rows of a table; only as much of it is read as they need."""
    import pyarrow.parquet as pq

    with (
        seekable(table.store, table.key, table.size, whole=False) as opened,
        pq.ParquetFile(opened) as file,
    ):
        names = file.schema_arrow.names
        batch = next(file.iter_batches(most, use_threads=False), None) if most else None
        found = [] if batch is None else batch.slice(0, most).to_pylist()
    return {
        "columns": names,
        "rows": [[_cell(row[name]) for name in names] for row in found],
        "of": table.rows,
    }


def _objects(snapshot: Snapshot) -> Iterator[Mapping[str, Any]]:
    return (item for item in snapshot.provenance["objects"] if item["role"] == "table")


def _kept(table: Mapping[str, Any] | None) -> dict[str, int]:
    return {line["site"]: line["kept"] for line in table["sites"]} if table else {}


def _cell(value: Any) -> Any:
    """A cell as JSON can say it."""
    return value if value is None or isinstance(value, bool | int | str) else str(value)

"""Making the warehouse of the settings show a snapshot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from catchment.core.errors import Conflict
from catchment.core.finding import Finding
from catchment.core.sections import WarehouseSettings
from catchment.core.warehouse.model import Relation, Warehouse, digest_of
from catchment.core.workspace import Workspace


def open_warehouse(settings: WarehouseSettings, schema: str, lake: str = "") -> Warehouse | None:
    """The warehouse of the settings, one schema of it; None where they name none.

    ``lake`` is the URL of the workspace's store.
    """
    if settings.kind == "duckdb":
        from catchment.core.warehouse.duck import DuckDBWarehouse

        return DuckDBWarehouse(Path(settings.file), schema)
    if settings.kind == "snowflake":
        from catchment.core.warehouse.snow import SnowflakeWarehouse

        return SnowflakeWarehouse(settings, schema, lake)
    return None


def load(
    warehouse: Warehouse, number: int, relations: Callable[[], Mapping[str, Relation]]
) -> dict[str, int]:
    """Show this snapshot from now on, or, if that fails, the one before; one transaction.

    Only what changed is loaded, and nothing where this snapshot, or a later one, is shown already.
    Returns how many rows of each table were loaded.
    """
    shown = warehouse.snapshot()
    if shown is not None and shown >= number:
        return {}
    wanted = relations()
    loaded: dict[str, int] = {}
    try:
        with warehouse.change(number) as change:
            for table, relation in wanted.items():
                change.create(table, relation.schema, partitioned=relation.partitioned)
            for table, relation in wanted.items():
                known = change.partitions(table)
                for part in sorted(known.keys() - relation.parts.keys()):
                    change.replace(table, part, [])
                loaded[table] = sum(
                    change.replace(table, part, sources)
                    for part, sources in relation.parts.items()
                    if known.get(part, "") != digest_of(sources)
                )
                if relation.constants:
                    change.assign(table, relation.constants)
            for table in sorted(change.tables() - wanted.keys()):
                change.drop(table)
    except Conflict as error:
        if error.kind != "warehouse-newer":
            raise
        return {}
    return loaded


def schema_of(aggregate: str) -> str:
    """The schema of an aggregate: ``tables/nacc`` is ``tables_nacc``."""
    return aggregate.replace("/", "_").replace("-", "_").replace(".", "_")


def follow(
    workspace: Workspace,
    aggregate: str,
    number: int,
    relations: Callable[[], Mapping[str, Relation]],
) -> list[Finding]:
    """After a publication: whatever the settings name shows this snapshot, too.

    Told is what is not there as it is in the snapshot.
    """
    warehouse = open_warehouse(
        workspace.settings.warehouse, schema_of(aggregate), workspace.store.url
    )
    if warehouse is not None:
        load(warehouse, number, relations)
    if workspace.settings.iceberg.catalog != "none":
        from catchment.core import iceberg

        return iceberg.follow(workspace, aggregate, number, relations)
    return []

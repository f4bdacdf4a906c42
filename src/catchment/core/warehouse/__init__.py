"""Warehouses: databases that show the tables of snapshots, so that they are asked in SQL.

One protocol, :class:`Warehouse`, with DuckDB files and Snowflake; :func:`open_warehouse` opens what
the settings name for an aggregate, :func:`load` makes it show a snapshot.
"""

from catchment.core.warehouse.load import follow, load, open_warehouse
from catchment.core.warehouse.model import Change, Relation, Source, Warehouse

__all__ = ["Change", "Relation", "Source", "Warehouse", "follow", "load", "open_warehouse"]

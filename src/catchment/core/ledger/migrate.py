"""Bring a database to the schema of this version; safe when many processes open it at once."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable

from catchment.core.errors import Invalid
from catchment.core.ledger.database import Database
from catchment.core.ledger.schema import metadata

HEAD = "0005"  # the last of migrations/versions
VERSION_TABLE = "catchment_version"
_REGISTERED = "SELECT to_regclass(:name)"
_LOCK = 0x43617463686D656E  # "Catchmen": the advisory lock that migrations take on PostgreSQL
_versions = sa.Table(  # as Alembic makes it
    VERSION_TABLE,
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"),
)
_known: dict[str, list[str]] = {}  # what makes the tables, by the database's dialect


def migrate(database: Database) -> None:
    """Create or upgrade the schema in one transaction; at HEAD already, it reads one row.

    Raises:
        Invalid: kind ``ledger-newer`` if a later version of Catchment made it, ``not-a-ledger``
            if other tables live there.
    """
    if database.read(lambda c: _version(c, database.name)) != HEAD:
        database.write(lambda c: _bring(c, database.name))


def _version(c: sa.Connection, name: str) -> str:
    """The schema's version; empty for an empty database."""
    # One question that costs nothing, at every start of the program; a list of tables does.
    sqlite = c.dialect.name == "sqlite"
    asked = "SELECT name FROM sqlite_master WHERE name = :name" if sqlite else _REGISTERED
    if c.scalar(sa.text(asked), {"name": VERSION_TABLE}) is None:
        tables = sa.inspect(c).get_table_names()
        if not tables:
            return ""
        if VERSION_TABLE not in tables:  # else another process has made it since the question
            raise Invalid(
                f"{name}: expected a ledger or an empty database, got other tables",
                kind="not-a-ledger",
                hint="give the ledger a database of its own",
            )
    version = c.scalar(sa.select(sa.column("version_num")).select_from(sa.table(VERSION_TABLE)))
    if version is not None and version > HEAD:
        raise Invalid(
            f"{name}: expected a ledger of version {HEAD} or older, got version {version}",
            kind="ledger-newer",
            hint="pip install --upgrade catchment",
        )
    return version or ""


def _bring(c: sa.Connection, name: str) -> None:
    if c.dialect.name == "postgresql":
        c.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    version = _version(c, name)
    if not version:
        _create(c)
    elif version != HEAD:  # else another process was first
        upgrade(c)


def _create(c: sa.Connection) -> None:
    """Make a new ledger's tables at once: a tenth of what its migrations cost."""
    for statement in _statements(c.dialect):
        c.exec_driver_sql(statement)
    c.execute(sa.insert(_versions), {"version_num": HEAD})


def _statements(dialect: sa.Dialect) -> list[str]:
    if not (known := _known.get(dialect.name)):
        made: list[sa.ClauseElement] = []
        for table in (*metadata.sorted_tables, _versions):
            indexes = sorted(table.indexes, key=lambda index: str(index.name))
            made += [CreateTable(table), *map(CreateIndex, indexes)]
        known = _known[dialect.name] = [str(one.compile(dialect=dialect)) for one in made]
    return known


def upgrade(c: sa.Connection, to: str = "head") -> None:
    """Take the migrations up to a version, in this transaction."""
    from alembic import command  # 0.2 s, needed where an older ledger is opened
    from alembic.config import Config

    config = Config(attributes={"connection": c, "version_table": VERSION_TABLE})
    folder = str(Path(__file__).with_name("migrations"))
    config.set_main_option("script_location", folder.replace("%", "%%"))
    command.upgrade(config, to)

"""A warehouse in Snowflake.

Files go by PUT to a stage of ours, or lie in an external one that shows the store; COPY INTO loads
them.

A statement that makes or drops a table ends Snowflake's transaction, so none stands in one. Readers
ask views; rows are in tables whose names end in a digest of their columns. Where the columns of a
table change, its view shows both old and new table while the old rows are deleted and the new ones
loaded in one transaction; columns whose types differ are text until it is settled.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from catchment.core.errors import Invalid, Unavailable
from catchment.core.scratch import scratch_folder
from catchment.core.sections import WarehouseSettings
from catchment.core.warehouse.model import PARTITION, Change, Source
from catchment.core.warehouse.sql import RECORDS, SNAPSHOT, TABLES, Known, Shape, SqlChange
from catchment.core.warehouse.types import quoted, snowflake_type

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection

STAGE = "CATCHMENT"
FORMAT = "FILE_FORMAT = (TYPE = PARQUET USE_LOGICAL_TYPE = TRUE BINARY_AS_TEXT = FALSE)"
_PATIENCE = 600  # seconds that one statement may take to be answered
_PLAIN = re.compile(r"[A-Za-z0-9_./=-]+")  # of a key that needs no quotes of its own
_FILE = "part.parquet"
_MISSING = {2003, 2043}  # errno of what is not there


class SnowflakeWarehouse:
    """A schema of a Snowflake database, reached by the official connector."""

    name = "snowflake"

    def __init__(self, settings: WarehouseSettings, schema: str, lake: str = "") -> None:
        """Invalid (kind ``bad-warehouse``) where the settings name no account or database.

        ``lake`` is the URL of the store that the external stage of the settings shows.
        """
        if not (settings.account and settings.user and settings.database):
            raise Invalid(
                "a Snowflake warehouse needs an account, a user and a database",
                kind="bad-warehouse",
                hint="set warehouse.account, warehouse.user and warehouse.database",
            )
        self._settings = settings
        self._lake = lake if settings.stage else ""
        self._schema = schema.upper().replace("-", "_").replace(".", "_")

    def snapshot(self) -> int | None:
        """See :class:`~.model.Warehouse`."""
        rows = self._ask(f"SELECT number FROM {SNAPSHOT}")  # noqa: S608 - ours
        return int(rows[0][0]) if rows else None

    def tables(self) -> set[str]:
        """See :class:`~.model.Warehouse`."""
        return {row[0] for row in self._ask(f"SELECT name FROM {TABLES} WHERE place <> ''")}  # noqa: S608

    def _ask(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a question to our records; none where there are none yet."""
        with self._session() as connection:
            try:
                return _run(connection, sql)
            except Invalid as error:
                if _errno(error) in _MISSING:
                    return []
                raise

    @contextmanager
    def change(self, number: int | None = None) -> Iterator[Change]:
        """See :class:`~.model.Warehouse`."""
        with self._session() as connection:
            _run(connection, f"CREATE SCHEMA IF NOT EXISTS {quoted(self._schema)}")
            _run(connection, f"USE SCHEMA {quoted(self._schema)}")
            for record in RECORDS:
                _run(connection, record)
            _run(connection, f"CREATE STAGE IF NOT EXISTS {STAGE}")
            change = _Change(
                connection, f"schema {self._schema}", number, self._settings.stage or "", self._lake
            )
            change.settle()
            try:
                yield change
                change.start()
                _run(connection, "COMMIT")
            except BaseException:
                with suppress(Invalid, Unavailable):
                    _run(connection, "ROLLBACK")
                raise
            change.settle()

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """See :class:`~.model.Warehouse`."""
        with self._session() as connection:
            return _run(connection, sql, parameters)

    @contextmanager
    def _session(self) -> Iterator[SnowflakeConnection]:
        try:
            from snowflake import connector
        except ImportError:
            raise Invalid(
                "a Snowflake warehouse needs its connector, which is not installed",
                kind="missing-extra",
                hint="pip install 'catchment[snowflake]'",
            ) from None
        with _told():
            connection = connector.connect(**self._options())
        try:
            yield connection
        finally:
            with suppress(connector.Error):
                connection.close()

    def _options(self) -> dict[str, Any]:
        """What the connector is told; secrets in the clear."""
        given = self._settings
        options: dict[str, Any] = {
            "account": given.account,
            "user": given.user,
            "role": given.role,
            "warehouse": given.compute,
            "database": given.database,
            "schema": self._schema,
            "private_key_file": given.private_key_file,
            "password": given.password.get_secret_value() if given.password else None,
            "paramstyle": "qmark",
            "application": "catchment",
            "login_timeout": 30,
            "network_timeout": _PATIENCE,
            "session_parameters": {"TIMEZONE": "UTC", "CLIENT_TELEMETRY_ENABLED": False},
        }
        if given.endpoint is not None:
            url = urlsplit(given.endpoint)
            options |= {"host": url.hostname, "port": url.port, "protocol": url.scheme}
        return {name: value for name, value in options.items() if value is not None}


def _errno(error: Invalid) -> int:
    """The database's own number of the reason for which it refused a statement."""
    return int(vars(error).get("errno", 0))


@contextmanager
def _told() -> Iterator[None]:
    """Errors of the connector in our words; its own may quote cells."""
    from snowflake.connector import errors

    try:
        yield
    except (
        errors.OperationalError,
        errors.InterfaceError,
        errors.InternalServerError,
        errors.ServiceUnavailableError,
        errors.GatewayTimeoutError,
    ) as error:
        raise Unavailable(
            f"Snowflake does not answer as it should: {type(error).__name__} {error.errno}",
            kind="warehouse-unavailable",
            hint="run the same command again; or look at the account and the network",
        ) from None
    except errors.Error as error:
        refused = Invalid(
            f"Snowflake refused: error {error.errno}, SQLSTATE {getattr(error, 'sqlstate', '?')}",
            kind="warehouse-refused",
            hint="look the number up in Snowflake's documentation; the role may lack a right",
        )
        vars(refused)["errno"] = error.errno or 0
        raise refused from None


def _run(
    connection: SnowflakeConnection, sql: str, parameters: Sequence[Any] = ()
) -> list[tuple[Any, ...]]:
    with _told(), connection.cursor() as cursor:
        cursor.execute(sql, list(parameters) or None)
        return [tuple(row) for row in cursor.fetchall()]


def ident(name: str) -> str:
    """A name as Snowflake knows names that are not quoted: in capitals."""
    return quoted(name.upper())


class _Change(SqlChange):
    type_of = staticmethod(snowflake_type)
    ident = staticmethod(ident)

    def __init__(
        self,
        connection: SnowflakeConnection,
        where: str,
        number: int | None,
        stage: str,
        lake: str,
    ) -> None:
        super().__init__(where, number)
        self._connection = connection
        self._stage = stage
        self._lake = lake
        self._moves: list[tuple[str, Known, Known]] = []  # tables that change their columns

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return _run(self._connection, sql, parameters)

    def make(self, table: str, known: Known | None, shape: Shape) -> None:
        """Outside of the transaction; a view over old and new changes nothing that is seen."""
        place = f"{table}__{hashlib.sha256(shape.dumps().encode()).hexdigest()[:8]}"
        self.run(f"CREATE TABLE IF NOT EXISTS {ident(place)} ({self.definition(shape)})")
        if shape.keys:
            staged = self.staged(place, shape)
            self.run(f"CREATE TABLE IF NOT EXISTS {ident(staged)} ({self.definition(shape)})")
        if known is None:
            # First it is known to be ours, so that a crash leaves no table that seems taken.
            if self._there(table):
                raise self.taken(table)
            self.remember(table, Known(place, "", shape))
            self.run(_view(table, place, shape))
        else:
            self.run(_bridge(table, known, place, shape))
            self._moves.append((table, known, Known(place, known.place, shape)))

    def partitions(self, table: str) -> dict[str, str]:
        """See :class:`~.model.Change`: none where the columns change, whose rows begin anew."""
        if not self.begun and any(table == moves for moves, _, _ in self._moves):
            return {}
        return super().partitions(table)

    def begin(self) -> None:
        self.run("BEGIN")
        for table, old, new in self._moves:
            self.run(f"DELETE FROM {ident(old.place)}")  # noqa: S608 - quoted
            self.forget(table)
            self.remember(table, new)

    def remove(self, table: str, known: Known) -> None:
        """Its rows in the transaction; the table itself when it is settled."""
        self.run(f"DELETE FROM {ident(known.place)}")  # noqa: S608 - quoted
        self.remember(table, Known("", known.place, known.shape))

    def insert(self, place: str, shape: Shape, partition: str, path: Path, source: Source) -> int:
        beside = source.store.url == self._lake and source.groups is None
        where = self._beside(source) if beside else self._put(path, source)
        copy = f"COPY INTO {ident(place)} FROM {where} {FORMAT}"
        # Ours is the memory of what was loaded: Snowflake's own would skip what was rolled back.
        match = "MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE ON_ERROR = ABORT_STATEMENT FORCE = TRUE"
        purge = "" if beside else " PURGE = TRUE"
        rows = self.run(f"{copy} {match}{purge}")
        loaded = sum(int(row[3]) for row in rows if len(row) > 3)
        if shape.partitioned:
            name = ident(PARTITION)
            self.run(f"UPDATE {ident(place)} SET {name} = ? WHERE {name} IS NULL", [partition])  # noqa: S608
        return loaded

    def staged(self, place: str, shape: Shape) -> str:  # noqa: ARG002
        return f"{place}__in"

    def settle(self) -> None:
        """Finish what a change, or its crash, left: views as they are to be, old tables dropped."""
        query = f"SELECT name FROM {TABLES} WHERE retired <> ''"  # noqa: S608 - ours
        for (table,) in self.run(query):
            known = self.known(table)
            assert known is not None  # noqa: S101 - the query has just found it
            if known.place:
                self.run(_view(table, known.place, known.shape))
            else:
                self.run(f"DROP VIEW IF EXISTS {ident(table)}")
            for place in (known.retired, self.staged(known.retired, known.shape)):
                if place not in (known.place, self.staged(known.place, known.shape)):
                    self.run(f"DROP TABLE IF EXISTS {ident(place)}")
            self.remember(table, known._replace(retired="") if known.place else None)

    def _there(self, table: str) -> bool:
        try:
            self.run(f"SELECT 1 FROM {ident(table)} LIMIT 0")  # noqa: S608 - quoted
        except Invalid as error:
            if _errno(error) in _MISSING:
                return False
            raise
        return True

    def _put(self, path: Path, source: Source) -> str:
        """The file in our stage, below its digest: no file of another one can lie there."""
        folder = source.digest.removeprefix("sha256:")
        with scratch_folder() as place:
            link = place / _FILE  # a stage keeps a file's name
            link.symlink_to(path.absolute())
            options = "AUTO_COMPRESS = FALSE OVERWRITE = TRUE"
            self.run(f"PUT 'file://{link}' @{STAGE}/{folder}/ {options}")
        return f"@{STAGE}/{folder}/"

    def _beside(self, source: Source) -> str:
        """The object where it lies, in the external stage that shows the store."""
        folder, _, name = source.key.rpartition("/")
        if not _PLAIN.fullmatch(source.key):
            raise Invalid(f"{source.key} is no key that a stage can name", kind="bad-warehouse")
        return f"@{self._stage}/{folder}/ FILES = ('{name}')"


def _view(table: str, place: str, shape: Shape) -> str:
    names = ", ".join(ident(c.name) for c in shape.stored())
    return f"CREATE OR REPLACE VIEW {ident(table)} AS SELECT {names} FROM {ident(place)}"  # noqa: S608


def _bridge(table: str, old: Known, place: str, shape: Shape) -> str:
    """A view of the new columns over both tables, of which one is empty at any time."""
    before = {c.name.upper(): c.type for c in old.shape.stored()}
    first, second = [], []
    for column in shape.stored():
        name = ident(column.name)
        kind = before.get(column.name.upper())
        same = kind in (None, column.type)
        second.append(name if same else f"CAST({name} AS VARCHAR) AS {name}")
        if kind is None:
            first.append(f"CAST(NULL AS {column.type}) AS {name}")
        else:
            first.append(name if same else f"CAST({name} AS VARCHAR) AS {name}")
    return (
        f"CREATE OR REPLACE VIEW {ident(table)} AS "  # noqa: S608 - quoted
        f"SELECT {', '.join(first)} FROM {ident(old.place)} UNION ALL "
        f"SELECT {', '.join(second)} FROM {ident(place)}"
    )

"""What a warehouse is, and what is loaded into one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from catchment.core.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

PARTITION = "catchment_partition"  # column of partitioned tables: which partition a row is of


class Source(NamedTuple):
    """A Parquet object whose rows are loaded; written once, known by its digest."""

    store: Store
    key: str
    size: int  # bytes
    digest: str  # "sha256:<hex>"

    @contextmanager
    def local(self) -> Iterator[Path]:
        """The object as a file of this machine, for as long as the block lasts."""
        path = self.store.path(self.key)
        if path is not None:
            yield path
            return
        with tempfile.TemporaryDirectory(prefix="catchment-") as folder:
            copy = Path(folder, "object.parquet")
            with copy.open("wb") as file:
                for chunk in self.store.stream(self.key):
                    file.write(chunk)
            yield copy
            shutil.rmtree(folder, ignore_errors=True)


class Relation(NamedTuple):
    """One table of a snapshot, as a warehouse is to show it.

    Attributes:
        parts: its objects by partition. A table that is not partitioned has one, called "".
    """

    schema: pa.Schema
    parts: Mapping[str, Sequence[Source]]
    partitioned: bool = False

    @classmethod
    def whole(cls, schema: pa.Schema, source: Source) -> Relation:
        """A table that is one object."""
        return cls(schema, {"": [source]})


class Change(Protocol):
    """One transaction: all of it is seen at its end, or nothing of it ever.

    Tables are created first: once rows were changed, :meth:`create` is refused (Invalid, kind
    ``late-create``), for not every database can do both in one transaction.
    """

    def tables(self) -> set[str]:
        """The tables that are there and ours."""
        ...

    def partitions(self, table: str) -> set[str]:
        """The partitions of a table."""
        ...

    def create(
        self,
        table: str,
        schema: pa.Schema,
        *,
        keys: Sequence[str] = (),
        partitioned: bool = False,
    ) -> None:
        """A table of these columns; nothing if it is there and has them.

        One with other columns is made anew, and is empty. ``keys`` are what :meth:`merge` knows a
        row by.

        Raises:
            Invalid: kind ``warehouse-type`` for a column of a type that the database cannot hold
                exactly; ``warehouse-columns`` for names that it cannot tell apart.
            Conflict: kind ``warehouse-taken`` if a table of that name is not ours.
        """
        ...

    def replace(self, table: str, partition: str, sources: Sequence[Source]) -> int:
        """The rows of a partition are from now on those of the sources; no sources: none.

        Nothing is done where they are so already. Returns how many rows were loaded. Invalid (kind
        ``warehouse-type``) for a source whose columns are not those of the table.
        """
        ...

    def merge(self, table: str, sources: Sequence[Source]) -> int:
        """Rows with new keys are added, those with known keys take the place of what is there.

        Returns how many rows were read. No two rows of the sources may have the same key, and none
        may lack it (Invalid, kind ``warehouse-keys``).
        """
        ...

    def drop(self, table: str) -> None:
        """Remove a table of ours; nothing if there is none."""
        ...


class Warehouse(Protocol):
    """One schema of a database: it shows one aggregate, a snapshot at a time, whole.

    Every verb raises Unavailable while the database cannot be reached, and Invalid (kinds
    ``bad-warehouse``, ``warehouse-refused``) where it refuses us.
    """

    name: str

    def snapshot(self) -> int | None:
        """The number of the snapshot that it shows; None before the first."""
        ...

    def tables(self) -> set[str]:
        """The tables that are there and ours."""
        ...

    def change(self, number: int | None = None) -> AbstractContextManager[Change]:
        """A transaction for a block; it is rolled back where an error leaves the block.

        Args:
            number: the snapshot that is shown from then on. Conflict (kind ``warehouse-newer``) if
                a later one is shown already: a slow loader never undoes a fast one's work.
        """
        ...

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a question; ``?`` in it stands for a parameter."""
        ...

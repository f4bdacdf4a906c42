"""What a warehouse is, and what is loaded into one."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from catchment.core.scratch import scratch_folder
from catchment.core.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

PARTITION = "catchment_partition"  # column of partitioned tables: which partition a row is of


class Source(NamedTuple):
    """A Parquet object whose rows are loaded, or some of its row groups; written once.

    Attributes:
        size: bytes of the object.
        digest: ``sha256:<hex>`` of the object, or of what else says that rows are the same.
        groups: the first of its row groups, and the one behind the last; None: all.
        may_lack: an earlier version may have written it: columns of the table that it does not
            have are null.
    """

    store: Store
    key: str
    size: int
    digest: str
    groups: tuple[int, int] | None = None
    may_lack: bool = False

    @contextmanager
    def local(self) -> Iterator[Path]:
        """The object as a file of this machine, for as long as the block lasts."""
        path = self.store.path(self.key)
        if path is not None and self.groups is None:
            yield path
            return
        with scratch_folder() as folder:
            copy = folder / "object.parquet"
            with copy.open("wb") as file:
                for chunk in self._bytes():
                    file.write(chunk)
            yield copy
            shutil.rmtree(folder, ignore_errors=True)

    def _bytes(self) -> Iterator[bytes]:
        from catchment.core.parquet.cut import cut

        if self.groups is None:
            return self.store.stream(self.key)
        return cut(self.store, self.key, self.size, *self.groups)


class Relation(NamedTuple):
    """One table of a snapshot, as a warehouse is to show it.

    Attributes:
        parts: its objects by partition. A table that is not partitioned has one, called "".
        constants: columns of text that have one value in all rows. It may change where the digest
            of a part does not.
    """

    schema: pa.Schema
    parts: Mapping[str, Sequence[Source]]
    partitioned: bool = False
    constants: Mapping[str, str] = {}

    @classmethod
    def whole(cls, schema: pa.Schema, source: Source) -> Relation:
        """A table that is one object."""
        return cls(schema, {"": [source]})


def digest_of(sources: Sequence[Source]) -> str:
    """What tells the rows of one partition from others; empty for none."""
    text = "\n".join(source.digest for source in sources)
    return hashlib.sha256(text.encode()).hexdigest() if sources else ""


class Change(Protocol):
    """One transaction: all of it is seen at its end, or nothing of it ever.

    Tables are created first: once rows were changed, :meth:`create` is refused (Invalid, kind
    ``late-create``), for not every database can do both in one transaction.
    """

    def tables(self) -> set[str]:
        """The tables that are there and ours."""
        ...

    def partitions(self, table: str) -> dict[str, str]:
        """The partitions of a table, each with :func:`digest_of` what was loaded."""
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
        ``warehouse-type``) for a source whose columns are not those of the table, but for what it
        may lack.
        """
        ...

    def assign(self, table: str, constants: Mapping[str, str]) -> None:
        """All rows of a table have these values in these columns, which are text."""
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

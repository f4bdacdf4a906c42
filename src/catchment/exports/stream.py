"""What a worker writes records to: a file that appears whole or not at all."""

from __future__ import annotations

import io
import os
import uuid
from types import TracebackType
from typing import Self

from catchment.core.errors import Invalid
from catchment.exports import layout
from catchment.exports.directories import JobDirectories
from catchment.exports.files import told
from catchment.exports.model import MIB, Kind


class RecordStream:
    """Streams UTF-8 lines to a temporary file; leaving the context publishes or discards it.

    ::

        with RecordStream(JobDirectories(base, job)) as stream:
            for record in records:
                stream.write(json.dumps(record))

    After an exception inside nothing of it is published. For one thread at a time.

    Attributes:
        name: of the file, in ``streaming`` and later in ``finished``.
        count: lines written so far.
        size: bytes written so far.
    """

    def __init__(
        self, directories: JobDirectories, kind: Kind = Kind.DATA, *, unique: str | None = None
    ) -> None:
        self.name = layout.part_name(unique or uuid.uuid4().hex, kind)
        self.count = 0
        self.size = 0
        self._directories = directories
        self._path = directories.streaming_path / self.name
        with told(f"{self.name} cannot be made"):
            self._file = io.BufferedWriter(io.FileIO(self._path, "xb"), MIB)

    def write(self, record: str | bytes) -> None:
        """Add a record, one line or several; the final newline is added where it is missing.

        Invalid (kind ``record-not-utf8``) for a text that is not UTF-8. An empty record is none.
        """
        try:
            data = record.encode() if isinstance(record, str) else record
            if data is record:
                data.decode()
        except UnicodeError:
            raise Invalid("expected a record in UTF-8", kind="record-not-utf8") from None
        if not data.rstrip(b"\r\n"):
            return
        with told(f"{self.name} cannot be written"):
            self._file.write(data)
            if not data.endswith(b"\n"):
                self._file.write(b"\n")
                self.count += 1
                self.size += 1
        self.count += data.count(b"\n")
        self.size += len(data)

    def rewind(self, count: int, size: int) -> None:
        """Take back what was written since ``count`` and ``size`` were these."""
        with told(f"{self.name} cannot be written"):
            self._file.seek(size)
            self._file.truncate()
        self.count, self.size = count, size

    def seal(self) -> None:
        """Make the file whole and durable, still in ``streaming``; it takes no more records."""
        try:
            with told(f"{self.name} cannot be written"), self._file:
                self._file.flush()
                os.fsync(self._file.fileno())
        except BaseException:
            self.discard()
            raise

    def close(self) -> None:
        """Publish: move the file to ``finished``, durably. Without records there is no file."""
        if self._file.closed:
            return
        if not self.size:
            self.discard()
            return
        self.seal()
        try:
            self._directories.promote(self.name)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove the file; nothing of it was published."""
        self._file.raw.close()  # what is still buffered is not wanted
        with told(f"{self.name} cannot be removed"):
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if exc_type is None:
            self.close()
        else:
            self.discard()

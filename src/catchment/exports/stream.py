"""What a worker writes records to: a file that appears whole or not at all."""

from __future__ import annotations

import io
import os
import uuid
from types import TracebackType
from typing import Self

from catchment.exports import layout
from catchment.exports.directories import JobDirectories
from catchment.exports.files import told
from catchment.exports.lines import LineFile
from catchment.exports.model import Kind


class RecordStream(LineFile):
    """Streams UTF-8 lines to a temporary file; leaving the context publishes or discards it.

    ::

        with RecordStream(JobDirectories(base, job)) as stream:
            for record in records:
                stream.write(json.dumps(record))

    After an exception inside nothing of it is published. For one thread at a time.
    """

    def __init__(
        self, directories: JobDirectories, kind: Kind = Kind.DATA, *, unique: str | None = None
    ) -> None:
        name = layout.part_name(layout.check_folder(unique or uuid.uuid4().hex, "part"), kind)
        self._directories = directories
        self._path = directories.streaming_path / name
        with told(f"{name} cannot be made"):
            super().__init__(name, io.FileIO(self._path, "xb"))

    def close(self) -> None:
        """Publish: move the file to ``finished``, durably. Without records there is no file."""
        if self._file.closed:
            return
        if not self.size:
            self.discard()
            return
        try:
            with told(f"{self.name} cannot be written"), self._file:
                self._file.flush()
                os.fsync(self._file.fileno())
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

"""A file of lines while it is written: counted, whole, and able to take back the last of them."""

from __future__ import annotations

import io

from catchment.core.errors import Invalid
from catchment.exports.files import told
from catchment.exports.model import MIB


class LineFile:
    """Writes UTF-8 lines to a file.

    Attributes:
        name: of the file, for messages.
        count: lines written so far.
        size: bytes written so far.
    """

    def __init__(self, name: str, file: io.RawIOBase) -> None:
        self.name = name
        self.count = 0
        self.size = 0
        self._file = (
            io.BufferedRandom(file, MIB) if file.readable() else io.BufferedWriter(file, MIB)
        )

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
        if not data or data.isspace():
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

    def flush(self) -> None:
        """Hand all bytes on to the file."""
        with told(f"{self.name} cannot be written"):
            self._file.flush()

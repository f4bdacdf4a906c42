"""A form with a file, read from a request as it comes: fields first, then the file, in chunks.

Nothing of the file is held in memory or in a temporary file: whoever takes the chunks decides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from catchment.core.errors import Invalid

MAX_FIELDS = 32
MAX_FIELD_BYTES = 16 << 10  # of a value, and of what stands above it
MAX_AFTER = 1 << 20  # bytes behind the file
FILE = b"file"


class Form:
    """The parts of one request, up to its file; then the chunks of that file.

    Args:
        content_type: of the request.
        body: its bytes as they come.

    Everything raises Invalid (kind ``bad-form``) where the request is none.
    """

    def __init__(self, content_type: str, body: AsyncIterator[bytes]) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not boundary:
            raise bad("expected multipart/form-data with a boundary")
        self.fields: dict[str, str] = {}
        self._body = body
        self._chunks: deque[bytes] = deque()
        self._in_file = self._seen_file = self._ended = False
        self._parts = self._after = 0
        self._header = self._value = b""
        self._name = b""
        self._field = bytearray()
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._part_begins,
                    "on_header_field": self._header_field,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_ends,
                    "on_headers_finished": self._part_is_known,
                    "on_part_data": self._data,
                    "on_part_end": self._part_ends,
                    "on_end": self._end,
                },
            )
        except FormParserError:
            raise bad("the boundary is too long") from None

    async def read_fields(self) -> dict[str, str]:
        """All fields that stand before the file."""
        while not self._seen_file:
            if not await self._more():
                raise bad("the form has no field 'file'")
        return self.fields

    async def read_chunk(self) -> bytes:
        """The next bytes of the file; empty at its end."""
        while not self._chunks:
            if not await self._more():
                return b""
        return self._chunks.popleft()

    async def _more(self) -> bool:
        """Parse one more chunk of the request; False once it has ended as a form must."""
        data = await anext(self._body, None)
        if data is None:
            if not self._ended:
                raise bad("the form ends too early")
            return False
        try:
            self._parser.write(data)
        except FormParserError:
            raise bad("the form is malformed") from None
        return True

    def _part_begins(self) -> None:
        self._name = b""
        self._field.clear()
        self._parts += not self._seen_file
        if self._parts > MAX_FIELDS + 1:
            raise _too_many()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._bound(self._header)

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._bound(self._value)

    def _bound(self, text: bytes | bytearray) -> None:
        if len(text) > MAX_FIELD_BYTES:
            raise _too_many()

    def _header_ends(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._name = parse_options_header(self._value)[1].get(b"name", b"")
        self._header = self._value = b""

    def _part_is_known(self) -> None:
        self._in_file = self._name == FILE and not self._seen_file
        self._seen_file |= self._in_file

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._chunks.append(data[start:end])
        elif not self._seen_file:  # what stands after the file is passed over, as S3 does
            self._field += data[start:end]
            self._bound(self._field)
        else:
            self._after += end - start
            if self._after > MAX_AFTER:
                raise bad("too much stands behind the file")

    def _part_ends(self) -> None:
        if not self._seen_file:
            name = self._name.decode(errors="replace")
            self.fields[name] = self._field.decode(errors="replace")
        self._in_file = False

    def _end(self) -> None:
        self._ended = True


def _too_many() -> Invalid:
    return bad("the fields of the form are too many or too long")


def bad(message: str) -> Invalid:
    """The error of a request that is no form."""
    return Invalid(message, kind="bad-form", hint="send the fields as given, then the file")

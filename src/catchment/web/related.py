"""Parts of a ``multipart/related`` request (RFC 2387), each in chunks, read as they come."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from catchment.core.errors import Invalid

RELATED = b"multipart/related"
DICOM = b"application/dicom"


class UnsupportedMedia(Invalid):
    """Something else than DICOM files."""

    kind = "unsupported-media"
    status_code = 415


class Parts:
    """The parts of one request, one after the other.

    Args:
        content_type: of the request.
        body: its bytes as they come.

    Invalid (kind ``bad-form``) where the request is malformed or ends too early, UnsupportedMedia
    where it, or a part, is of another type.
    """

    def __init__(self, content_type: str, body: AsyncIterator[bytes]) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        of = options.get(b"type", DICOM).lower()
        if kind.lower() != RELATED or of != DICOM or not boundary:
            raise _other()
        self._body = body
        self._events: deque[bytes | None] = deque()  # chunks; None: a part has ended
        self._field = self._value = self._type = b""
        self._begun = self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begins,
                    "on_header_field": self._header_field,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_ends,
                    "on_headers_finished": self._known,
                    "on_part_data": self._data,
                    "on_part_end": lambda: self._events.append(None),
                    "on_end": self._end,
                },
            )
        except FormParserError:
            raise _bad("the boundary is too long") from None

    async def another(self) -> bool:
        """Whether there is another part; its chunks come next."""
        while not self._events:
            if not await self._more():
                return False
        return True

    async def read_chunk(self) -> bytes:
        """The next bytes of the part; empty at its end."""
        while not self._events:
            if not await self._more():
                return b""
        return self._events.popleft() or b""

    async def _more(self) -> bool:
        data = await anext(self._body, None)
        if data is None:
            if not self._ended or not self._begun:
                raise _bad("the request ends too early" if self._begun else "it has no part")
            return False
        try:
            self._parser.write(data)
        except FormParserError:
            raise _bad("the request is malformed") from None
        return True

    def _begins(self) -> None:
        self._begun = True
        self._type = DICOM  # a part need not repeat it

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_ends(self) -> None:
        if self._field.lower() == b"content-type":
            self._type = parse_options_header(self._value)[0].lower()
        self._field = self._value = b""

    def _known(self) -> None:
        if self._type != DICOM:
            raise _other()

    def _data(self, data: bytes, start: int, end: int) -> None:
        if end > start:
            self._events.append(data[start:end])

    def _end(self) -> None:
        self._ended = True


def _other() -> UnsupportedMedia:
    return UnsupportedMedia(
        'expected multipart/related; type="application/dicom" with a boundary',
        hint="send DICOM files, each as a part; metadata and bulk data apart are not taken",
    )


def _bad(message: str) -> Invalid:
    return Invalid(message, kind="bad-form", hint="send it again; what was whole is kept")

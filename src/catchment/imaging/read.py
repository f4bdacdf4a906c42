"""Headers of stored files become rows: runs where a file can hurt nobody, a batch at a time."""

from __future__ import annotations

import hashlib
import hmac
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from catchment.core.errors import CatchmentError, Invalid
from catchment.core.store import Store
from catchment.core.store_file import StoreFile
from catchment.imaging.entities import Odd, arrow_type, columns, typed_tags
from catchment.imaging.model import UID
from catchment.imaging.scan import Header, Pixels, read_header
from catchment.imaging.values import Unreadable
from catchment.imaging.walk import BadFile, Unscannable

if TYPE_CHECKING:
    import pyarrow as pa

    from catchment.imaging.fallback import SlowHeader

BUFFER = 256 << 10  # bytes that pydicom reads at a time
TAIL = 4096  # bytes from the end in which encapsulated pixels usually end
_END = b"\xfe\xff\xdd\xe0\0\0\0\0"
DEVICE = (
    "Manufacturer",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "StationName",
    "InstitutionName",
    "InstitutionalDepartmentName",
    "InstitutionAddress",
    "SoftwareVersions",
)


class Stored(NamedTuple):
    """One file to read: whose, where, the SHA-256 of its bytes, their number.

    ``stage`` and ``stage_size`` are those of the de-identified file that is read in its place.
    """

    site: str
    key: str
    digest: str
    size: int
    stage: str | None = None
    stage_size: int | None = None


class Refused(NamedTuple):
    """A file that cannot be taken, and why: a slug of the account."""

    digest: str
    reason: str


@dataclass(frozen=True, slots=True)
class Batch:
    """What became of some files: rows as an Arrow stream, in order of the files; and the rest.

    ``evidence`` has a line for each file that was de-identified.
    """

    rows: bytes
    refused: list[Refused] = field(default_factory=list)
    evidence: list[dict[str, Any]] = field(default_factory=list)


def read_files(
    store: Store, files: Sequence[Stored], key: bytes = b"", *, require_deidentified: bool = False
) -> Batch:
    """The rows of some files; a task for a child process."""
    rows = Rows(key, require_deidentified=require_deidentified)
    refused = []
    for file in files:
        try:
            read_one(store, file, rows)
        except BadFile as bad:
            refused.append(Refused(file.digest, str(bad)))
    return Batch(rows.stream(), refused)


def read_one(store: Store, file: Stored, rows: Rows) -> None:
    """Add the row of a stored file. BadFile if it cannot be taken."""

    def fetch(start: int, length: int) -> bytes:
        return store.read(file.key, start=start, length=length)

    try:
        header = read_header(fetch, file.size)
        _add(rows, file, header, fetch)
    except (Unscannable, Unreadable):  # nothing of it was added
        with _Nameless(StoreFile(store, file.key, file.size), BUFFER) as opened:
            _add(rows, file, slowly(opened, file.size), fetch)


def read_bytes(data: bytes, file: Stored, rows: Rows) -> None:
    """Add the row of a file whose bytes are at hand. BadFile if it cannot be taken."""

    def fetch(start: int, length: int) -> bytes:
        return data[start : start + length]

    try:
        header = read_header(fetch, len(data))
        _add(rows, file, header, fetch)
    except (Unscannable, Unreadable):  # nothing of it was added
        _add(rows, file, slowly(io.BytesIO(data), len(data)), fetch)


def _add(
    rows: Rows, file: Stored, header: Header | SlowHeader, fetch: Callable[[int, int], bytes]
) -> None:
    if header.pixels is not None:
        check_pixels(header, header.pixels, fetch)
    rows.add(file, header)


def slowly(file: BinaryIO, size: int) -> SlowHeader:
    """The header by pydicom. BadFile (``header-broken``) where pydicom fails too."""
    try:
        from catchment.imaging.fallback import read_slowly
    except ImportError:
        raise _missing() from None
    try:
        return read_slowly(file, size)
    except (BadFile, MemoryError, CatchmentError):  # a store that is away says nothing of a file
        raise
    except Exception:  # noqa: BLE001 - what a file of any form makes of pydicom
        raise BadFile("header-broken") from None


def _missing() -> Invalid:
    return Invalid(
        "imaging needs pydicom, which is not installed",
        kind="missing-extra",
        hint="pip install 'catchment[imaging]'",
    )


def check_pixels(
    header: Header | SlowHeader, pixels: Pixels, fetch: Callable[[int, int], bytes]
) -> None:
    """BadFile (``pixels-truncated``) unless the file holds as many pixels as its header says."""
    if pixels.length is None:
        if not _encapsulated_ends(pixels.start, header.size, fetch):
            raise BadFile("pixels-truncated")
        return
    inflated = pixels.start == 0  # its pixels were counted as it was read
    if not inflated and pixels.start + pixels.length > header.size:
        raise BadFile("pixels-truncated")
    expected = expected_bytes(header)
    if pixels.tag == 0x7FE00010 and expected is not None and pixels.length < expected:
        raise BadFile("pixels-truncated")


def expected_bytes(header: Header | SlowHeader) -> int | None:
    """Bytes of the pixels, uncompressed; None where the header does not say."""
    rows, columns_, bits = (_whole(header, tag) for tag in (0x00280010, 0x00280011, 0x00280100))
    if rows is None or columns_ is None or bits is None:
        return None
    samples = _whole(header, 0x00280002) or 1
    frames = _whole(header, 0x00280008) or 1
    photometric = header.values(0x00280004) or [""]
    total = rows * columns_ * samples * frames * bits
    if str(photometric[0]).startswith("YBR_FULL_422"):
        total = total * 2 // 3
    return (total + 7) // 8


def _whole(header: Header | SlowHeader, tag: int) -> int | None:
    found = header.values(tag)
    return found[0] if found and isinstance(found[0], int) and found[0] >= 0 else None


def _encapsulated_ends(start: int, size: int, fetch: Callable[[int, int], bytes]) -> bool:
    """Whether the sequence of fragments has its end: in the tail, or else by walking along them."""
    tail = fetch(max(start, size - TAIL), TAIL)
    if _END in tail:
        return True
    at = start
    while at + 8 <= size:
        head = fetch(at, 8)
        if head == _END:
            return True
        if head[:4] != b"\xfe\xff\x00\xe0":
            return False
        at += 8 + int.from_bytes(head[4:8], "little")
    return False


class _Nameless(io.BufferedReader):
    """A file for pydicom, which asks for its name."""

    @property
    def name(self) -> str:
        return ""


class Rows:
    """Rows of a batch, column by column; without ``attributes``, only what has a column."""

    def __init__(
        self, key: bytes, *, require_deidentified: bool = False, attributes: bool = True
    ) -> None:
        self._key = key
        self._attributes = attributes
        self._require = require_deidentified
        self._lists: dict[str, list[Any]] = {name: [] for name in schema().names}
        self._typed = [(c.tag, c.convert, c.name) for c in columns().values()]

    def add(self, file: Stored, header: Header | SlowHeader) -> None:
        """The row of one file, whole or not at all.

        BadFile (``uid-missing``, ``uid-malformed``) without identity, ``not-deidentified`` where
        that is required.
        """
        import msgspec

        values = header.values
        for tag in (0x00080018, 0x0020000E, 0x0020000D):
            found = values(tag)
            if not found or not found[0]:
                raise BadFile("uid-missing")
            if len(found) != 1 or not UID.fullmatch(str(found[0])):
                raise BadFile("uid-malformed")
        if self._require and values(0x00120062) != ["YES"]:
            raise BadFile("not-deidentified")
        row: dict[str, Any] = {}
        odd: dict[str, Any] = {}
        for tag, convert, name in self._typed:
            found = values(tag)
            if found:
                try:
                    row[name] = convert(found)
                except Odd:
                    odd[name] = found[0] if len(found) == 1 else found
        row["sha256"] = file.digest
        row["size"] = file.size
        row["stage_sha256"], row["stage_size"] = file.stage, file.stage_size
        row["site"] = file.site
        row["TransferSyntaxUID"] = header.syntax
        row["notes"] = header.notes
        row["odd_values"] = msgspec.json.encode(odd).decode() if odd else None
        if self._attributes:
            row["attributes"] = msgspec.json.encode(header.to_json(typed_tags())).decode()
        row["patient_key"] = self._patient(row)
        row["device_key"] = _device(row)
        for name, column in self._lists.items():
            column.append(row.get(name))

    def table(self) -> pa.Table:
        """All rows so far."""
        import pyarrow as pa

        return pa.table(
            [pa.array(self._lists[field.name], field.type) for field in schema()], schema=schema()
        )

    def stream(self) -> bytes:
        """The same, as an Arrow stream."""
        import pyarrow as pa

        batch = self.table()
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_table(batch)
        return sink.getvalue()

    def _patient(self, row: dict[str, Any]) -> str:
        """The pseudonym of a patient of a site; without an id, everybody is a person of a study."""
        who = row.get("PatientID")
        parts = (
            ("id", who, row.get("IssuerOfPatientID") or "")
            if who
            else ("study", row["StudyInstanceUID"])
        )
        return pseudonym(self._key, "patient", row["site"], *parts)


def _device(row: dict[str, Any]) -> str | None:
    parts = [row.get(name) or "" for name in DEVICE]
    return pseudonym(b"", "device", row["site"], *parts) if any(parts) else None


def pseudonym(key: bytes, *parts: str) -> str:
    """A stable name for what the parts say, 128 bits; who has no key cannot make it."""
    text = "".join(f"{len(part.encode())}:{part}" for part in parts).encode()
    made = hmac.new(key, text, "sha256") if key else hashlib.sha256(text)
    return made.hexdigest()[:32]


@cache
def schema() -> pa.Schema:
    """Columns of a row as it is read: of the file, then of all entities, then the rest."""
    import pyarrow as pa

    own = [
        ("sha256", pa.string()),
        ("size", pa.int64()),
        ("stage_sha256", pa.string()),  # of the de-identified file; null where there is none
        ("stage_size", pa.int64()),
        ("site", pa.string()),
        ("patient_key", pa.string()),
        ("device_key", pa.string()),
        ("TransferSyntaxUID", pa.string()),
    ]
    rest = [
        ("odd_values", pa.string()),
        ("attributes", pa.string()),
        ("notes", pa.list_(pa.string())),
    ]
    entity = [(column.name, arrow_type(column)) for column in columns().values()]
    return pa.schema([*own, *entity, *rest])

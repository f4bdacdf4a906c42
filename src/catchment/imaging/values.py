"""Values of DICOM elements as the DICOM JSON model has them (PS3.18 F), decoded from their bytes.

The results are those of pydicom's ``to_json_dict``, but for what JSON or Python cannot say there:
an empty one among several numbers is null, a number that is not finite or cannot be read as one is
text, and so nothing that stands in a file is lost.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Callable
from typing import Any

ESCAPE = 0x1B  # begins a code extension of ISO 2022
BULK_BYTES = 768  # binary values that are longer are referred to, not copied

# Character sets of one byte a character, and UTF-8. The others change in mid-text.
CHARSETS = {
    "": "latin_1",
    "ISO_IR 6": "latin_1",
    "ISO_IR 100": "latin_1",
    "ISO_IR 101": "iso8859_2",
    "ISO_IR 109": "iso8859_3",
    "ISO_IR 110": "iso8859_4",
    "ISO_IR 126": "iso8859_7",
    "ISO_IR 127": "iso8859_6",
    "ISO_IR 138": "iso8859_8",
    "ISO_IR 144": "iso8859_5",
    "ISO_IR 148": "iso8859_9",
    "ISO_IR 192": "utf_8",
}


class Unreadable(ValueError):
    """A value that these decoders do not read."""


type Decoder = Callable[[bytes, str], list[Any]]


def text(raw: bytes, charset: str) -> str:
    """Text in the character set of the dataset."""
    if ESCAPE in raw:
        raise Unreadable("code extensions")
    try:
        return raw.decode(charset)
    except UnicodeDecodeError:
        raise Unreadable("not in its character set") from None


def _application(raw: bytes, _: str) -> list[Any]:
    values = [part.strip() for part in raw.decode("latin_1").split("\\")]
    return values if values != [""] else []


def _code(raw: bytes, _: str) -> list[Any]:
    value = raw.decode("latin_1").rstrip(" \0")
    return value.split("\\") if value else []


def _long(raw: bytes, charset: str) -> list[Any]:
    values = [part.rstrip("\0 ") for part in text(raw, charset).split("\\")]
    return values if values != [""] else []


def _single(raw: bytes, charset: str) -> list[Any]:
    value = text(raw, charset).rstrip("\0 ")
    return [value] if value else []


def _link(raw: bytes, _: str) -> list[Any]:
    value = raw.decode("latin_1").rstrip()
    return [value] if value else []


def _person(raw: bytes, charset: str) -> list[Any]:
    value = text(raw.rstrip(b"\0 "), charset)
    return [_name(part) for part in value.split("\\")] if value.strip("=") else []


def _name(value: str) -> dict[str, str]:
    # An empty group between others stays, trailing ones go.
    groups = value.rstrip("=").split("=")
    return dict(zip(("Alphabetic", "Ideographic", "Phonetic"), groups, strict=False))


def decimal_string(part: str) -> Any:
    """The number of one decimal string; the text itself if it is none, None if it is empty."""
    try:
        value = float(part)
    except ValueError:
        return part if part.strip(" \0") else None
    return value if math.isfinite(value) else part


def integer_string(part: str) -> Any:
    """The number of one integer string; the text itself if it is none, None if it is empty."""
    try:
        return int(part)
    except ValueError:
        value = decimal_string(part)
        return int(value) if isinstance(value, float) and value.is_integer() else value


def _decimals(raw: bytes, _: str) -> list[Any]:
    value = raw.decode("latin_1").strip().rstrip(" \0")
    if "\\" not in value:
        return [decimal_string(value)] if value else []
    return [decimal_string(part) for part in value.split("\\")]


def _integers(raw: bytes, _: str) -> list[Any]:
    value = raw.decode("latin_1").rstrip(" \0")
    if "\\" not in value:
        return [integer_string(value)] if value.strip() else []
    return [integer_string(part) for part in value.split("\\")]


def _numbers(kind: str) -> Decoder:
    one = struct.Struct(f"<{kind}")
    size = one.size
    real = kind in "fd"

    def decode(raw: bytes, _: str) -> list[Any]:
        if len(raw) == size:
            values: list[Any] = list(one.unpack(raw))
        elif len(raw) % size:
            raise Unreadable("not a whole number of values")
        else:
            values = list(struct.unpack(f"<{len(raw) // size}{kind}", raw))
        if real and not all(map(math.isfinite, values)):
            return [v if math.isfinite(v) else not_finite(v) for v in values]
        return values

    return decode


def not_finite(value: float) -> str:
    """How a number that JSON cannot say is written."""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _tags(raw: bytes, _: str) -> list[Any]:
    count = len(raw) // 4
    pairs = struct.unpack(f"<{2 * count}H", raw[: 4 * count])
    return [f"{pairs[i]:04X}{pairs[i + 1]:04X}" for i in range(0, 2 * count, 2)]


DECODERS: dict[str, Decoder] = {
    "AE": _application,
    "AS": _code,
    "AT": _tags,
    "CS": _code,
    "DA": _code,
    "DS": _decimals,
    "DT": _code,
    "FD": _numbers("d"),
    "FL": _numbers("f"),
    "IS": _integers,
    "LO": _long,
    "LT": _single,
    "PN": _person,
    "SH": _long,
    "SL": _numbers("i"),
    "SS": _numbers("h"),
    "ST": _single,
    "SV": _numbers("q"),
    "TM": _code,
    "UC": _long,
    "UI": _code,
    "UL": _numbers("I"),
    "UR": _link,
    "US": _numbers("H"),
    "UT": _single,
    "UV": _numbers("Q"),
}
BINARY = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})

# (LUT descriptors: a first value of 65536 is written as 0, and one above 32767 may be signed.)
DESCRIPTORS = frozenset({0x00281101, 0x00281102, 0x00281103, 0x00283002})


def element(vr: str, raw: bytes, charset: str, at: int, tag: int) -> dict[str, Any]:
    """One element but a sequence, in DICOM JSON; ``at`` is where its bytes begin in the file."""
    if not raw:
        return {"vr": vr}
    decoder = DECODERS.get(vr)
    if decoder is None:
        return binary(vr, raw, at)
    try:
        values = decoder(raw, charset)
    except Unreadable:
        if len(raw) and vr in NUMBERS:  # as bytes, which say all
            return binary("UN", raw, at)
        raise
    if tag in DESCRIPTORS and values and isinstance(values[0], int) and values[0] < 0:
        values[0] += 65536
    return {"vr": vr, "Value": values} if values else {"vr": vr}


NUMBERS = frozenset({"FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"})


def binary(vr: str, raw: bytes, at: int) -> dict[str, Any]:
    """Bytes: in the text where they are few, else as the range of the object that holds them."""
    if len(raw) <= BULK_BYTES:
        return {"vr": vr, "InlineBinary": base64.b64encode(raw).decode()}
    return {"vr": vr, "BulkDataURI": f"#bytes={at}-{at + len(raw) - 1}"}

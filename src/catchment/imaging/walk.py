"""The bytes of DICOM elements, little endian: where each one begins and ends, and its VR."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache

from catchment.imaging import values

DEPTH = 32  # of sequences in sequences
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.8.1"})
UNDEFINED = 0xFFFFFFFF
PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
CHARSET, PIXEL_SIGN, SYNTAX = 0x00080005, 0x00280103, 0x00020010
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD

_SHORT = frozenset(
    {"AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT"}
    | {"PN", "SH", "SL", "SS", "ST", "TM", "UI", "UL", "US"}
)
_LONG = frozenset(["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"])
# 16-bit lengths and 32-bit lengths, by the bytes of the VR.
SHORT_VRS = {vr.encode(): vr for vr in _SHORT}
LONG_VRS = {vr.encode(): vr for vr in _LONG}
VRS = {code: (vr, False) for code, vr in SHORT_VRS.items()} | {
    code: (vr, True) for code, vr in LONG_VRS.items()
}
unpack_explicit = struct.Struct("<HH2sH").unpack_from
unpack_implicit = struct.Struct("<HHI").unpack_from
unpack_length = struct.Struct("<I").unpack_from


class Unscannable(Exception):
    """What this reader leaves to pydicom; the argument says why, a slug."""


class BadFile(Exception):
    """The file cannot be taken; the argument is the reason, a slug of the account."""


class NeedMore(Exception):
    """The header goes on behind the bytes that were read."""


# Where the value of an element lies in the file: its VR, start and length. A plain tuple, since
# there are some 200 of them in a header.
type Span = tuple[str, int, int]


def bytes_of(data: bytes, span: Span) -> bytes:
    """The bytes of an element's value."""
    return data[span[1] : span[1] + span[2]]


def top_explicit(
    data: bytes, at: int, elements: dict[int, Span]
) -> tuple[int, str, int, int] | None:
    """The elements of the top level, up to the pixels or an odd tag, which is the result.

    What :func:`walk` does, but without a step of a generator for each element: here the time goes.
    """
    have, short, long = len(data), SHORT_VRS, LONG_VRS
    while at < have:
        group, number, code, length = unpack_explicit(data, at)
        at += 8
        vr = short.get(code)
        if vr is None:
            vr = long.get(code)
            if vr is None:
                if group in (0xFFFE, 0):
                    return group << 16 | number, "", at, 0
                raise Unscannable("unknown-vr")
            (length,) = unpack_length(data, at)
            at += 4
            if group == 0x7FE0 and number in (0x10, 8, 9):
                return group << 16 | number, vr, at, length
            if length == UNDEFINED:
                if vr != "SQ":
                    raise Unscannable("undefined-length")
                length = skip_items(data, at, have, implicit=False, depth=0) - at
        elements[group << 16 | number] = vr, at, length
        at += length
    if at > have:
        raise NeedMore
    return None


def top_implicit(
    data: bytes, at: int, elements: dict[int, Span]
) -> tuple[int, str, int, int] | None:
    """The same for implicit elements."""
    have, tags = len(data), VRS_BY_TAG
    while at < have:
        group, number, length = unpack_implicit(data, at)
        at += 8
        tag = group << 16 | number
        vr = tags[tag]
        if group in (0xFFFE, 0) or tag in PIXELS:
            return tag, vr, at, length
        if length == UNDEFINED:
            if vr != "SQ":
                raise Unscannable("undefined-length")
            length = skip_items(data, at, have, implicit=True, depth=0) - at
        elements[tag] = vr, at, length
        at += length
    if at > have:
        raise NeedMore
    return None


def elements(
    data: bytes, at: int, end: int, *, implicit: bool, depth: int
) -> Iterator[tuple[int, str, int, int, int]]:
    """Elements of an item as tag, VR, start, length as written, and where the next begins."""
    vrs, tags = VRS, VRS_BY_TAG
    while at < end:
        if implicit:
            group, number, length = unpack_implicit(data, at)
            tag = group << 16 | number
            vr = tags[tag]
            at += 8
        else:
            group, number, code, length = unpack_explicit(data, at)
            tag = group << 16 | number
            at += 8
            if group == 0xFFFE:
                vr = ""
                (length,) = unpack_length(data, at - 4)
            else:
                known = vrs.get(code)
                if known is None:
                    raise Unscannable("unknown-vr")
                vr, long = known
                if long:
                    (length,) = unpack_length(data, at)
                    at += 4
        if length == UNDEFINED:
            if vr != "SQ":
                raise Unscannable("undefined-length")
            stop = skip_items(data, at, end, implicit=implicit, depth=depth)
        else:
            stop = at + length
        if stop > end:
            raise NeedMore if end == len(data) else Unscannable("odd-item")
        yield tag, vr, at, length, stop
        at = stop


def skip_items(data: bytes, at: int, end: int, *, implicit: bool, depth: int) -> int:
    """The end of a sequence of undefined length, its delimiter included."""
    if depth >= DEPTH:
        raise BadFile("nested-too-deep")
    while at < end:
        group, number, length = unpack_implicit(data, at)
        tag = group << 16 | number
        at += 8
        if tag == SEQUENCE_END:
            return at
        if tag != ITEM:
            raise Unscannable("odd-sequence")
        if length == UNDEFINED:
            inside = item_is_implicit(data, at, length, implicit=implicit)
            at = skip_dataset(data, at, end, implicit=inside, depth=depth + 1)
        else:
            at += length
    raise NeedMore if end == len(data) else Unscannable("odd-sequence")


def skip_dataset(data: bytes, at: int, end: int, *, implicit: bool, depth: int) -> int:
    """The end of an item of undefined length, its delimiter included."""
    if depth >= DEPTH:
        raise BadFile("nested-too-deep")
    for tag, _, _, _, stop in elements(data, at, end, implicit=implicit, depth=depth):
        if tag == ITEM_END:
            return stop
    raise NeedMore if end == len(data) else Unscannable("odd-item")


def looks_implicit(data: bytes, at: int) -> bool:
    """Whether what should be the VR of an explicit element is none."""
    return not (0x40 < data[at + 4] < 0x5B and 0x40 < data[at + 5] < 0x5B)


def item_is_implicit(data: bytes, at: int, length: int, *, implicit: bool) -> bool:
    """Items of an explicit dataset may be implicit; PS3.5 6.2.2."""
    if implicit or not length or data[at : at + 2] == b"\xfe\xff":
        return implicit
    if at + 6 > len(data):
        raise NeedMore
    return looks_implicit(data, at)


@cache
def charset_of(raw: bytes) -> str:
    """The codec of a SpecificCharacterSet."""
    try:
        return values.CHARSETS[raw.decode("latin_1").strip(" \0")]
    except KeyError:
        raise Unscannable("character-set") from None


# What the sign of pixels decides, PS3.5 table 6.2-1 and pydicom's list.
_SIGNED = frozenset(
    {0x00189810, 0x00221452, 0x00409211, 0x00409216, 0x00603004, 0x00603006}
    | {0x00280104, 0x00280105, 0x00280106, 0x00280107, 0x00280108, 0x00280109}
    | {0x00280110, 0x00280111, 0x00280120, 0x00280121, 0x00281101, 0x00281102}
    | {0x00281103, 0x00283002}
)
_WORDS = frozenset({0x54000110, 0x54000112, 0x5400100A, 0x54001010})


def resolve(data: bytes, found: dict[int, Span], sign: int | None, *, implicit: bool) -> None:
    """Replace the VRs that a dataset's other elements decide; in place."""
    if implicit:
        for tag, (vr, start, length) in list(found.items()):
            if len(vr) > 2:
                found[tag] = _resolved(data, found, tag, vr, sign), start, length
        return
    for tag, (vr, start, length) in list(found.items()):
        if vr != "UN":
            continue
        if tag >> 16 & 1:
            vr = _private(data, found, tag)  # noqa: PLW2901 - what it stands for
        elif length < 0xFFFF:  # longer ones cannot be written with the VR that they have
            vr = VRS_BY_TAG[tag]  # noqa: PLW2901 - the same
            if len(vr) > 2 or vr == "SQ":
                raise Unscannable("un-of-many-kinds")
        found[tag] = vr, start, length


def _resolved(data: bytes, found: dict[int, Span], tag: int, vr: str, sign: int | None) -> str:
    if vr == "private":
        return _private(data, found, tag)
    if tag in _SIGNED:
        return "SS" if sign else "US"
    if tag in _WORDS or tag & 0xFF00FFFF == 0x60003000:
        return "OW"
    raise Unscannable("ambiguous-vr")


def _private(data: bytes, found: dict[int, Span], tag: int) -> str:
    """The VR of a private element, by the dictionary of its creator."""
    number = tag & 0xFFFF
    if 0x10 <= number <= 0xFF:
        return "LO"
    creator = found.get(tag & 0xFFFF0000 | number >> 8) if number & 0xFF00 else None
    if creator is None:
        return "UN"
    name = bytes_of(data, creator).decode("latin_1").rstrip("\0 ")
    vr = _private_vr(name, tag)
    if vr == "SQ":
        raise Unscannable("private-sequence")
    return vr


@cache
def _private_vr(creator: str, tag: int) -> str:
    from pydicom.datadict import private_dictionary_VR

    try:
        return private_dictionary_VR(tag, creator)
    except KeyError:
        return "UN"


class _Tags(dict[int, str]):
    """VRs of implicit elements by tag; ``private`` where the creator decides."""

    def __missing__(self, tag: int) -> str:
        from pydicom.datadict import dictionary_VR

        if tag >> 16 == 0xFFFE or tag == 0:
            vr = ""
        elif tag >> 16 & 1:
            vr = "private"
        else:
            try:
                vr = dictionary_VR(tag)
            except KeyError:
                vr = "UL" if tag & 0xFFFF == 0 else "UN"
        if len(self) < 1 << 16:  # hostile files may name very many
            self[tag] = vr
        return vr


class _Keys(dict[int, str]):
    """Names of elements in DICOM JSON: eight hexadecimal digits."""

    def __missing__(self, tag: int) -> str:
        key = f"{tag:08X}"
        if len(self) < 1 << 16:
            self[tag] = key
        return key


VRS_BY_TAG = _Tags()
KEYS = _Keys()

"""What identifies in a file's input, and whether any of it is left in the bytes of the output."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Any

from catchment.imaging import deidentify_table as table
from catchment.imaging.profile import Profile
from catchment.imaging.walk import BadFile

STANDARD = "1.2.840.10008."
SHORT = 2  # letters of what no text may hold as a word
WORD = re.compile(r"[^\W_]+", re.UNICODE)
_LEAST = 4  # bytes of what is looked for in the output
_DEFLATED = "1.2.840.10008.1.2.1.99"
_META = 144  # bytes of a file before those of its meta information that have a length
_ESCAPES = re.compile(rb"\x1b[$()\-.]{1,2}[@-Z]")
_END = b"\xff\xd9"  # of a picture
_PICTURES = {b"\xff\xd8": b"\xff\xda", b"\xff\x4f": b"\xff\x90"}  # JPEG, JPEG 2000: of the header

_LOOKED_FOR = frozenset(
    [
        "PatientID",
        "OtherPatientIDs",
        "PatientBirthDate",
        "AccessionNumber",
        "PatientAddress",
        "PatientTelephoneNumbers",
        "PatientMotherBirthName",
        "PatientBirthName",
        "InstitutionName",
        "InstitutionAddress",
        "MedicalRecordLocator",
        "IssuerOfPatientID",
        "AdmissionID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "SOPInstanceUID",
        "FrameOfReferenceUID",
        "RequestingService",
    ]
)


def names_of(dataset: Any) -> set[str]:
    """What identifies in the input, at every depth: to be looked for in the output."""
    found: set[str] = set()
    for element in dataset.iterall():
        if element.VR == "PN" or element.keyword in _LOOKED_FOR:
            values = element.value if isinstance(element.value, list | tuple) else [element.value]
            for value in values:
                text = str(value or "")
                found |= {text} if element.VR in ("UI", "DA") else set(WORD.findall(text))
    return {one for one in found if len(one) >= SHORT}


def is_long(name: str) -> bool:
    """Whether it is looked for in all bytes; two ideographs say as much as four letters."""
    return len(name.encode("utf-8", "replace")) >= _LEAST


def check_residue(made: bytes, dataset: Any, names: set[str], profile: Profile) -> None:
    """BadFile (``residual``) if the output's bytes hold any of the names, pixels aside."""
    text = b"\0".join(_texts(made, dataset)).lower()
    ours = f"{profile.name} catchment profile".lower()
    kept = {str(dataset.get(name) or "").lower() for name in table.MAKE} | {ours}
    foreign = frozenset[str]() if all(map(str.isascii, names)) else _encodings(dataset)
    for name in names:
        small = name.lower()
        if profile.uids and re.fullmatch(r"[0-9.]+", small):
            continue
        if name.startswith(STANDARD) or any(small in known for known in kept):
            continue
        if any(_stands(text, name, encoding) for encoding in _ways(name, foreign)):
            raise BadFile("residual")


def _texts(made: bytes, dataset: Any) -> Iterator[bytes]:
    """The bytes of a file without its pixels, and the headers of pictures that are compressed."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax == _DEFLATED:
        at = _META + int.from_bytes(made[_META - 4 : _META], "little")
        yield made[:at]
        made = zlib.decompressobj(-zlib.MAX_WBITS).decompress(made[at:])
    pixels: bytes = dataset.get("PixelData") or b""
    at = made.rfind(pixels) if pixels else -1
    if at < 0:
        yield made
        return
    yield made[:at]
    yield made[at + len(pixels) :]
    if syntax.is_encapsulated:
        yield from _beside_pictures(pixels)


def _beside_pictures(pixels: bytes) -> Iterator[bytes]:
    """Of JPEG and JPEG 2000: the headers, what stands behind the ends, and in no picture at all.

    A picture may be in several fragments.
    """
    from pydicom.encaps import generate_fragments

    within: bool | None = None
    for fragment in generate_fragments(pixels):
        if end := _PICTURES.get(fragment[:2]):
            yield fragment[: fragment.find(end)]
            within = True
        elif within is False:
            yield fragment
        if within and (last := fragment.rfind(_END)) >= 0:
            yield fragment[last + len(_END) :]
            within = False


def _encodings(dataset: Any) -> frozenset[str]:
    """Those that the output's own text may be in."""
    from pydicom.charset import python_encoding

    told: set[str] = set()
    for element in dataset.iterall():
        if element.keyword == "SpecificCharacterSet":
            value = element.value
            told |= {str(value)} if isinstance(value, str) else set(map(str, value or ()))
    return frozenset(python_encoding[one] for one in told if one in python_encoding)


def _ways(name: str, foreign: frozenset[str]) -> frozenset[str]:
    return frozenset({"utf-8"}) if name.isascii() else foreign | {"utf-8", "latin_1"}


def _stands(text: bytes, name: str, encoding: str) -> bool:
    """Whether a name stands in the text as a word of its own, in small letters or in capitals."""
    for form in {name.lower(), name.upper(), name.title()} if not name.isascii() else {name}:
        try:
            wanted = _ESCAPES.sub(b"", form.encode(encoding)).lower()
        except UnicodeEncodeError:
            continue
        edges = (rb"(?<![0-9a-z])", rb"(?![0-9a-z])")
        before, behind = edges if encoding in ("utf-8", "latin_1") else (b"", b"")
        if re.search(before + re.escape(wanted) + behind, text):
            return True
    return False

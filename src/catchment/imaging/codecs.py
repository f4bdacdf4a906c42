"""Frames of a file as arrays, and lossless copies of them. Native code: run it in a child."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from catchment.imaging.scan import Header, read_header
from catchment.imaging.walk import BadFile, Unscannable

if TYPE_CHECKING:
    from catchment.imaging.fallback import SlowHeader

type Array = np.ndarray[Any, Any]

JPEG = frozenset({"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"})
JPEG_LOSSLESS = frozenset({"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"})
JPEG_LS = frozenset({"1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"})
JPEG_2000 = frozenset({"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"})
HTJ2K = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (201, 202, 203))
RLE = "1.2.840.10008.1.2.5"
NATIVE = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1"})
PLAIN = NATIVE | JPEG | JPEG_LOSSLESS | JPEG_LS | JPEG_2000 | HTJ2K | {RLE}
MOST_PIXELS = 1 << 30  # bytes of one frame


class CannotDecode(Exception):
    """The argument says why, a slug."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How the pixels of a file are laid out."""

    rows: int
    columns: int
    frames: int
    samples: int
    allocated: int  # bits
    stored: int  # bits
    signed: bool
    planar: bool
    photometric: str

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of one sample, little endian."""
        return np.dtype(f"<{'i' if self.signed else 'u'}{max(self.allocated, 8) // 8}")

    @property
    def frame_bits(self) -> int:
        """Of one frame that is not compressed."""
        return self.rows * self.columns * self.samples * self.allocated


class Frame(NamedTuple):
    """One frame: (rows, columns), or (rows, columns, 3) in the colours of ``photometric``."""

    number: int  # from 0
    pixels: Array
    photometric: str


def shape_of(header: Any) -> Shape:
    """CannotDecode (``no-pixels``, ``pixels-undescribed``) where the header does not say."""
    pixels = header.pixels
    if pixels is None:
        raise CannotDecode("no-pixels")

    def whole(tag: int, default: int | None = None) -> int:
        found = header.values(tag)
        value = found[0] if found else default
        if not isinstance(value, int) or value < 0:
            raise CannotDecode("pixels-undescribed")
        return value

    real = {0x7FE00008: 32, 0x7FE00009: 64}.get(pixels.tag)
    allocated = real or whole(0x00280100)
    if allocated not in (1, 8, 16, 32, 64):
        raise CannotDecode("bits-unknown")
    photometric = (header.values(0x00280004) or ["MONOCHROME2"])[0]
    shape = Shape(
        whole(0x00280010),
        whole(0x00280011),
        max(whole(0x00280008, 1), 1),
        whole(0x00280002, 1),
        allocated,
        whole(0x00280101, allocated),
        whole(0x00280103, 0) == 1,
        whole(0x00280006, 0) == 1,
        str(photometric),
    )
    if not 0 < shape.frame_bits <= MOST_PIXELS * 8 or shape.samples not in (1, 3):
        raise CannotDecode("pixels-undescribed")
    return shape


def read_frames(data: bytes, wanted: Sequence[int] | None = None) -> Iterator[Frame]:
    """The wanted frames (from 0), or all of them, of the bytes of a file.

    CannotDecode, or whatever a decoder raises, for what cannot be decoded.
    """
    header = _located(data)
    if header is None:
        yield from _by_pydicom(data, wanted)
        return
    shape = shape_of(header)
    numbers = range(shape.frames) if wanted is None else [n for n in wanted if n < shape.frames]
    if header.syntax in NATIVE and header.pixels and header.pixels.length is not None:
        for number in numbers:
            yield Frame(number, _native(data, header, shape, number), shape.photometric)
    elif header.syntax in NATIVE:
        yield from _by_pydicom(data, wanted)
    else:
        yield from _encapsulated(data, header, shape, set(numbers))


def _located(data: bytes) -> Header | SlowHeader | None:
    """The header of a file whose pixels stand in it as they are; None for what is odder than that.

    Text of several bytes a character, say, is nothing that pixels could suffer from.
    """
    from catchment.imaging.read import slowly

    try:
        return read_header(lambda start, length: data[start : start + length], len(data))
    except BadFile:
        return None
    except Unscannable:
        header = slowly(io.BytesIO(data), len(data))
        return header if header.pixels and header.syntax in PLAIN else None


def _native(data: bytes, header: Header | SlowHeader, shape: Shape, number: int) -> Array:
    start = header.pixels.start if header.pixels else 0
    if shape.allocated == 1:
        return _bits(data, start, shape, number)
    if shape.samples == 3 and shape.photometric == "YBR_FULL_422":
        return _halved(data, start, shape, number)
    size = shape.frame_bits // 8
    raw = data[start + number * size : start + (number + 1) * size]
    if len(raw) < size:
        raise CannotDecode("pixels-truncated")
    real = header.pixels is not None and header.pixels.tag != 0x7FE00010
    dtype = np.dtype(f"<f{shape.allocated // 8}") if real else shape.dtype
    return _arranged(np.frombuffer(raw, dtype), shape)


def _arranged(flat: Array, shape: Shape) -> Array:
    if shape.samples == 1:
        return flat.reshape(shape.rows, shape.columns)
    if shape.planar:
        return np.moveaxis(flat.reshape(shape.samples, shape.rows, shape.columns), 0, 2)
    return flat.reshape(shape.rows, shape.columns, shape.samples)


def _halved(data: bytes, start: int, shape: Shape, number: int) -> Array:
    """Pixels whose colours are told for each two of them (PS3.3 C.7.6.3.1.2): Y Y Cb Cr."""
    if shape.allocated != 8 or shape.columns % 2:
        raise CannotDecode("pixels-undescribed")
    size = shape.rows * shape.columns * 2
    raw = np.frombuffer(data[start + number * size : start + (number + 1) * size], np.uint8)
    if raw.size < size:
        raise CannotDecode("pixels-truncated")
    pairs = raw.reshape(-1, 4)
    made = np.stack([pairs[:, [0, 2, 3]], pairs[:, [1, 2, 3]]], axis=1)
    return made.reshape(shape.rows, shape.columns, 3)


def stored_only(pixels: Array, shape: Shape) -> Array:
    """Without what stands in the bits above those that are stored: overlays, or what is odd."""
    if pixels.dtype.kind not in "iu" or shape.stored >= pixels.dtype.itemsize * 8:
        return pixels
    masked = pixels & ((1 << shape.stored) - 1)
    if not shape.signed:
        return masked
    half = 1 << (shape.stored - 1)
    return (masked ^ half) - half


def _bits(data: bytes, start: int, shape: Shape, number: int) -> Array:
    """Pixels of one bit, eight to a byte; frames need not begin at a byte."""
    count = shape.rows * shape.columns
    first = number * count
    raw = np.frombuffer(data[start + first // 8 : start + (first + count + 7) // 8], np.uint8)
    bits = np.unpackbits(raw, bitorder="little")[first % 8 : first % 8 + count]
    if bits.size < count:
        raise CannotDecode("pixels-truncated")
    return bits.reshape(shape.rows, shape.columns)


def _encapsulated(
    data: bytes, header: Header | SlowHeader, shape: Shape, wanted: set[int]
) -> Iterator[Frame]:
    from pydicom.encaps import generate_frames

    from catchment.imaging.fallback import quiet

    decode = _decoder(header.syntax or "")
    start = header.pixels.start if header.pixels else 0
    with quiet():
        pieces = generate_frames(data[start:], number_of_frames=shape.frames)
        for number, piece in enumerate(pieces):
            if number in wanted:
                pixels, photometric = decode(piece, shape)
                expected = (shape.rows, shape.columns) + ((3,) if shape.samples == 3 else ())
                if pixels.shape != expected:
                    raise CannotDecode("frame-differs")
                yield Frame(number, pixels, photometric)
            if wanted and number >= max(wanted):
                return


def _decoder(syntax: str) -> Callable[[bytes, Shape], tuple[Array, str]]:
    try:
        import imagecodecs
    except ImportError:
        raise CannotDecode("no-codecs") from None
    if syntax in JPEG:
        return _jpeg
    if syntax in JPEG_LOSSLESS:
        return lambda data, shape: (
            _signed(imagecodecs.jpegsof3_decode(data), shape),
            shape.photometric,
        )
    if syntax in JPEG_LS:
        return lambda data, shape: (
            _signed(imagecodecs.jpegls_decode(data), shape),
            shape.photometric,
        )
    if syntax in JPEG_2000 or syntax in HTJ2K:
        return lambda data, shape: (
            _signed(imagecodecs.jpeg2k_decode(data), shape),
            _unmixed(shape),
        )
    if syntax == RLE:
        return _rle
    raise CannotDecode("syntax-unknown")


def _jpeg(data: bytes, shape: Shape) -> tuple[Array, str]:
    import imagecodecs

    if shape.samples == 1:
        return _signed(imagecodecs.jpeg8_decode(data), shape), shape.photometric
    colours = "RGB" if shape.photometric == "RGB" else "YCBCR"
    made = imagecodecs.jpeg8_decode(data, colorspace=colours, outcolorspace="RGB")
    return made, "RGB"


def _rle(data: bytes, shape: Shape) -> tuple[Array, str]:
    import imagecodecs

    flat = np.frombuffer(imagecodecs.dicomrle_decode(data, shape.dtype), shape.dtype)
    if flat.size != shape.rows * shape.columns * shape.samples:
        raise CannotDecode("frame-differs")
    planes = flat.reshape(shape.samples, shape.rows, shape.columns)
    return (planes[0] if shape.samples == 1 else np.moveaxis(planes, 0, 2)), shape.photometric


def _unmixed(shape: Shape) -> str:
    """JPEG 2000 takes its own colour transform back."""
    return "RGB" if shape.photometric in ("YBR_ICT", "YBR_RCT") else shape.photometric


def _signed(pixels: Array, shape: Shape) -> Array:
    """What decoders give as unsigned, where the header says that it is signed."""
    if not shape.signed or pixels.dtype.kind == "i":
        return pixels
    wide = pixels.astype(np.int64)
    half = 1 << (shape.stored - 1)
    return ((wide & (2 * half - 1)) ^ half) - half


def _by_pydicom(data: bytes, wanted: Sequence[int] | None) -> Iterator[Frame]:
    """What is odd: big endian, deflated, without a preamble."""
    import pydicom
    from pydicom.pixels.utils import iter_pixels

    from catchment.imaging.fallback import quiet, syntax_of

    with quiet():
        dataset = pydicom.dcmread(io.BytesIO(data), force=True)
        if "PixelData" not in dataset:
            raise CannotDecode("no-pixels")
        if "TransferSyntaxUID" not in dataset.file_meta:  # that which it was read with
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax_of(dataset))
        photometric = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
        if photometric.startswith("YBR"):
            photometric = "RGB"  # which is what pydicom makes of it
        for number, pixels in enumerate(iter_pixels(dataset)):
            if wanted is None or number in wanted:
                yield Frame(number, pixels, photometric)


class Copy(NamedTuple):
    """A lossless copy of a frame."""

    data: bytes
    suffix: str


def lossless(pixels: Array, codec: str) -> Copy:
    """A copy of a frame that decodes to the same bits: it was decoded to see.

    CannotDecode (``not-lossless``, ``codec-cannot``) where there is none.
    """
    import imagecodecs

    if pixels.dtype.kind not in "iu" or pixels.dtype.itemsize > 2:
        raise CannotDecode("codec-cannot")
    plain = np.ascontiguousarray(pixels).view(f"u{pixels.dtype.itemsize}")
    if codec == "jpegls":
        made, decode, suffix = imagecodecs.jpegls_encode(plain), imagecodecs.jpegls_decode, "jls"
    elif codec == "htj2k":
        made = imagecodecs.htj2k_encode(plain, reversible=True)
        decode, suffix = imagecodecs.htj2k_decode, "jph"
    else:
        raise CannotDecode("codec-cannot")
    back = decode(made)
    if back.shape != plain.shape or back.dtype != plain.dtype or not np.array_equal(back, plain):
        raise CannotDecode("not-lossless")
    return Copy(bytes(made), suffix)

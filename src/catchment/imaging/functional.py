"""What a file says of each of its frames: functional groups, PS3.3 C.7.6.16.

An enhanced multi-frame file says position, orientation, spacing, rescaling and window in sequences:
once for all frames, or once for each. A classic one says them at its top level. Both are asked in
the same way; what a frame says itself goes before what all share, and both before the top level.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

SHARED, PER_FRAME = 0x52009229, 0x52009230
# The macro that an attribute stands in: PS3.3 C.7.6.16.2.
MACROS = {
    0x00200032: 0x00209113,  # ImagePositionPatient: PlanePositionSequence
    0x00200037: 0x00209116,  # ImageOrientationPatient: PlaneOrientationSequence
    0x00280030: 0x00289110,  # PixelSpacing: PixelMeasuresSequence
    0x00180050: 0x00289110,  # SliceThickness
    0x00281052: 0x00289145,  # RescaleIntercept: PixelValueTransformationSequence
    0x00281053: 0x00289145,  # RescaleSlope
    0x00281050: 0x00289132,  # WindowCenter: FrameVOILUTSequence
    0x00281051: 0x00289132,  # WindowWidth
    0x00281056: 0x00289132,  # VOILUTFunction
}


class Frames:
    """The frames of a file, from 0, with what its header says of each."""

    def __init__(self, header: Any) -> None:
        self._header = header

    @cached_property
    def _shared(self) -> dict[str, Any]:
        items = self._header.values(SHARED) or [{}]
        return items[0] if isinstance(items[0], dict) else {}

    @cached_property
    def _own(self) -> list[dict[str, Any]]:
        return self._header.values(PER_FRAME) or []

    @property
    def told(self) -> int:
        """How many frames have functional groups of their own."""
        return len(self._own)

    def values(self, tag: int, frame: int = 0) -> list[Any] | None:
        """The values that hold for a frame, in DICOM JSON; None where the file does not say."""
        macro = MACROS.get(tag)
        if macro is not None:
            own = self._own[frame] if frame < len(self._own) else {}
            found: list[Any] = _inside(own, macro, tag) or _inside(self._shared, macro, tag)
            if found:
                return found
        values: list[Any] | None = self._header.values(tag)
        return values


def _inside(group: Any, macro: int, tag: int) -> Any:
    """The values of an attribute in the first item of a macro's sequence."""
    found: Any = [group]
    for number in (macro, tag):
        group = found[0]
        found = group.get(f"{number:08X}", {}).get("Value") if isinstance(group, dict) else None
        if not found:
            return []
    return found

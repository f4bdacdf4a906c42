"""Makers of DICOM files, small and valid, with what a test wants to say in them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

CT, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
EXPLICIT = "1.2.840.10008.1.2.1"


def make_file(
    instance: str = "1.2.3.1.1.1",
    *,
    series: str = "1.2.3.1.1",
    study: str = "1.2.3.1",
    patient: str = "P1",
    syntax: str = EXPLICIT,
    pixels: np.ndarray[Any, Any] | None = None,
    **attributes: Any,
) -> bytes:
    """A CT image of 16 x 16 pixels, or of the pixels that are given (frames, rows, columns).

    Attributes by keyword; None leaves one out.
    """
    import warnings

    from pydicom import dcmwrite
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID

    if pixels is None:
        pixels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    meta.MediaStorageSOPClassUID = UID(CT)
    meta.MediaStorageSOPInstanceUID = UID(instance)
    dataset = Dataset()
    dataset.file_meta = meta
    known = {
        "SOPClassUID": CT,
        "SOPInstanceUID": instance,
        "SeriesInstanceUID": series,
        "StudyInstanceUID": study,
        "PatientID": patient,
        "PatientName": f"Test^{patient}",
        "PatientBirthDate": "19700102",
        "PatientSex": "O",
        "StudyDate": "20260102",
        "StudyTime": "101112",
        "AccessionNumber": "A1",
        "ReferringPhysicianName": "",
        "StudyID": "1",
        "Modality": "CT",
        "Manufacturer": "Makers",
        "SeriesNumber": 1,
        "InstanceNumber": 1,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1],
        "BitsAllocated": pixels.dtype.itemsize * 8,
        "BitsStored": pixels.dtype.itemsize * 8,
        "HighBit": pixels.dtype.itemsize * 8 - 1,
        "PixelRepresentation": int(np.issubdtype(pixels.dtype, np.signedinteger)),
    }
    if pixels.ndim > 2:
        known["NumberOfFrames"] = pixels.shape[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd values are written as they are given
        for name, value in (known | attributes).items():
            if value is not None:
                setattr(dataset, name, value)
    raw = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    dataset.PixelData = raw + b"\0" * (len(raw) % 2)
    dataset["PixelData"].VR = "OW" if pixels.dtype.itemsize > 1 else "OB"
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def make_enhanced(
    instance: str, frames: Sequence[Mapping[str, Any]], pixels: np.ndarray[Any, Any], **more: Any
) -> bytes:
    """An enhanced multi-frame image with functional groups (PS3.3 C.7.6.16).

    What all frames say alike is shared, the rest stands in the group of each.

    Args:
        instance: its SOPInstanceUID.
        frames: for each frame its attributes by keyword: those of
            :data:`catchment.imaging.functional.MACROS`.
        pixels: frames, rows, columns.
        more: attributes of the file, as in :func:`make_file`.
    """
    from pydicom.datadict import keyword_for_tag, tag_for_keyword
    from pydicom.dataset import Dataset

    from catchment.imaging.functional import MACROS

    def group(said: Mapping[str, Any]) -> Dataset:
        made = Dataset()
        for name, value in said.items():
            macro = keyword_for_tag(MACROS[int(tag_for_keyword(name) or 0)])
            if macro not in made:
                setattr(made, macro, [Dataset()])
            setattr(getattr(made, macro)[0], name, value)
        return made

    shared = {k: v for k, v in frames[0].items() if all(f.get(k) == v for f in frames)}
    own = [group({k: v for k, v in frame.items() if k not in shared}) for frame in frames]
    said: dict[str, Any] = {
        "SOPClassUID": ENHANCED_CT,
        "NumberOfFrames": len(pixels),
        "SharedFunctionalGroupsSequence": [group(shared)],
        "PerFrameFunctionalGroupsSequence": own,
    }
    return make_file(instance, pixels=pixels, **said | more)

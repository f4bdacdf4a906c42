"""The five entities and their columns, by DICOM keyword, with the type that each column has."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

DEVICES = """
DeviceSerialNumber InstitutionAddress InstitutionalDepartmentName InstitutionName Manufacturer
ManufacturerModelName SoftwareVersions StationName
"""
PATIENTS = """
Allergies BranchOfService CountryOfResidence EthnicGroup IssuerOfPatientID MilitaryRank Occupation
OtherPatientIDs OtherPatientNames PatientAddress PatientAge PatientBirthDate PatientBirthName
PatientBirthTime PatientComments PatientID PatientMotherBirthName PatientName
PatientReligiousPreference PatientSex PatientSize PatientTelephoneNumbers PatientWeight
RegionOfResidence SmokingStatus SpecialNeeds
"""
STUDIES = """
StudyInstanceUID AccessionNumber AdditionalPatientHistory AdmittingDiagnosesDescription
LastMenstrualDate MedicalAlerts MedicalRecordLocator NameOfPhysiciansReadingStudy PatientID
PatientState PhysiciansOfRecord ReferringPhysicianName RequestedProcedureDescription
RequestingPhysician RequestingService ScheduledStudyStartDate ScheduledStudyStartTime SeriesDate
SpecialNeeds StudyComments StudyDate StudyDescription StudyID StudyTime
"""
SERIES = """
SeriesInstanceUID StudyInstanceUID BodyPartExamined DeviceSerialNumber FrameOfReferenceUID Modality
PerformedProcedureStepDescription PerformedProcedureStepID PerformedProcedureStepStartDate
PerformedProcedureStepStartTime PerformingPhysicianName PositionReferenceIndicator ProtocolName
ReferencedPerformedProcedureStepSequence RelatedSeriesSequence RequestAttributesSequence SeriesDate
SeriesDescription SeriesNumber SeriesTime StudyDate StudyID Laterality PatientPosition
"""
IMAGES = """
SOPInstanceUID SOPClassUID SeriesInstanceUID StudyInstanceUID InstanceNumber AcquisitionNumber
ImageType InstanceCreationDate InstanceCreationTime AcquisitionDate AcquisitionTime
AcquisitionDateTime ContentDate ContentTime ImageComments BurnedInAnnotation
RecognizableVisualFeatures LossyImageCompression LossyImageCompressionRatio
LossyImageCompressionMethod QualityControlImage PatientIdentityRemoved DeidentificationMethod
LongitudinalTemporalInformationModified ImagePositionPatient ImageOrientationPatient PixelSpacing
ImagerPixelSpacing NominalScannedPixelSpacing SliceThickness SpacingBetweenSlices SliceLocation
PatientOrientation ImageLaterality TemporalPositionIdentifier NumberOfTemporalPositions
TemporalResolution SamplesPerPixel PhotometricInterpretation PlanarConfiguration Rows Columns
NumberOfFrames BitsAllocated BitsStored HighBit PixelRepresentation PixelAspectRatio
SmallestImagePixelValue LargestImagePixelValue PixelPaddingValue PixelPaddingRangeLimit
RescaleSlope RescaleIntercept RescaleType WindowCenter WindowWidth WindowCenterWidthExplanation
VOILUTFunction PresentationLUTShape FrameTime FrameTimeVector CineRate RecommendedDisplayFrameRate
ScanningSequence SequenceVariant ScanOptions MRAcquisitionType SequenceName AngioFlag
RepetitionTime EchoTime InversionTime NumberOfAverages ImagingFrequency ImagedNucleus EchoNumbers
MagneticFieldStrength NumberOfPhaseEncodingSteps EchoTrainLength PercentSampling
PercentPhaseFieldOfView PixelBandwidth TriggerTime NominalInterval HeartRate
CardiacNumberOfImages ReconstructionDiameter ReceiveCoilName TransmitCoilName AcquisitionMatrix
InPlanePhaseEncodingDirection FlipAngle VariableFlipAngleFlag SAR dBdt DiffusionBValue
DiffusionGradientOrientation ContrastBolusAgent ContrastBolusRoute ContrastBolusVolume
ContrastBolusStartTime ContrastBolusTotalDose KVP DataCollectionDiameter
DistanceSourceToDetector DistanceSourceToPatient GantryDetectorTilt TableHeight RotationDirection
ExposureTime XRayTubeCurrent Exposure FilterType GeneratorPower FocalSpots ConvolutionKernel
SingleCollimationWidth TotalCollimationWidth TableSpeed TableFeedPerRotation SpiralPitchFactor
CTDIvol EstimatedDoseSaving ViewPosition BodyPartThickness CompressionForce
RelativeXRayExposure DetectorType TransducerData TransducerType MechanicalIndex BoneThermalIndex
SoftTissueThermalIndex DepthOfScanField SequenceOfUltrasoundRegions Units CountsSource
DecayCorrection DecayFactor DoseCalibrationFactor ReconstructionMethod AttenuationCorrectionMethod
ScatterCorrectionMethod FrameReferenceTime ActualFrameDuration
RadiopharmaceuticalInformationSequence
EnergyWindowInformationSequence NumberOfEnergyWindows NumberOfDetectors DetectorInformationSequence
NumberOfSlices NumberOfTimeSlices SharedFunctionalGroupsSequence ReferencedImageSequence
SourceImageSequence
"""
ENTITIES = {
    "devices": DEVICES.split(),
    "patients": PATIENTS.split(),
    "studies": [*STUDIES.split(), "PatientAge", "PatientSize", "PatientWeight"],
    "series": SERIES.split(),
    "images": IMAGES.split(),
}
# The key of each, and what it refers to.
KEYS = {
    "devices": "device_key",
    "patients": "patient_key",
    "studies": "StudyInstanceUID",
    "series": "SeriesInstanceUID",
    "images": "SOPInstanceUID",
}

_DATE = re.compile(r"(\d{4})([.-]?)(\d{2})\2(\d{2})")
_TIME = re.compile(r"(\d{2})(?::?(\d{2})(?::?(\d{2})(?:\.(\d{1,6}))?)?)?")
_DATETIME = re.compile(
    r"(\d{4})(\d{2})?(\d{2})?(\d{2})?(\d{2})?(?:(\d{2})(?:\.(\d{1,6}))?)?([+-]\d{4})?"
)
_INTEGER_VRS = frozenset({"IS", "SL", "SS", "SV", "UL", "US", "UV", "US or SS"})
_REAL_VRS = frozenset({"DS", "FD", "FL"})
_INT64 = 1 << 63


class Odd(ValueError):
    """A value that its column's type does not hold."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: where its value stands and how it is typed.

    Attributes:
        kind: ``text``, ``integer``, ``real``, ``date``, ``time``, ``instant`` or ``json``.
        many: it is a list, since the attribute may have several values.
        convert: from the values in DICOM JSON; Odd where they do not fit.
    """

    name: str
    tag: int
    kind: str
    many: bool
    convert: Callable[[list[Any]], Any]


@cache
def columns() -> dict[str, Column]:
    """Every column of the five entities, by keyword, each once."""
    from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword

    made = {}
    for names in ENTITIES.values():
        for name in names:
            tag = tag_for_keyword(name)
            if tag is None:
                raise KeyError(name)
            vr, several = dictionary_VR(tag), dictionary_VM(tag) != "1"
            kind, one = _kind(vr)
            many = several and kind not in ("text", "json")
            convert = _several(one) if many else _text if kind == "text" else _one(one)
            made[name] = Column(name, int(tag), kind, many, _json if kind == "json" else convert)
    return made


@cache
def typed_tags() -> frozenset[int]:
    """The tags that have columns: they are left out of the attributes in JSON."""
    return frozenset(column.tag for column in columns().values())


def arrow_type(column: Column) -> pa.DataType:
    """The Arrow type of a column."""
    import pyarrow as pa

    single = {
        "text": pa.string(),
        "json": pa.string(),
        "integer": pa.int64(),
        "real": pa.float64(),
        "date": pa.date32(),
        "time": pa.time64("us"),
        "instant": pa.timestamp("us"),
    }[column.kind]
    return pa.list_(single) if column.many else single


def _kind(vr: str) -> tuple[str, Callable[[Any], Any]]:
    if vr in _INTEGER_VRS:
        return "integer", _integer
    if vr in _REAL_VRS:
        return "real", _real
    known: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "DA": ("date", day),
        "TM": ("time", clock),
        "DT": ("instant", instant),
        "SQ": ("json", _text),
    }
    return known.get(vr, ("text", _text))


def _one(convert: Callable[[Any], Any]) -> Callable[[list[Any]], Any]:
    def single(found: list[Any]) -> Any:
        if len(found) != 1:
            raise Odd
        return convert(found[0])

    return single


def _several(convert: Callable[[Any], Any]) -> Callable[[list[Any]], Any]:
    return lambda found: [convert(one) for one in found]


def _text(found: list[Any]) -> str | None:
    first = found[0]
    if len(found) == 1 and isinstance(first, str):
        return first.strip() or None
    return "\\".join(_part(one) for one in found).strip() or None


def _part(value: Any) -> str:
    if isinstance(value, dict):  # a person's name
        return "=".join(str(value.get(k) or "") for k in _GROUPS).rstrip("=")
    return "" if value is None else str(value)


_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


def _json(found: list[Any]) -> str | None:
    import msgspec

    return msgspec.json.encode(found).decode() if found else None


def _integer(value: Any) -> int | None:
    if value is None or (isinstance(value, int) and -_INT64 <= value < _INT64):
        return value
    raise Odd


def _real(value: Any) -> float | None:
    if value is None or isinstance(value, float):
        return value
    if isinstance(value, int):
        return float(value)
    raise Odd


@lru_cache(4096)
def day(value: str | None) -> date | None:
    """A DICOM date, of the old form too; Odd if it is none."""
    if not value or not value.strip():
        return None
    match = _DATE.fullmatch(value.strip())
    try:
        return date(int(match[1]), int(match[3]), int(match[4]))  # type: ignore[index]
    except (ValueError, TypeError):
        raise Odd from None


@lru_cache(4096)
def clock(value: str | None) -> time | None:
    """A DICOM time, of the old form too; Odd if it is none."""
    if not value or not value.strip():
        return None
    match = _TIME.fullmatch(value.strip())
    try:
        hour, minute, second, part = match.groups()  # type: ignore[union-attr]
        return time(int(hour), int(minute or 0), int(second or 0), int((part or "").ljust(6, "0")))
    except (ValueError, AttributeError):
        raise Odd from None


@lru_cache(4096)
def instant(value: str | None) -> datetime | None:
    """A DICOM date and time without a zone; Odd if it has one, or is none."""
    if not value or not value.strip():
        return None
    match = _DATETIME.fullmatch(value.strip())
    if match is None or match[8]:
        raise Odd
    year, month, of_month, hour, minute, second, part = match.groups()[:7]
    try:
        return datetime(  # noqa: DTZ001 - the file names no zone
            int(year),
            int(month or 1),
            int(of_month or 1),
            int(hour or 0),
            int(minute or 0),
            int(second or 0),
            int((part or "").ljust(6, "0")),
        )
    except ValueError:
        raise Odd from None

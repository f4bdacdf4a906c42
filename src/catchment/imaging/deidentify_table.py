"""What becomes of attributes that table E.1-1 (:mod:`.deidentify_standard`) does not list.

The table lists what identifies. Of what it does not list, text, names, dates and bytes go unless
they are known to be safe: lists say what stays, what stays empty because its module requires it,
and what else goes. They also choose where the table leaves a choice.
"""

from __future__ import annotations

from typing import Any

# Type 2 of common modules: they stay, without a value.
EMPTY = frozenset(
    [
        "ReceiveCoilManufacturerName",
        "TransmitCoilManufacturerName",
        "Laterality",
        "PatientOrientation",
        "PositionReferenceIndicator",
        "Manufacturer",
        "SeriesNumber",
        "InstanceNumber",
        "ContentCreatorName",
        "OperatorsName",
    ]
)

# Type 1 where they stand in newer kinds of objects: they get a value that says nothing.
DUMMY = frozenset(
    [
        "AlgorithmName",
        "AlgorithmVersion",
        "MetaboliteMapDescription",
        "MultiCoilElementName",
        "RTPlanDate",
        "RTPlanTime",
        "AcquisitionDateTime",
        "CodeMeaning",
        "ContentDate",
        "ContentDescription",
        "ContentTime",
        "DeviceSerialNumber",
        "SegmentAlgorithmName",
        "SegmentDescription",
        "TrackingID",
        "TextValue",
    ]
)
NOTHING: dict[str, Any] = {
    "DA": "19000101",
    "TM": "000000",
    "DT": "19000101000000",
    "AS": "000Y",
    "UR": "urn:catchment:deidentified",
    "OB": b"\0\0",
    "UN": b"\0\0",
    "US": 0,
    "FD": 0.0,
}
NO_TEXT = "DEIDENTIFIED"

# Text that says how a picture was made, or a code, and no more.
TECHNICAL = frozenset(
    [
        "AlgorithmName",
        "AlgorithmVersion",
        "ContrastBolusRoute",
        "ConvolutionKernel",
        "DerivationImplementation",
        "EchoNumbers",
        "FilterMaterial",
        "FilterType",
        "ImagedNucleus",
        "ImageType",
        "LossyImageCompressionMethod",
        "OpticalPathIdentifier",
        "ModalityLUTType",
        "PulseSequenceName",
        "ReceiveCoilName",
        "ReconstructionAlgorithm",
        "RescaleType",
        "SegmentLabel",
        "SequenceName",
        "TransducerType",
        "TransmitCoilName",
        "UnitsOfMeasure",
        "WindowCenterWidthExplanation",
        "DimensionDescriptionLabel",
        "DimensionOrganizationType",
        "LUTExplanation",
        "MeasurementUnitsCode",
        "StackID",
        "TriggerSourceOrType",
        "EffectiveRefreshRate",
        "ReconstructionMethod",
        "ScanOptions",
        "AttenuationCorrectionMethod",
        "ScatterCorrectionMethod",
        "RandomsCorrectionMethod",
    ]
)

# Text that codes need: it is not taken out of them, whatever it says.
CODED = frozenset({"CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "MappingResource"})

# What names the device; kept with the option to retain its identity.
DEVICE = frozenset(
    [
        "DeviceSerialNumber",
        "DeviceUID",
        "Manufacturer",
        "ManufacturerModelName",
        "SoftwareVersions",
        "StationName",
        "DetectorID",
        "GantryID",
        "PlateID",
        "DeviceDescription",
        "ManufacturerDeviceIdentifier",
        "CassetteID",
        "GeneratorID",
        "PerformedStationName",
        "ScheduledStationName",
        "TreatmentMachineName",
        "UniqueDeviceIdentifier",
        "XRayDetectorID",
        "XRayDetectorLabel",
        "XRaySourceID",
        "LensMake",
        "LensModel",
        "LensSerialNumber",
        "LensSpecification",
        "SourceManufacturer",
        "SourceSerialNumber",
        "ManufacturerDeviceClassUID",
    ]
)
# Not identifying by itself: kept in any case, since calibrations depend on it.
MAKE = frozenset({"Manufacturer", "ManufacturerModelName", "SoftwareVersions"})

# What describes a patient without naming one; kept with the option to retain characteristics.
CHARACTERISTICS = frozenset(
    [
        "PatientAge",
        "PatientSex",
        "PatientSize",
        "PatientWeight",
        "EthnicGroup",
        "SmokingStatus",
        "PregnancyStatus",
        "PatientSexNeutered",
    ]
)

# Sequences that go whole, at any depth.
SEQUENCES = frozenset(
    [
        "OperatorIdentificationSequence",
        "RequestingPhysicianIdentificationSequence",
        "RequestedProcedureCodeSequence",
        "ScheduledProcedureStepSequence",
        "MACParametersSequence",
        "PersonIdentificationCodeSequence",
        "GraphicAnnotationSequence",
        "EncryptedAttributesSequence",
        "ContributingEquipmentSequence",
        "IssuerOfPatientIDQualifiersSequence",
        "StudiesContainingOtherReferencedInstancesSequence",
        "HumanPerformerCodeSequence",
        "IssuerOfAccessionNumberSequence",
        "NonidentifyingPrivateElements",
        "DeidentificationActionSequence",
    ]
)

# Of those that the table lets go or be empty: they stay, without items, as modules require them.
HOLLOW = frozenset({"AcquisitionContextSequence"})
HOLLOW_IN_REPORTS = frozenset({"ReferencedPerformedProcedureStepSequence"})
REPORTS = "1.2.840.10008.5.1.4.1.1.88."

# Values of code strings, numbers and the like that go all the same.
ALSO = frozenset(
    [
        "PatientSexNeutered",
        "ResponsiblePersonRole",
        "InterpretationStatusID",
        "OverlayData",
        "CurveData",
        "AudioSampleData",
        "PatientIdentityRemoved",
        "DeidentificationMethod",
        "DeidentificationMethodCodeSequence",
        "LongitudinalTemporalInformationModified",
    ]
)

# Bytes that stay: pixels, and the tables that their display needs.
BYTES = frozenset(
    [
        "PixelData",
        "FloatPixelData",
        "DoubleFloatPixelData",
        "RedPaletteColorLookupTableData",
        "GreenPaletteColorLookupTableData",
        "BluePaletteColorLookupTableData",
        "LUTData",
        "ICCProfile",
        "SegmentedRedPaletteColorLookupTableData",
        "ExtendedOffsetTable",
        "SegmentedGreenPaletteColorLookupTableData",
        "SegmentedBluePaletteColorLookupTableData",
        "ExtendedOffsetTableLengths",
        "DoublePointCoordinatesData",
        "FloatingPointValues",
        "AnnotationIndexList",
        "WaveformData",
        "WaveformPaddingValue",
        "PointCoordinatesData",
        "LongPrimitivePointIndexList",
        "PointIndexList",
        "SurfaceFloatData",
        "SpectroscopyData",
    ]
)

# UIDs that say of what kind a thing is, not which one.
CLASSES = frozenset(
    [
        "SOPClassUID",
        "ReferencedSOPClassUID",
        "MediaStorageSOPClassUID",
        "TransferSyntaxUID",
        "CodingSchemeUID",
        "ContextGroupExtensionCreatorUID",
        "ContextUID",
        "MappingResourceUID",
        "SOPClassesInStudy",
        "ImplementationClassUID",
        "RelatedGeneralSOPClassUID",
        "OriginalSpecializedSOPClassUID",
        "ReferencedTransferSyntaxUIDInFile",
    ]
)

# Schemes whose meanings are standard words.
SCHEMES = frozenset({"DCM", "SCT", "SRT", "SNM3", "LN", "UCUM", "RADLEX", "FMA", "UMLS", "NCIt"})

# Pictures of these often show names: they need a look unless they say that they do not.
SHOWING = frozenset(  # (The second line has retired ones.)
    [
        "US",
        "ES",
        "XC",
        "GM",
        "OT",
        "XA",
        "RF",
        "OP",
        "ECG",
        "DOC",
        "IVUS",
        "BDUS",
        "HC",
        "CD",
        "DD",
        "EC",
        "VF",
        "DF",
        "CF",
        "DG",
        "CP",
        "FA",
        "FS",
    ]
)
SOP = "1.2.840.10008.5.1.4.1.1"
AUDIO = "1.2.840.10008.5.1.4.1.1.9.4."  # waveforms in which somebody may speak
# The same by SOP class: secondary capture, ultrasound, angiography, fluoroscopy, photographs.
SHOWN = tuple(
    f"{SOP}.{one}."
    for one in ("7", "3", "6", "12.1", "12.2", "77.1.1", "77.1.2", "77.1.4", "77.1.5.1", "77.1.5.2")
)
SLIDES = f"{SOP}.77.1.6"  # whole slides of microscopes; of these, pictures of the slide's label:
LABELLED = frozenset({"LABEL", "OVERVIEW"})

# PS3.16 CID 7050.
CODES = {
    "basic": ("113100", "Basic Application Confidentiality Profile"),
    "shifted": ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    "patient": ("113108", "Retain Patient Characteristics Option"),
    "device": ("113109", "Retain Device Identity Option"),
    "uids": ("113110", "Retain UIDs Option"),
    "private": ("113111", "Retain Safe Private Option"),
}

"""What becomes of each attribute: PS3.15 Annex E, turned around: what is not known to be safe goes.

Annex E lists what identifies. Here the default for text, names, dates and bytes is to remove, and
lists say what stays, what stays empty because its module requires it, and what else goes.
"""

from __future__ import annotations

# Type 2 of common modules: they stay, without a value.
EMPTY = frozenset(
    [
        "AccessionNumber",
        "PatientBirthDate",
        "PatientSex",
        "ReferringPhysicianName",
        "StudyDate",
        "StudyID",
        "StudyTime",
        "Laterality",
        "PatientOrientation",
        "PositionReferenceIndicator",
        "Manufacturer",
        "SeriesNumber",
        "InstanceNumber",
        "ContentCreatorName",
        "PatientComments",
        "ConsultingPhysicianName",
        "RTPlanDate",
        "RTPlanTime",
        "StructureSetDate",
        "StructureSetTime",
        "OperatorsName",
    ]
)

# Type 1 where they stand in newer kinds of objects: they get a value that says nothing.
DUMMY = frozenset(
    {
        "AcquisitionDateTime",
        "CodeMeaning",
        "ContainerIdentifier",
        "ContentDate",
        "ContentDescription",
        "ContentTime",
        "DeviceSerialNumber",
        "FrameAcquisitionDateTime",
        "FrameReferenceDateTime",
        "SegmentAlgorithmName",
        "SegmentDescription",
        "SpecimenIdentifier",
        "TrackingID",
        "TextValue",
        "DateTime",
        "Date",
        "Time",
        "PersonName",
    }
)
NOTHING = {"DA": "19000101", "TM": "000000", "DT": "19000101000000"}
NO_TEXT = "DEIDENTIFIED"

# Text that says how a picture was made, or a code, and no more.
TECHNICAL = frozenset(
    [
        "AlgorithmName",
        "AlgorithmVersion",
        "CodeValue",
        "CodingSchemeDesignator",
        "CodingSchemeVersion",
        "ContrastBolusAgent",
        "ContrastBolusRoute",
        "ConvolutionKernel",
        "DerivationImplementation",
        "EchoNumbers",
        "FilterMaterial",
        "FilterType",
        "ImagedNucleus",
        "ImageType",
        "LossyImageCompressionMethod",
        "MappingResource",
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
        "Allergies",
        "PatientState",
    ]
)

# Sequences that go whole, at any depth.
SEQUENCES = frozenset(
    [
        "OtherPatientIDsSequence",
        "ReferencedPatientSequence",
        "ReferencedPatientAliasSequence",
        "PatientPrimaryLanguageCodeSequence",
        "ReferringPhysicianIdentificationSequence",
        "PhysiciansOfRecordIdentificationSequence",
        "PerformingPhysicianIdentificationSequence",
        "OperatorIdentificationSequence",
        "PhysiciansReadingStudyIdentificationSequence",
        "InstitutionCodeSequence",
        "RequestAttributesSequence",
        "RequestingPhysicianIdentificationSequence",
        "RequestedProcedureCodeSequence",
        "ScheduledProcedureStepSequence",
        "OriginalAttributesSequence",
        "ModifiedAttributesSequence",
        "DigitalSignaturesSequence",
        "MACParametersSequence",
        "ReferencedDigitalSignatureSequence",
        "AuthorObserverSequence",
        "VerifyingObserverSequence",
        "ParticipantSequence",
        "CustodialOrganizationSequence",
        "PersonIdentificationCodeSequence",
        "GraphicAnnotationSequence",
        "AdmittingDiagnosesCodeSequence",
        "EncryptedAttributesSequence",
        "ContributingEquipmentSequence",
        "IssuerOfPatientIDQualifiersSequence",
        "InstitutionalDepartmentTypeCodeSequence",
        "StudiesContainingOtherReferencedInstancesSequence",
        "ActualHumanPerformersSequence",
        "HumanPerformerCodeSequence",
        "PatientInsurancePlanCodeSequence",
        "IssuerOfAccessionNumberSequence",
        "IssuerOfAdmissionIDSequence",
        "NonidentifyingPrivateElements",
        "DeidentificationActionSequence",
    ]
)

# Type 2 sequences: they stay, without items.
HOLLOW = frozenset(
    {"IssuerOfTheContainerIdentifierSequence", "IssuerOfTheSpecimenIdentifierSequence"}
)

# Values of code strings, numbers and the like that go all the same.
ALSO = frozenset(
    [
        "PatientAge",
        "PatientSize",
        "PatientWeight",
        "PregnancyStatus",
        "PatientSexNeutered",
        "SmokingStatus",
        "ResponsiblePersonRole",
        "ReasonForVisitCodeSequence",
        "StationAETitle",
        "TimezoneOffsetFromUTC",
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
        "PixelDataProviderURL",
        "SegmentedRedPaletteColorLookupTableData",
        "ExtendedOffsetTable",
        "SegmentedGreenPaletteColorLookupTableData",
        "SegmentedBluePaletteColorLookupTableData",
        "ExtendedOffsetTableLengths",
        "PointCoordinatesData",
        "LongPrimitivePointIndexList",
        "PointIndexList",
        "SurfaceFloatData",
        "SpectroscopyData",
    ]
) - {"PixelDataProviderURL"}

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
        "TemplateExtensionCreatorUID",
    ]
)

# Schemes whose meanings are standard words.
SCHEMES = frozenset({"DCM", "SCT", "SRT", "SNM3", "LN", "UCUM", "RADLEX", "FMA", "UMLS", "NCIt"})

# Pictures of these often show names: they need a look unless they say that they do not.
SHOWING = frozenset({"US", "ES", "XC", "GM", "SM", "OT", "XA", "RF", "OP", "ECG", "DOC"}) - {"SM"}
CAPTURES = "1.2.840.10008.5.1.4.1.1.7"  # and below: secondary capture

# PS3.16 CID 7050.
CODES = {
    "basic": ("113100", "Basic Application Confidentiality Profile"),
    "shifted": ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    "patient": ("113108", "Retain Patient Characteristics Option"),
    "device": ("113109", "Retain Device Identity Option"),
    "uids": ("113110", "Retain UIDs Option"),
    "private": ("113111", "Retain Safe Private Option"),
}

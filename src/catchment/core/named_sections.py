"""The sections of one aggregate or profile each: ``[tables.NAME]`` and so on."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, SecretStr, model_validator

from catchment.core.sections import Day, Names, Section, Slug, Token


class TablesSettings(Section):
    """One aggregate of tables: ``[tables.NAME]``."""

    centers: str = Field(description="Center mapping, a JSON file or its URL.")
    source: Literal["files", "flywheel"] = Field(
        default="files",
        description="Where datasets are looked for: below `datasets`, or in Flywheel.",
    )
    datasets: str | dict[str, str] | None = Field(
        default=None,
        description="Folder or URL of the datasets, with `{center}` or `{adcid}` in it; or a table "
        "of one for each center id.",
    )
    allow: Names = Field(
        default=(),
        description="Folders or URLs that datasets must lie below; `{center}` and `{adcid}` stand "
        "for the center's own. Default: anywhere.",
    )
    project: str | None = Field(
        default=None, description='Label of the Flywheel project, for `source = "flywheel"`.'
    )
    output: str | None = Field(
        default=None,
        description="Prefix of the snapshots below the store. Default: `tables/NAME/`.",
    )
    identifiers: str | None = Field(
        default=None,
        description="Who knows the current center: a file, a URL or `lambda:FUNCTION`.",
    )
    transfers: Literal["current", "none"] | None = Field(
        default=None,
        description="Keep a moved participant's rows at the current center only (`current`), or "
        "all (`none`). Default: `current`; `none` where there are `duplicates_criteria`.",
    )
    duplicates_criteria: str | None = Field(
        default=None, description="Rules by key columns for each table, a JSON file or its URL."
    )
    freeze_date: Day | None = Field(
        default=None,
        description="Constant column `freeze_date`, `YYYYMMDD`. Default: the day of the run.",
    )
    include_centers: Names | None = Field(default=None, description="Only these centers.")
    exclude_centers: Names = Field(default=(), description="All centers but these.")
    exclude_studies: Names = Field(
        default=(), description="Not the centers whose id has this suffix."
    )
    mode: Literal["prod", "dev"] = Field(
        default="prod", description="Which participants the identifiers service is asked for."
    )
    strict: bool = Field(default=False, description="A conflict of types is an error.")
    require_all: bool = Field(default=False, description="A center that fails is an error.")
    most_drift: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Share of a table's columns whose types may differ between sites before the "
        "flows warn.",
    )
    fall_back: bool = Field(
        default=False, description="If a newest version has no tables, use the one before it."
    )

    @model_validator(mode="after")
    def _source_is_named(self) -> Self:
        needed = "datasets" if self.source == "files" else "project"
        if getattr(self, needed) is None:
            raise ValueError(f"source = {self.source!r} needs {needed!r}")
        return self


class ExportsSettings(Section):
    """One export: ``[exports.NAME]``. Its records come from ``fhir`` or from ``files``."""

    contract: str = Field(description="First part of the outputs' names; the site of its records.")
    members: str | None = Field(
        default=None,
        description="Who is asked for: a file or URL with an id a line. Default, with `files`: all "
        "files that are there.",
    )
    fhir: str | None = Field(default=None, description="Base URL of a FHIR server.")
    files: str | None = Field(
        default=None,
        description="Folder or URL of NDJSON files (also `.gz`) and Bundles (`.json`), each a "
        "member.",
    )
    type: str = Field(
        default="ExplanationOfBenefit", description="Type of the resources that are exported."
    )
    search: str = Field(default="patient", description="Search parameter that takes the member.")
    parameters: dict[str, str] = Field(
        default={}, description="More search parameters, the same for all members."
    )
    page: PositiveInt = Field(default=1000, description="Resources in a page of a search.")
    token: Token | None = Field(
        default=None, description="Bearer token for the FHIR server. Never shown."
    )
    certificate: str | None = Field(
        default=None, description="Client certificate for mutual TLS, a PEM file."
    )
    certificate_key: str | None = Field(default=None, description="Its key, a PEM file.")
    authority: str | None = Field(
        default=None, description="Authority of the server's certificate, a PEM file."
    )
    retries: NonNegativeInt = Field(
        default=6,
        description="Further tries of a request that fails for a passing reason, after 0.1 s, "
        "0.2 s, 0.4 s and so on, or as the server asks.",
    )
    batch: PositiveInt = Field(default=100, description="Members in a batch, the unit of work.")
    threshold: float = Field(
        default=0.01, ge=0, le=1, description="Share of the members that may fail."
    )
    max_bytes: PositiveInt = Field(
        default=200 * 1024 * 1024, description="Largest output, in bytes before compression."
    )
    multiplier: float = Field(
        default=2,
        ge=0,
        description="While members are read, combine when more than this many times `max_bytes` "
        "are finished.",
    )
    codec: Literal["none", "gzip", "zstd"] = Field(
        default="none", description="How outputs are compressed."
    )
    base_url: str = Field(
        default="",
        description="What stands before the outputs' names in `manifest.json`. Default: nothing.",
    )
    expires_hours: PositiveInt = Field(
        default=72, description="How long the download API serves a finished job."
    )

    @model_validator(mode="after")
    def _source_is_named(self) -> Self:
        if (self.fhir is None) == (self.files is None):
            raise ValueError("it needs either 'fhir' or 'files'")
        if self.files is None and self.members is None:
            raise ValueError("fhir needs 'members'")
        return self


class StudiesSettings(Section):
    """One study: ``[studies.NAME]``. A study that is not named here has the defaults."""

    min_cell: NonNegativeInt = Field(
        default=11,
        description="Smallest count that is released; smaller ones, and what would tell them, are "
        "suppressed. 0 turns this off: every cell is released as it is.",
    )
    min_sites: PositiveInt = Field(
        default=1, description="A cell is released only if at least so many sites report it."
    )
    round_to: NonNegativeInt = Field(
        default=0,
        le=1_000_000,
        description="Counts that are released are rounded at random to multiples of it, so that "
        "two releases do not tell by how few people they differ; `min_cell` must be a multiple of "
        "it, and best is it. 0 turns this off: what is released is exact.",
    )

    @model_validator(mode="after")
    def _rounds_to_parts_of_min_cell(self) -> Self:
        if self.round_to == 1 or (self.round_to and self.min_cell % self.round_to):
            raise ValueError(
                f"expected 'min_cell' to be a multiple of 'round_to', and that 0, or 2 or more, "
                f"got {self.min_cell} and {self.round_to}"
            )
        return self


class ImagingSettings(Section):
    """DICOM files of many providers: ``[imaging.NAME]``."""

    providers: dict[Slug, str] = Field(
        default={},
        description="Folder or URL that each provider's files lie below, by the provider's name.",
    )
    senders: tuple[Slug, ...] = Field(
        default=(),
        description="Sites that may send by DICOMweb (STOW-RS) to `catchment serve`, with the "
        "credentials of `catchment site`.",
    )
    since: str | None = Field(
        default=None,
        description="Only files that were modified at or after this instant, ISO 8601. "
        "Default: all.",
    )
    key: SecretStr | None = Field(
        default=None,
        description="Secret of the pseudonyms of patients. Without one they are plain digests, "
        "which can be guessed. Never shown.",
    )
    warehouse: str | None = Field(
        default=None, description="DuckDB file that shows the latest snapshot's tables."
    )
    previews: Literal["none", "first", "middle", "all"] = Field(
        default="none", description="Which frames of an image get a preview, a JPEG of 8 bits."
    )
    archive: Literal["none", "htj2k", "jpegls"] = Field(
        default="none", description="Codec of lossless copies of all frames, checked bit by bit."
    )
    compress: str = Field(
        default="local",
        pattern=r"^(local|lambda:[A-Za-z0-9_-]{1,64}(:[A-Za-z0-9$_-]{1,128})?)$",
        description="Who makes previews and copies: `local`, the workers of this machine or of the "
        "cluster; or `lambda:NAME[:QUALIFIER]`, an AWS Lambda function.",
    )
    require_deidentified: bool = Field(
        default=False,
        description="Quarantine every file that does not say PatientIdentityRemoved = YES.",
    )
    deidentify: str | None = Field(
        default=None,
        description="Profile, `[deidentify.PROFILE]` or `basic`: tables, previews, copies and "
        "exports are made of files that are de-identified with it. Default: of files as received.",
    )


def _private(elements: tuple[str, ...]) -> tuple[str, ...]:
    """Private elements with digits in capitals; a creator may have a slash in its name."""
    made = []
    for one in elements:
        found = re.fullmatch(r"(.+)/([0-9A-Fa-f]{3}[13579BDFbdf])xx([0-9A-Fa-f]{2})", one)
        if found is None:
            message = "expected CREATOR/GGGGxxEE with an odd group, as 'ACME 1.0/0029xx10'"
            raise ValueError(message)
        made.append(f"{found[1]}/{found[2].upper()}xx{found[3].upper()}")
    return tuple(made)


PrivateElements = Annotated[Names, AfterValidator(_private)]


class DeidentifySettings(Section):
    """A profile of de-identification of DICOM: ``[deidentify.NAME]``."""

    key: SecretStr | None = Field(
        default=None,
        description="Secret of pseudonyms, UIDs and shifts of dates, 16 characters or more; of "
        "one site. Never shown.",
    )
    keys: dict[Slug, SecretStr] = Field(
        default={},
        description="Secrets of pseudonyms and shifts of single sites, by the site's name; for the "
        "others, and for all UIDs, `key` is used. Never shown.",
    )
    dates: Literal["remove", "shift"] = Field(
        default="remove",
        description="Remove dates, or move them by a number of days that is each patient's own.",
    )
    retain_uids: bool = Field(default=False, description="Keep all UIDs as they are.")
    retain_device: bool = Field(default=False, description="Keep what names the device.")
    retain_patient: bool = Field(
        default=False, description="Keep age (at most 90), sex, size, weight and the like."
    )
    safe_private: PrivateElements = Field(
        default=(), description="Private elements to keep, as `CREATOR/GGGGxxEE`."
    )
    shown: Names = Field(
        default=(),
        description="Modalities whose pictures show no text, though those of others often do.",
    )


class ArraysSettings(Section):
    """Sessions of one kind: ``[arrays.NAME]``. Recordings become a Zarr store that only grows."""

    recordings: str = Field(description="Folder or URL of the recordings, at any depth.")
    transform: str = Field(
        default="window",
        description="`window`, an entry point of `catchment.transforms`, or `module:Class`.",
    )
    options: dict[str, Any] = Field(default={}, description="Options of the transform.")
    site: str | None = Field(default=None, description="Site where no folder names one.")
    session_ids: Literal["pseudonyms", "names"] = Field(
        default="pseudonyms", description="Keyed pseudonyms, or names of files that are plain."
    )
    pseudonym_key: SecretStr | None = Field(
        default=None, description="Default: random, kept below `_private/`. Never shown."
    )
    on_conflict: Literal["error", "skip", "replace"] = Field(
        default="error", description="For sessions that are there with other content."
    )
    partition: Literal["none", "month", "year"] = Field(
        default="none", description="A store for each month or year of the recordings' start."
    )
    partition_by_schema: bool = Field(default=True, description="A store for each schema.")
    max_sessions: PositiveInt | None = Field(default=None, description="Of a store, about.")


# Tables of tables: one for each aggregate of a capability.
NAMED: dict[str, type[Section]] = {
    "tables": TablesSettings,
    "exports": ExportsSettings,
    "studies": StudiesSettings,
    "imaging": ImagingSettings,
    "deidentify": DeidentifySettings,
    "arrays": ArraysSettings,
}

"""The tables of ``catchment.toml``: their keys, types, defaults and what they mean."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    SecretStr,
    StringConstraints,
    model_validator,
)

from catchment.core.errors import Invalid
from catchment.core.names import check_name

# Keys whose values may be paths, and the scheme that makes a URL of one ("" for none). A relative
# path is relative to the file that says it, or to the current folder where the environment or an
# argument does.
PATHS = {
    "store": "file://",
    "ledger": "sqlite:///",
    "centers": "file://",
    "datasets": "file://",
    "allow": "file://",
    "identifiers": "",
    "duplicates_criteria": "file://",
    "files": "file://",
    "recordings": "file://",
    "providers": "file://",
    "warehouse": "",
    "members": "file://",
    "certificate": "",
    "certificate_key": "",
    "authority": "",
}


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _slug(text: str) -> str:
    """The name of an aggregate; pydantic wants ValueError where it is none."""
    try:
        return check_name(text)
    except Invalid as error:
        raise ValueError(error.message) from None


Slug = Annotated[str, AfterValidator(_slug)]
Names = Annotated[
    tuple[str, ...], BeforeValidator(lambda v: _split(v) if isinstance(v, str) else v)
]
Day = Annotated[
    str,
    BeforeValidator(lambda v: v.strftime("%Y%m%d") if isinstance(v, date) else str(v)),
    StringConstraints(pattern=r"^\d{8}$"),
    AfterValidator(lambda v: datetime.strptime(v, "%Y%m%d").strftime("%Y%m%d")),  # noqa: DTZ007
]
Workers = Annotated[str, StringConstraints(pattern=r"^(threads|processes|(tcp|tls)://.+)$")]


class Section(BaseModel):
    """One table of ``catchment.toml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class WorkspaceSettings(Section):
    """Where the workspace keeps what it owns."""

    name: str = Field(default="catchment", description="What people call the workspace.")
    store: str = Field(
        default="data", description="Folder or URL (`file://`, `memory://`, `s3://`) of the store."
    )
    ledger: str | None = Field(
        default=None,
        description="File or URL (`sqlite://`, `postgresql://`) of the ledger. Default: "
        "`.catchment/ledger.db` beside this file; for a remote store, in the user's state folder.",
    )


class ExecutorSettings(Section):
    """What runs in parallel, and how much of it."""

    kind: Workers = Field(
        default="processes",
        description="Where files are read: in `processes` of this machine, which a bad file cannot "
        "hurt; in `threads`, for files that are trusted; or by a dask cluster, at its "
        "scheduler's address `tcp://host:port`.",
    )
    workers: PositiveInt | None = Field(
        default=None, description="How many at a time on this machine. Default: one per core."
    )
    memory: PositiveInt = Field(
        default=1024, description="MiB that reading one untrusted file may take."
    )


class S3Settings(Section):
    """How ``s3://`` URLs are reached. What is not set comes from the usual ``AWS_*`` variables."""

    endpoint: str | None = Field(default=None, description="URL of the service, if it is not AWS.")
    region: str | None = Field(default=None, description="Region of the buckets.")
    access_key_id: str | None = Field(default=None, description="Name of the key.")
    secret_access_key: SecretStr | None = Field(default=None, description="The key. Never shown.")
    session_token: SecretStr | None = Field(
        default=None, description="Token of a temporary key. Never shown."
    )
    allow_http: bool | None = Field(
        default=None, description="Allow an endpoint without TLS, as test servers have."
    )
    virtual_hosted_style: bool | None = Field(
        default=None, description="The bucket is part of the host's name, not of the path."
    )

    def options(self) -> dict[str, str]:
        """What is set, as the store takes it: plain strings, secrets in the clear."""
        options = {}
        for key, value in self:
            if isinstance(value, SecretStr):
                options[key] = value.get_secret_value()
            elif isinstance(value, bool):
                options[key] = str(value).lower()
            elif value is not None:
                options[key] = str(value)
        return options


class IdentifiersSettings(Section):
    """How the identifiers service is asked, for all aggregates."""

    token: SecretStr | None = Field(
        default=None, description="Bearer token for a service over HTTP. Never shown."
    )
    region: str | None = Field(default=None, description="AWS region of a Lambda function.")


class FlywheelSettings(Section):
    """The Flywheel site that `source = "flywheel"` reads."""

    api_key: SecretStr | None = Field(default=None, description="API key, `host:key`. Never shown.")


class ServeSettings(Section):
    """What `catchment serve` offers."""

    base_url: str = Field(
        default="",
        description="Where clients find the service, as they see it: `https://host/prefix`. "
        "Default: as each request says.",
    )
    max_upload: PositiveInt = Field(default=2048, description="MiB that one upload may have.")
    idle_minutes: PositiveInt = Field(
        default=5,
        description="An upload that was asked for and shows no sign of life for so long may be "
        "overtaken by a later one. One whose bytes come in is never idle.",
    )
    export_tokens: Names = Field(
        default=(),
        description="SHA-256, in hexadecimal, of the bearer tokens that may download exports. "
        "Default: none, and exports are not served.",
    )

    @property
    def idle(self) -> timedelta:
        """The same as a duration."""
        return timedelta(minutes=self.idle_minutes)


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
    token: SecretStr | None = Field(
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


class SubscriptionsSettings(Section):
    """Where what is published of studies is registered as tables, to be asked in SQL."""

    warehouse: str | None = Field(default=None, description="DuckDB file that holds the tables.")
    glue: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9_]{1,255}$",
        description="Database of the AWS Glue catalog that tells Athena of the tables; the store "
        "must be a bucket. Region and key are those of `[s3]`.",
    )


class ImagingSettings(Section):
    """DICOM files of many providers: ``[imaging.NAME]``."""

    providers: dict[Slug, str] = Field(
        description="Folder or URL that each provider's files lie below, by the provider's name."
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
    require_deidentified: bool = Field(
        default=False,
        description="Quarantine every file that does not say PatientIdentityRemoved = YES.",
    )


class DeidentifySettings(Section):
    """A profile of de-identification of DICOM: ``[deidentify.NAME]``."""

    key: SecretStr | None = Field(
        default=None,
        description="Secret of pseudonyms, UIDs and shifts of dates, 16 characters or more; of "
        "one site. Never shown.",
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
    safe_private: Names = Field(
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

"""The tables of ``catchment.toml``: their keys, types, defaults and what they mean."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    SecretStr,
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
    "file": "",
    "private_key_file": "",
}
# Tables of texts whose own keys may have dots, as the libraries that get them call them.
FREE = frozenset({"parameters", "properties"})


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _slug(text: str) -> str:
    """The name of an aggregate; pydantic wants ValueError where it is none."""
    try:
        return check_name(text)
    except Invalid as error:
        raise ValueError(error.message) from None


def _token(secret: SecretStr) -> SecretStr:
    """What the header of a request takes (RFC 9110, section 5.5), without blanks."""
    if not re.fullmatch("[!-~]*", secret.get_secret_value()):
        raise ValueError("expected a token of visible ASCII characters")
    return secret


def _day(text: str) -> str:
    try:
        if re.fullmatch("[0-9]{8}", text):
            return f"{datetime.strptime(text, '%Y%m%d'):%Y%m%d}"  # noqa: DTZ007
    except ValueError:  # its words name neither the form nor the text
        pass
    raise ValueError(f"expected a day as YYYYMMDD, found {text!r}")


def _workers(text: str) -> str:
    if not re.fullmatch("threads|processes|(tcp|tls)://.+", text):
        raise ValueError(f"expected tcp://HOST:PORT, threads or processes, found {text!r}")
    return text


Slug = Annotated[str, AfterValidator(_slug)]
Token = Annotated[SecretStr, AfterValidator(_token)]
Names = Annotated[
    tuple[str, ...], BeforeValidator(lambda v: _split(v) if isinstance(v, str) else v)
]
Day = Annotated[
    str, BeforeValidator(lambda v: f"{v:%Y%m%d}" if isinstance(v, date) else _day(str(v)))
]
# An empty variable of the environment takes back what the file says.
Given = Annotated[str | None, BeforeValidator(lambda v: v or None)]
Workers = Annotated[str, AfterValidator(_workers)]


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

    endpoint: Given = Field(default=None, description="URL of the service, if it is not AWS.")
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

    token: Token | None = Field(
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
    metrics_tokens: Names = Field(
        default=(),
        description="SHA-256, in hexadecimal, of the bearer tokens that may read `/metrics`. "
        "Default: none, and only this machine may.",
    )
    session_hours: PositiveInt = Field(
        default=12, description="How long somebody who signed in to the pages stays signed in."
    )
    preview_rows: NonNegativeInt = Field(
        default=0,
        description="Rows of a published table that a steward may look at in the pages. Default: "
        "none are shown, and tables are not downloaded there.",
    )

    @property
    def idle(self) -> timedelta:
        """The same as a duration."""
        return timedelta(minutes=self.idle_minutes)


class EventsSettings(Section):
    """Who tells of what arrives in a bucket."""

    queue: Given = Field(
        default=None,
        description="URL of an SQS queue that the bucket of the store tells of created objects; "
        "`catchment serve` and `catchment studies process --watch` look when it does. Key and "
        "region are those of `[s3]`. Default: only the clock says when to look.",
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


class WarehouseSettings(Section):
    """The database that shows what is published, a schema for each aggregate."""

    kind: Literal["none", "duckdb", "snowflake"] = Field(
        default="none", description="What it is: a `duckdb` file, or a `snowflake` database."
    )
    file: str = Field(default="warehouse.duckdb", description="The DuckDB file.")
    account: str | None = Field(default=None, description="Snowflake account.")
    user: str | None = Field(default=None, description="Snowflake user.")
    role: str | None = Field(default=None, description="Role of the user. Default: its own.")
    compute: str | None = Field(
        default=None, description="Snowflake's virtual warehouse that does the work."
    )
    database: str | None = Field(default=None, description="Snowflake database.")
    stage: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*){0,2}$",
        description="External stage whose URL is that of the store: files are loaded where they "
        "lie. Default: they are put into a stage of the schema first.",
    )
    password: SecretStr | None = Field(
        default=None, description="Password, or programmatic access token. Never shown."
    )
    private_key_file: str | None = Field(
        default=None, description="Private key of the user, a PEM file, in a password's place."
    )
    endpoint: str | None = Field(
        default=None, description="URL of the service, if it is not the account's own."
    )


class IcebergSettings(Section):
    """Where what is published is told to readers of Apache Iceberg, such as Spark and Trino."""

    catalog: Literal["none", "sql", "rest", "glue"] = Field(
        default="none", description="Kind of the catalog: a database, a REST service, or AWS Glue."
    )
    uri: str | None = Field(
        default=None,
        description="URL of the catalog: of a database as SQLAlchemy takes it, or of the service. "
        "Default, with `sql`: `.catchment/iceberg.db` beside this file.",
    )
    location: str | None = Field(
        default=None,
        description="URL below which the tables' metadata lies. Default: `iceberg/` in the store.",
    )
    token: Token | None = Field(
        default=None, description="Bearer token for a REST catalog. Never shown."
    )
    properties: dict[str, str] = Field(
        default={}, description="More properties of the catalog, as pyiceberg calls them."
    )


class LineageSettings(Section):
    """Who is told of runs, in the form of OpenLineage. Default: nobody."""

    file: str | None = Field(
        default=None, description="File that a line is added to for each event."
    )
    url: Given = Field(
        default=None,
        description="URL that each event is sent to, as `https://collector/api/v1/lineage`. One "
        "that does not answer is not waited for.",
    )
    token: Token | None = Field(
        default=None, description="Bearer token for the collector. Never shown."
    )


class OidcSettings(Section):
    """Sign-in to the pages by OpenID Connect, beside the workspace's own users."""

    issuer: Given = Field(default=None, description="URL of the provider. Default: there is none.")
    client_id: str = Field(default="", description="Name of this service at the provider.")
    client_secret: SecretStr | None = Field(
        default=None, description="Secret of this service at the provider. Never shown."
    )
    name: str = Field(default="single sign-on", description="What the button says.")
    claim: str = Field(
        default="groups", description="Claim of the identity that holds groups, a list or a text."
    )
    viewers: Names = Field(default=(), description="Groups whose members are viewers.")
    stewards: Names = Field(default=(), description="Groups whose members are stewards.")
    operators: Names = Field(default=(), description="Groups whose members are operators.")

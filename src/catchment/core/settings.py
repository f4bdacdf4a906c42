"""Settings: ``catchment.toml``, then environment, then arguments; read once, at an edge.

``CATCHMENT_<TABLE>__<KEY>`` in the environment sets a key of a table (two underscores between
parts): ``CATCHMENT_WORKSPACE__STORE``, ``CATCHMENT_TABLES__NACC__STRICT``. An argument wins over
the environment, which wins over the file. A key that nobody knows is an error, never ignored.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    PrivateAttr,
    SecretStr,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from catchment.core.errors import Invalid
from catchment.core.names import check_name

FILE = "catchment.toml"
ENVIRONMENT = "CATCHMENT_"
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
    "members": "file://",
    "certificate": "",
    "certificate_key": "",
    "authority": "",
}
SHOWN_SECRET = "***"  # noqa: S105 - what stands in a secret's place


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


# Tables of tables: one for each aggregate of a capability.
_NAMED: dict[str, type[Section]] = {"tables": TablesSettings, "exports": ExportsSettings}


class Settings(Section):
    """All settings of a workspace, resolved."""

    workspace: WorkspaceSettings = WorkspaceSettings()
    executor: ExecutorSettings = ExecutorSettings()
    s3: S3Settings = S3Settings()
    identifiers: IdentifiersSettings = IdentifiersSettings()
    flywheel: FlywheelSettings = FlywheelSettings()
    tables: dict[Slug, TablesSettings] = {}
    exports: dict[Slug, ExportsSettings] = {}

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def load(
        cls,
        path: Path | None = None,
        overrides: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> Self:
        """Settings of the file, the environment and the overrides, in rising order of weight.

        Args:
            path: a ``catchment.toml``; None: there is no file.
            overrides: values by dotted key (``tables.nacc.strict``); None values are passed over.
            environment: the variables to look at.

        Invalid (kind ``bad-settings``) names every problem, a line each, with file and line.
        """
        file, text, tree = ("settings", "", {}) if path is None else _read(path)
        here = Path.cwd()
        root = here if path is None else path.absolute().parent
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        for layer, origin, base in (
            ([("workspace.store", "data")], "default", root),
            (_flatten(tree), file, root),
            (_variables(environment), "environment", here),
            ((overrides or {}).items(), "argument", here),
        ):
            for key, value in layer:
                if value is not None:
                    values[key] = _locate(key, value, base)
                    origins[key] = origin
        try:
            settings = cls.model_validate(_nest(values))
        except ValidationError as error:
            problems = [
                _describe(problem, origins, file, text)
                for problem in error.errors(include_url=False)
            ]
            raise Invalid(
                "\n".join(problems),
                kind="bad-settings",
                hint="every setting is explained in docs/reference/settings.md",
            ) from None
        settings._origins.update(origins)  # noqa: SLF001 - its own
        return settings

    def shown(self) -> Iterator[tuple[str, Any, str]]:
        """Every key with its value and where it comes from; what is secret is not shown."""
        for key, value in _flatten(self.model_dump()):
            if isinstance(value, SecretStr):
                value = SHOWN_SECRET  # noqa: PLW2901 - the value must not be in scope any more
            elif isinstance(value, str):
                value = without_password(value)  # noqa: PLW2901 - the same
            yield key, value, self._origins.get(key, "default")


def without_password(url: str) -> str:
    """The URL with ``***`` where it holds a password; any other string as it is."""
    if "://" not in url or "@" not in url:
        return url
    parts = urlsplit(url)
    user = parts.username or ""
    host = parts.netloc.rpartition("@")[2]
    shown = f"{user}:{SHOWN_SECRET}@{host}" if parts.password else parts.netloc
    return urlunsplit(parts._replace(netloc=shown))


def _read(path: Path) -> tuple[str, str, dict[str, Any]]:
    try:
        text = path.read_text("utf-8")
        return path.name, text, tomllib.loads(text)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise Invalid(
            f"{path.name} cannot be read: {reason}",
            kind="bad-settings",
            hint=f"mend {path}, or write a new one with: catchment init",
        ) from None


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _nest(values: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *path, last = key.split(".")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
            if not isinstance(branch, dict):  # `workspace = 3`: reported as such
                break
        else:
            branch[last] = value
    return tree


def _variables(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, value in environment.items():
        # Names of one part (CATCHMENT_WORKSPACE, CATCHMENT_DEBUG) are not settings.
        if name.startswith(ENVIRONMENT) and "__" in name:
            yield name.removeprefix(ENVIRONMENT).lower().replace("__", "."), value


def _locate(key: str, value: Any, base: Path) -> Any:
    section, *names = key.split(".")
    name = "".join(names[1:2] if section in _NAMED else names[:1])
    if isinstance(value, list):
        return [_locate(key, one, base) for one in value]
    # A URL, or lambda:NAME, stays as it is.
    if name not in PATHS or not isinstance(value, str) or re.match(r"[a-z0-9+]+:", value):
        return value
    path = os.path.normpath(base / Path(value).expanduser())
    return f"file://{quote(path, safe='/{}')}" if PATHS[name] == "file://" else PATHS[name] + path


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _describe(error: ErrorDetails, origins: Mapping[str, str], file: str, text: str) -> str:
    """One problem: where it stands, what was expected and, unless it is secret, what was found."""
    path = [str(part) for part in error["loc"] if part != "[key]"]
    key = ".".join(path)
    origin = origins.get(key) or next(
        (o for k, o in origins.items() if k.startswith(f"{key}.")), file
    )
    if origin == file and (line := _line(text, path)):
        origin = f"{file}:{line}"
    section = _section(path[:-1])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], section, 1)
        instead = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(section)}"
        return f"{origin}: nothing is called {key!r}; {instead}"
    if error["type"] == "model_type":
        return f"{origin}: {key!r} is not a table, expected [{key}]"
    if error["type"] == "missing":
        return f"{origin}: {key!r} is missing"
    told = error["msg"].removeprefix("Value error, ")
    secret = _is_secret(section.get(path[-1]))
    if (
        secret
        or error["type"] == "value_error"
        or not isinstance(error["input"], str | int | float)
    ):
        return f"{origin}: {key}: {told}"
    return f"{origin}: {key}: {told}, found {error['input']!r}"


def _section(path: list[str]) -> dict[str, FieldInfo]:
    """The fields of the section at a path; none where there is no such section."""
    if not path:
        return Settings.model_fields
    if path[0] in _NAMED:
        return _NAMED[path[0]].model_fields
    field = Settings.model_fields.get(path[0])
    return getattr(field.annotation, "model_fields", {}) if field else {}


def _is_secret(field: FieldInfo | None) -> bool:
    return field is not None and "SecretStr" in str(field.annotation)


def _line(text: str, path: list[str]) -> int | None:
    """The line of a key, or else of its table; dotted and quoted spellings are not looked for."""
    table, best = "", None
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[([^\]]+)\]", line):
            table = header[1].strip()
            if table in {".".join(path), ".".join(path[:-1])}:
                best = number
        elif table == ".".join(path[:-1]) and re.match(rf"\s*{re.escape(path[-1])}\s*=", line):
            return number
    return best

"""Settings: ``catchment.toml``, then environment, then arguments; read once, at an edge.

``CATCHMENT_<TABLE>__<KEY>`` in the environment sets a key of a table (two underscores between
parts): ``CATCHMENT_WORKSPACE__STORE``, ``CATCHMENT_TABLES__NACC__STRICT``; a dash in the name of a
table of the file is an underscore there. An argument wins over the environment, which wins over the
file. ``CATCHMENT_ENV=prod`` lays ``catchment.prod.toml`` over the file, for what differs there. A
key that nobody knows is an error, never ignored.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self
from urllib.parse import quote

from pydantic import Field, PrivateAttr, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from catchment.core.errors import Invalid
from catchment.core.named_sections import (
    NAMED,
    ArraysSettings,
    DeidentifySettings,
    ExportsSettings,
    ImagingSettings,
    StudiesSettings,
    TablesSettings,
)
from catchment.core.names import shown
from catchment.core.sections import (
    FREE,
    PATHS,
    EventsSettings,
    ExecutorSettings,
    FlywheelSettings,
    IcebergSettings,
    IdentifiersSettings,
    LineageSettings,
    OidcSettings,
    S3Settings,
    Section,
    ServeSettings,
    Slug,
    SubscriptionsSettings,
    WarehouseSettings,
    WorkspaceSettings,
)

FILE = "catchment.toml"
ENVIRONMENT = "CATCHMENT_"
WHERE = "CATCHMENT_ENV"
LOCAL = "local"  # the environment that needs no file of its own
# Paths that are there unless another is set, beside the workspace's file.
DEFAULTS = [("workspace.store", "data"), ("warehouse.file", "warehouse.duckdb")]
SHOWN_SECRET = "***"  # noqa: S105 - what stands in a secret's place
_TELLING = "(?i:passw|secret|token|key|sig|credential)"  # in the name of one
_FREE_SECRET = re.compile(rf"\.({'|'.join(sorted(FREE))}|options)\..*{_TELLING}")
# A port is no password.
_BEFORE_HOST = re.compile(r"(?<=://)([^:/?#@]*):(?![0-9]{1,5}(?:[/?#]|$)).+@")
_IN_QUERY = re.compile(rf"([?&;][^=&#]*{_TELLING}[^=&#]*=)[^&#]*")


class Settings(Section):
    """All settings of a workspace, resolved."""

    workspace: WorkspaceSettings = WorkspaceSettings()
    executor: ExecutorSettings = ExecutorSettings()
    s3: S3Settings = S3Settings()
    identifiers: IdentifiersSettings = IdentifiersSettings()
    flywheel: FlywheelSettings = FlywheelSettings()
    serve: ServeSettings = ServeSettings()
    events: EventsSettings = EventsSettings()
    oidc: OidcSettings = OidcSettings()
    subscriptions: SubscriptionsSettings = SubscriptionsSettings()
    warehouse: WarehouseSettings = WarehouseSettings()
    iceberg: IcebergSettings = IcebergSettings()
    lineage: LineageSettings = LineageSettings()
    tables: dict[Slug, TablesSettings] = Field(default_factory=dict)
    exports: dict[Slug, ExportsSettings] = Field(default_factory=dict)
    arrays: dict[Slug, ArraysSettings] = Field(default_factory=dict)
    imaging: dict[Slug, ImagingSettings] = Field(default_factory=dict)
    deidentify: dict[Slug, DeidentifySettings] = Field(default_factory=dict)
    studies: dict[Slug, StudiesSettings] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _outputs_differ(self) -> Self:
        """What is one aggregate's orphan must not be another's work."""
        owners: dict[str, str] = {}
        for name, table in self.tables.items():
            output = f"tables/{name}" if table.output is None else table.output.strip("/")
            other = owners.setdefault(output, name)
            if other != name:
                raise ValueError(f"tables.{other} and tables.{name} have the same output")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        """A warehouse and Dagster know a dash as an underscore."""
        for section in NAMED.keys() - {"deidentify"}:
            owners: dict[str, str] = {}
            for name in getattr(self, section):
                other = owners.setdefault(name.replace("-", "_"), name)
                if other != name:
                    raise ValueError(
                        f"{section}.{other} and {section}.{name} differ by a dash only: a "
                        "warehouse takes them for one"
                    )
        return self

    @model_validator(mode="after")
    def _warehouses_differ(self) -> Self:
        """Two aggregates of imaging in one file would replace one another's tables."""
        owners: dict[str, str] = {}
        for name, imaging in self.imaging.items():
            if imaging.warehouse is not None:
                other = owners.setdefault(imaging.warehouse, name)
                if other != name:
                    raise ValueError(f"imaging.{other} and imaging.{name} have the same warehouse")
        return self

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def load(
        cls,
        path: Path | None = None,
        overrides: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] = os.environ,
        flags: Mapping[str, str] = MappingProxyType({}),
    ) -> Self:
        """Settings of the file, the environment and the overrides, in rising order of weight.

        Args:
            path: a ``catchment.toml``; None: there is no file.
            overrides: values by dotted key (``tables.nacc.strict``); None values are passed over.
            environment: the variables to look at.
            flags: what the user calls overrides, by their key, for messages.

        Invalid (kind ``bad-settings``) names every problem, a line each, with file and line.
        """
        file, text, tree = ("settings", "", {}) if path is None else _read(path)
        overlay = _overlay(path, environment)
        here = Path.cwd()
        root = here if path is None else path.absolute().parent
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        for layer, origin, base in (
            (DEFAULTS, "default", root),
            (_flatten(tree), file, root),
            (_flatten(_read(overlay)[2]), overlay.name, root) if overlay else ((), file, root),
            (_variables(environment), "environment", here),
            ((overrides or {}).items(), "argument", here),
        ):
            for given, value in layer:
                key = _meant(given, values) if origin == "environment" else given
                if value is not None:
                    if value != {}:
                        _overrule(values, key)
                    values[key] = _locate(key, value, base)
                    origins[key] = origin
        try:
            settings = cls.model_validate(_nest(values))
        except ValidationError as error:
            problems = [
                _describe(problem, origins, file, text, flags)
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
            elif isinstance(value, str) and _FREE_SECRET.search(key):
                value = SHOWN_SECRET  # noqa: PLW2901 - the same
            elif isinstance(value, str):
                value = without_password(value)  # noqa: PLW2901 - the same
            yield key, value, self._origins.get(key, "default")


def without_password(url: str) -> str:
    """The URL with ``***`` where it holds a password or a token; any other string as it is.

    SQLAlchemy takes passwords with ``/``, ``?`` and ``#`` in them, too.
    """
    if "://" not in url:
        return url
    return _IN_QUERY.sub(rf"\1{SHOWN_SECRET}", _BEFORE_HOST.sub(rf"\1:{SHOWN_SECRET}@", url))


def _read(path: Path) -> tuple[str, str, dict[str, Any]]:
    try:
        text = path.read_text("utf-8")
        tree = tomllib.loads(text)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise Invalid(
            f"{path.name} cannot be read: {reason}",
            kind="bad-settings",
            hint=f"mend {path}, or write a new one with: catchment init",
        ) from None
    # A name with a dot would be taken for two: it is told here, or never by its name.
    names = [(s, name) for s in NAMED if isinstance(tree.get(s), dict) for name in tree[s]]
    for section, name in names:
        if "." in name:
            line = _line(text, [section, f'"{name}"'])
            raise Invalid(
                f"{path.name}{f':{line}' if line else ''}: [{section}.{json.dumps(name)}]: not a "
                f"usable name: expected a-z, then up to 62 of a-z 0-9 _ -, got {shown(name)}",
                kind="bad-settings",
                hint=f"rename the table, as in [{section}.main]",
            )
    return path.name, text, tree


def _overlay(path: Path | None, environment: Mapping[str, str]) -> Path | None:
    """The file beside the workspace's own that ``CATCHMENT_ENV`` names; it must be there."""
    name = environment.get(WHERE, "")
    if path is None or name in {"", LOCAL}:
        return None
    overlay = path.parent / f"{path.stem}.{name}.toml"
    if not re.fullmatch(r"[a-z0-9-]+", name) or not overlay.is_file():
        raise Invalid(
            f"{WHERE} is {name!r}, and there is no {path.stem}.{name}.toml beside {path.name}",
            kind="bad-settings",
            hint=f"write what differs there into such a file, or unset {WHERE}",
        )
    return overlay


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _parts(key: str) -> list[str]:
    parts = key.split(".")
    free = 2 if parts[0] in NAMED else 1
    if not FREE.isdisjoint(parts[free : free + 1]):
        parts[free + 1 :] = [".".join(parts[free + 1 :])] if parts[free + 1 :] else []
    return parts


def _overrule(values: dict[str, Any], key: str) -> None:
    """Forget what stands in the way of a weightier value: a text for a table, or a table for it.

    A text in the place of a whole section stays, to be told.
    """
    parts = key.split(".")
    least = 3 if parts[0] in NAMED else 2
    above = {".".join(parts[:count]) for count in range(least, len(parts))}
    for known in [known for known in values if known in above or known.startswith(f"{key}.")]:
        del values[known]


def _nest(values: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *path, last = _parts(key)
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
            if not isinstance(branch, dict):  # `workspace = 3`: reported as such
                break
        else:  # an empty table takes nothing away
            branch[last] = branch.get(last, value) if value == {} else value
    return tree


def _variables(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, value in environment.items():
        # Names of one part (CATCHMENT_WORKSPACE, CATCHMENT_DEBUG) are not settings.
        if name.startswith(ENVIRONMENT) and "__" in name:
            yield name.removeprefix(ENVIRONMENT).lower().replace("__", "."), value


def _meant(key: str, known: Iterable[str]) -> str:
    """The key of a variable: a dash in a name cannot stand in one, so there it is an underscore."""
    section, *rest = key.split(".")
    names = {one.split(".")[1] for one in known if one.startswith(f"{section}.")}
    if section not in NAMED or not rest or rest[0] in names:
        return key
    alike = [name for name in names if name.replace("-", "_") == rest[0]]
    return ".".join([section, *(alike if len(alike) == 1 else rest[:1]), *rest[1:]])


def _locate(key: str, value: Any, base: Path) -> Any:
    section, *names = key.split(".")
    name = "".join(names[1:2] if section in NAMED else names[:1])
    if isinstance(value, list):
        return [_locate(key, one, base) for one in value]
    # A URL, or lambda:NAME, stays as it is.
    if name not in PATHS or not isinstance(value, str) or re.match(r"[a-z0-9+]+:", value):
        return value
    path = os.path.normpath(base / Path(value).expanduser())
    return f"file://{quote(path, safe='/{}')}" if PATHS[name] == "file://" else PATHS[name] + path


def _describe(
    error: ErrorDetails,
    origins: Mapping[str, str],
    file: str,
    text: str,
    flags: Mapping[str, str],
) -> str:
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
    told = error["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    at = flags[key] if origins.get(key) == "argument" and key in flags else f"{origin}: {key}"
    at = at.removesuffix(": ")
    if (
        _is_secret(path)
        or error["type"] == "value_error"
        or not isinstance(error["input"], str | int | float)
    ):
        return f"{at}: {told}"
    return f"{at}: {told}, found {error['input']!r}"


def _section(path: list[str]) -> dict[str, FieldInfo]:
    """The fields of the section at a path; none where there is no such section."""
    if not path:
        return Settings.model_fields
    if path[0] in NAMED:
        return NAMED[path[0]].model_fields
    field = Settings.model_fields.get(path[0])
    return getattr(field.annotation, "model_fields", {}) if field else {}


def _is_secret(path: list[str]) -> bool:
    """Whether what stands at a path is, or is one of a table of them."""
    fields = [_section(path[:at]).get(path[at]) for at in range(len(path))]
    known = any("SecretStr" in str(field.annotation) for field in fields if field)
    return known or _FREE_SECRET.search(".".join(path)) is not None


def _line(text: str, path: list[str]) -> int | None:
    """The line of a key, or else of its table; dotted and quoted spellings are not looked for."""
    if not path:  # it is about more than one key
        return None
    table, best = "", None
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[([^\]]+)\]", line):
            table = header[1].strip()
            if table in {".".join(path), ".".join(path[:-1])}:
                best = number
        elif table == ".".join(path[:-1]) and re.match(rf"\s*{re.escape(path[-1])}\s*=", line):
            return number
    return best

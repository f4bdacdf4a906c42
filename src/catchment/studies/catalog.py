"""What is published of a study, as its latest snapshot tells: one object, read at once.

A reader opens it by the ledger's latest snapshot and sees all of one state or all of the next.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

from catchment.core.errors import Corrupt, NotFound
from catchment.core.ledger import Ledger, Snapshot
from catchment.core.store import Store
from catchment.studies import columns as types
from catchment.studies import layout
from catchment.studies.merge import Merged
from catchment.studies.model import (
    Column,
    Kind,
    Manifest,
    Object,
    Package,
    Period,
    State,
    Times,
)

FORMAT = 1
ROLE = "catalog"
_CACHED = 256  # studies whose catalog this process remembers


@dataclass(frozen=True, slots=True)
class Cube:
    """A merged package: what it is now, and since when."""

    name: str
    version: int
    merged: Merged
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class File:
    """A site's current file that is not merged: flat table, study metadata, manifest."""

    kind: Kind
    package: str
    version: int
    site: str
    file: str
    object: Object
    rows: int
    columns: Mapping[str, str]
    content: Mapping[str, Any]
    updated_at: datetime

    @property
    def place(self) -> tuple[str, str, int, str]:
        """What a newer file takes over."""
        return self.kind.value, self.package, self.version, self.site

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return {
            "kind": self.kind.value,
            "package": self.package,
            "version": self.version,
            "site": self.site,
            "file": self.file,
            "object": list(self.object),
            "rows": self.rows,
            "columns": dict(self.columns),
            "content": dict(self.content),
            "updated_at": self.updated_at.isoformat(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> File:
        """The inverse of :meth:`to_json`."""
        return cls(
            **{
                **data,
                "kind": Kind(data["kind"]),
                "object": Object(*data["object"]),
                "updated_at": datetime.fromisoformat(data["updated_at"]),
            }
        )


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything that is published of one study.

    Attributes:
        cubes: by name and version.
        files: by kind, package, version and site.
        owners: of manifests, by version.
        times: by site, package and version.
        snapshot: its number; 0 before the first.
    """

    study: str
    cubes: Mapping[tuple[str, int], Cube] = field(default_factory=dict)
    files: Mapping[tuple[str, str, int, str], File] = field(default_factory=dict)
    owners: Mapping[int, str] = field(default_factory=dict)
    times: Mapping[tuple[str, str, int], Times] = field(default_factory=dict)
    snapshot: int = 0

    def packages(self) -> list[Package]:
        """Cubes and flat tables in order of id."""
        cubes = [self._cube(cube) for cube in self.cubes.values()]
        flats = [self._flat(file) for file in self.files.values() if file.kind is Kind.FLAT]
        return sorted([*cubes, *flats], key=lambda one: one.id)

    def periods(self) -> list[Period]:
        """What time each site's data covers, in order of site and version."""
        dates = (f for f in self.files.values() if f.kind is Kind.META and f.package == "meta_date")
        found = (
            Period(
                f.site,
                self.study,
                f.version,
                f.content.get("earliest_date", ""),
                f.content.get("latest_date", ""),
            )
            for f in dates
        )
        return sorted(found, key=lambda p: (p.site, p.version))

    def manifests(self) -> list[Manifest]:
        """The manifest of each version, with the sites whose own says something else."""
        result = []
        for version, owner in sorted(self.owners.items()):
            files = [
                f for f in self.files.values() if f.kind is Kind.MANIFEST and f.version == version
            ]
            own = next(f for f in files if f.site == owner)
            others = sorted(f.site for f in files if f.content != own.content)
            result.append(
                Manifest(self.study, version, owner, own.content, own.object, tuple(others))
            )
        return result

    def _cube(self, cube: Cube) -> Package:
        merged = cube.merged
        return Package(
            id=layout.package_id(self.study, cube.name, cube.version),
            study=self.study,
            name=cube.name,
            version=cube.version,
            kind="cube",
            site="",
            sites=tuple(part.site for part in merged.parts),
            columns=merged.columns,
            rows=merged.rows,
            total=merged.total,
            min_cell=merged.policy.min_cell,
            round_to=merged.policy.round_to,
            released=merged.released,
            csv=merged.csv,
            marks=merged.marks,
            merged=merged.merged,
            key=layout.released(self.study, cube.name, cube.version),
            updated_at=cube.updated_at,
            marked=merged.marked,
        )

    def _flat(self, file: File) -> Package:
        distinct = file.content["distinct"]
        return Package(
            id=layout.package_id(self.study, file.package, file.version, file.site),
            study=self.study,
            name=file.package,
            version=file.version,
            kind="flat",
            site=file.site,
            sites=(file.site,),
            columns={
                name: Column(types.chart_type(name, kind), distinct[name])
                for name, kind in file.columns.items()
            },
            rows=file.rows,
            total=None,
            min_cell=0,
            released=file.object,
            csv=None,
            marks=None,
            merged=None,
            key=layout.view(
                State.LAST_VALID,
                Kind.FLAT,
                study=self.study,
                package=file.package,
                site=file.site,
                version=file.version,
                file=file.file,
                at=file.updated_at,
            ),
            updated_at=file.updated_at,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain types, in an order that depends on the content only."""
        return {
            "format": FORMAT,
            "study": self.study,
            "cubes": [
                {
                    "name": cube.name,
                    "version": cube.version,
                    "merged": cube.merged.to_json(),
                    "updated_at": cube.updated_at.isoformat(),
                }
                for _, cube in sorted(self.cubes.items())
            ],
            "files": [file.to_json() for _, file in sorted(self.files.items())],
            "owners": {str(version): owner for version, owner in sorted(self.owners.items())},
            "times": [_times_to_json(one) for _, one in sorted(self.times.items())],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], snapshot: int) -> Catalog:
        """The inverse of :meth:`to_json`."""
        cubes = (
            Cube(
                c["name"],
                c["version"],
                Merged.from_json(c["merged"]),
                datetime.fromisoformat(c["updated_at"]),
            )
            for c in data["cubes"]
        )
        files = (File.from_json(f) for f in data["files"])
        times = (_times_from_json(t, data["study"]) for t in data["times"])
        return cls(
            data["study"],
            {(c.name, c.version): c for c in cubes},
            {f.place: f for f in files},
            {int(version): owner for version, owner in data["owners"].items()},
            {(t.site, t.package, t.version): t for t in times},
            snapshot,
        )


def dumps(catalog: Catalog) -> bytes:
    """The bytes of the catalog's object."""
    return json.dumps(catalog.to_json(), indent=1).encode() + b"\n"


def of(store: Store, snapshot: Snapshot | None, study: str) -> Catalog:
    """The catalog of a snapshot; an empty one where there is none.

    Corrupt (kind ``snapshot-damaged``) if its object is not what was published.
    """
    if snapshot is None:
        return Catalog(study)
    told = next(o for o in snapshot.provenance["objects"] if o["role"] == ROLE)
    found: Catalog = _load(store, told["key"], told["digest"], snapshot.number)  # type: ignore[arg-type] # a store is hashed as an object
    return found


@lru_cache(_CACHED)
def _load(store: Store, key: str, digest: str, number: int) -> Catalog:
    try:
        data = store.read(key)
    except NotFound:
        data = b""
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
        raise Corrupt(
            f"{key} is not what was published",
            kind="snapshot-damaged",
            hint="catchment studies reprocess",
        )
    return Catalog.from_json(json.loads(data), number)


def latest(store: Store, ledger: Ledger, study: str) -> Catalog:
    """What is published of a study now; an empty catalog where nothing is."""
    return of(store, ledger.latest(layout.aggregate(study)), study)


def studies(ledger: Ledger) -> list[str]:
    """Every study of which anything is known, in order of name."""
    prefix = "studies/"
    return [name.removeprefix(prefix) for name in ledger.aggregates() if name.startswith(prefix)]


def every(store: Store, ledger: Ledger) -> Iterator[Catalog]:
    """The catalogs of all studies that have one, in order of name."""
    for study in studies(ledger):
        found = latest(store, ledger, study)
        if found.snapshot:
            yield found


def touched(
    times: Mapping[tuple[str, str, int], Times],
    marks: Iterable[tuple[tuple[str, str, int], str, bool]],
    study: str,
    at: datetime,
) -> dict[tuple[str, str, int], Times]:
    """The times with some of them set to now, or to never: a place, the time's name, which."""
    result = dict(times)
    for place, name, now in marks:
        old = result.get(place) or Times(place[0], study, place[1], place[2])
        result[place] = replace(old, **_time(name, at if now else None))
    return result


def _time(name: str, at: datetime | None) -> dict[str, Any]:
    return {name: at}


_TIMES = ("last_upload", "last_data_update", "last_aggregation", "last_error", "deleted")


def _times_to_json(one: Times) -> dict[str, Any]:
    told = {name: getattr(one, name) for name in _TIMES}
    return {"site": one.site, "package": one.package, "version": one.version} | {
        name: value.isoformat() for name, value in told.items() if value is not None
    }


def _times_from_json(data: Mapping[str, Any], study: str) -> Times:
    told = {name: datetime.fromisoformat(data[name]) for name in _TIMES if name in data}
    return Times(data["site"], study, data["package"], data["version"], **told)

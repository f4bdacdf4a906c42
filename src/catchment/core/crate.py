"""A snapshot as a folder to cite and to hand on: its files, an RO-Crate, a Croissant description.

Every file is compared with the digest that the snapshot's provenance names while it is copied; the
crate's own document is written last, as the mark that all before it is there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from catchment.core.croissant import describe as croissant
from catchment.core.errors import Conflict, Corrupt, NotFound
from catchment.core.ledger.model import Snapshot
from catchment.core.ledger.provenance import SECTION
from catchment.core.names import counted
from catchment.core.store import Store

METADATA = "ro-crate-metadata.json"
CROISSANT = "croissant.json"
CONTEXT = "https://w3id.org/ro/crate/1.1/context"
PROFILE = "https://w3id.org/ro/crate/1.1"
NO_LICENSE = "All rights reserved; ask whoever gave you this crate."
MEDIA = {
    ".parquet": "application/vnd.apache.parquet",
    ".ndjson": "application/x-ndjson",
    ".json": "application/json",
    ".csv": "text/csv",
    ".gz": "application/gzip",
    ".zst": "application/zstd",
    ".toml": "application/toml",
}


class File(NamedTuple):
    """One file of a crate: its path there, and what the provenance says of it."""

    path: str
    size: int
    digest: str  # SHA-256, hexadecimal

    @property
    def media(self) -> str:
        """Its media type, by its ending."""
        return MEDIA.get(Path(self.path).suffix, "application/octet-stream")


class About(NamedTuple):
    """What both descriptions say of a snapshot."""

    name: str
    text: str
    published: str  # ISO 8601, with zone
    number: int
    license: str
    publisher: str


def export(
    store: Store,
    snapshot: Snapshot,
    items: Iterable[Mapping[str, Any]],
    folder: Path,
    *,
    publisher: str,
    license_: str = NO_LICENSE,
) -> list[File]:
    """Write a crate of some of a snapshot's objects into a new or empty folder.

    Raises:
        Conflict: kind ``file-exists`` if something is in the folder.
        Corrupt: kind ``object-damaged`` if an object is not what the provenance says.
        NotFound: kind ``nothing-to-share`` if there are no objects.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise Conflict(
            f"{folder} is not empty", kind="file-exists", hint="give the crate a folder of its own"
        )
    files = [_copy(store, snapshot, item, folder) for item in items]
    if not files:
        raise NotFound(
            f"snapshot {snapshot.number} of {snapshot.aggregate} has no files to hand on",
            kind="nothing-to-share",
            hint=f"catchment status {snapshot.aggregate}",
        )
    about = About(
        f"{snapshot.aggregate}, snapshot {snapshot.number}",
        f"{counted(len(files), 'files')} of snapshot {snapshot.number} of {snapshot.aggregate}, "
        f"published {snapshot.published_at.date().isoformat()} by {publisher}.",
        snapshot.published_at.isoformat(),
        snapshot.number,
        license_,
        publisher,
    )
    _write(folder / CROISSANT, croissant(folder, files, about))
    _write(folder / METADATA, _crate(folder, snapshot, files, about))
    return files


def _copy(store: Store, snapshot: Snapshot, item: Mapping[str, Any], folder: Path) -> File:
    key: str = item["key"]
    path = key.removeprefix(snapshot.location)
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    made, size = hashlib.sha256(), 0
    with target.open("xb") as file:
        for chunk in store.stream(key):
            made.update(chunk)
            size += len(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    if (size, f"sha256:{made.hexdigest()}") != (item["size"], item["digest"]):
        target.unlink()
        raise Corrupt(
            f"{key} is not what snapshot {snapshot.number} of {snapshot.aggregate} names",
            kind="object-damaged",
            hint="catchment verify",
        )
    return File(path, size, made.hexdigest())


def _write(path: Path, document: Mapping[str, Any]) -> None:
    data = json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _crate(folder: Path, snapshot: Snapshot, files: list[File], about: About) -> dict[str, Any]:
    """RO-Crate 1.1: the files, the run that made them, the sites that gave, the program."""
    described = (folder / CROISSANT).stat().st_size
    parts = [*files, File(CROISSANT, described, "")]
    return {"@context": CONTEXT, "@graph": list(_graph(snapshot, parts, about))}


def _graph(snapshot: Snapshot, files: list[File], about: About) -> Iterator[dict[str, Any]]:
    told = snapshot.provenance
    section = told[SECTION]
    run = section["run"]
    program = told.get("manifest") or told.get("program") or {}
    sites = sorted({line["site"] for line in section["account"] if line["site"]})
    yield {
        "@id": METADATA,
        "@type": "CreativeWork",
        "conformsTo": {"@id": PROFILE},
        "about": {"@id": "./"},
    }
    yield {
        "@id": "./",
        "@type": "Dataset",
        "name": about.name,
        "description": about.text,
        "datePublished": about.published,
        "version": str(about.number),
        "identifier": f"{snapshot.aggregate}/{snapshot.number}",
        "license": {"@id": "#license"},
        "publisher": {"@id": "#publisher"},
        "contributor": [{"@id": f"#site-{site}"} for site in sites],
        "hasPart": [{"@id": _uri(file.path)} for file in files],
        "mentions": {"@id": "#run"},
    }
    yield {
        "@id": "#license",
        "@type": "CreativeWork",
        "name": about.license,
        "description": about.license,
    }
    yield {"@id": "#publisher", "@type": "Organization", "name": about.publisher}
    for site in sites:
        yield {"@id": f"#site-{site}", "@type": "Organization", "name": site}
    yield {
        "@id": "#program",
        "@type": "SoftwareApplication",
        "name": program.get("name", "catchment"),
        "version": program.get("version", ""),
    }
    yield {
        "@id": "#run",
        "@type": "CreateAction",
        "name": f"Run {run['id']}",
        "instrument": {"@id": "#program"},
        "agent": {"@id": "#publisher"},
        "startTime": run["started_at"],
        "endTime": run["finished_at"],
        "result": {"@id": "./"},
    }
    for file in files:
        entity: dict[str, Any] = {
            "@id": _uri(file.path),
            "@type": "File",
            "name": file.path,
            "contentSize": str(file.size),
            "encodingFormat": file.media,
        }
        if file.digest:
            entity["sha256"] = file.digest
        yield entity


def _uri(path: str) -> str:
    from urllib.parse import quote

    return quote(path)

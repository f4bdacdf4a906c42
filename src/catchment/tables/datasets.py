"""From a center's place to the latest version of its dataset and the files of its tables.

Below a place: ``versions/<id>/provenance/dataset_description.json`` and
``versions/<id>/tables/<table>/*.parquet``; older releases write ``latest/...`` in the same form.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from catchment.core.errors import Invalid, NotFound, Unavailable
from catchment.core.finding import Finding, Severity
from catchment.core.names import check_name, shown
from catchment.core.progress import Event, Progress, silent
from catchment.core.store import Stat
from catchment.core.strictjson import Repeated, described, loads
from catchment.tables.model import Center, Dataset, SourceFile
from catchment.tables.sources import REMOTE, Place, Source, at_once, check_one_bucket

DESCRIPTION = "provenance/dataset_description.json"
MAX_DESCRIPTION = 4 * 1024 * 1024  # bytes
WORK = "tables: find datasets"


@dataclass(frozen=True, slots=True)
class Found:
    """What a run may read.

    Attributes:
        datasets: in order of the centers.
        skipped: why a center brings nothing, by center id: one of the findings.
        findings: all of them, in order of the centers.
    """

    datasets: tuple[Dataset, ...]
    skipped: Mapping[str, Finding]
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class _Version:
    """A version whose description can be read."""

    prefix: str
    created: datetime
    description: bytes
    tables: frozenset[str]  # as the description names them
    errors: int  # that the description itself reports


def find_datasets(
    centers: Sequence[Center],
    source: Source,
    *,
    fall_back: bool = False,
    workers: int | None = None,
    progress: Progress = silent,
) -> Found:
    """The latest dataset of each center; ``workers`` centers and descriptions at a time, if given.

    A center whose place or dataset cannot be had is skipped and reported; so are centers that share
    a place, because their rows would be counted twice.

    Raises Invalid (kind ``many-buckets``) where the source asks for one bucket, and whatever
    ``source.locate`` raises but NotFound and Invalid.
    """
    datasets: list[Dataset] = []
    skipped: dict[str, Finding] = {}
    findings: list[Finding] = []
    progress(Event(WORK, "start", 0, len(centers), "centers"))
    with ThreadPoolExecutor(workers or REMOTE) as pool:
        places: dict[str, Place | Finding] = dict(
            zip((c.id for c in centers), pool.map(partial(_located, source), centers), strict=True)
        )
    sound = {id_: place for id_, place in places.items() if isinstance(place, Place)}
    if source.one_bucket:
        check_one_bucket(sound)
    places |= _shared(sound)
    most = workers or at_once(place.store for place in sound.values())
    with ThreadPoolExecutor(most) as outer, ThreadPoolExecutor(most) as inner:
        # Two pools, for a task that waits for others of its own pool can wait forever.
        results = outer.map(
            lambda c: _dataset(c, places[c.id], fall_back=fall_back, pool=inner), centers
        )
        for done, (center, (dataset, found)) in enumerate(zip(centers, results, strict=True), 1):
            findings += found
            if dataset is None:
                skipped[center.id] = found[-1]
            else:
                datasets.append(dataset)
            progress(Event(WORK, "step", done, len(centers), "centers", center.id))
    progress(Event(WORK, "done", len(centers), len(centers), "centers"))
    return Found(tuple(datasets), skipped, tuple(findings))


def latest(
    center: Center, place: Place, *, fall_back: bool = False, pool: Executor
) -> tuple[Dataset | None, list[Finding]]:
    """The latest version of one center's dataset; where it is None, the last finding says why.

    The latest ``created`` wins, compared as instants; ties go to the greater key. Asks the store
    for the versions' folders, for each description, and for the files of the version that is used.

    Args:
        center: whose dataset it is.
        place: where it lies.
        fall_back: where the newest version has no tables, take the newest one that has some.
        pool: reads descriptions; threads, for places hold open stores.

    Raises Unavailable if a description cannot be fetched: an older version must not win by that.
    """
    store, prefix = place
    versions = [f"{prefix}versions/{name}/" for name in store.folders(f"{prefix}versions/")]
    read = pool.map(partial(_describe, center, place), [*versions, f"{prefix}latest/"])
    results = [result for result in read if result is not None]
    findings = [result for result in results if isinstance(result, Finding)]
    sound = [result for result in results if isinstance(result, _Version)]
    for version in sorted(sound, key=lambda v: (v.created, v.prefix), reverse=True):
        tables, digest, about = _tables(center, place, version)
        findings += about
        if tables:
            name = version.prefix.split("/")[-2]
            dataset = Dataset(
                center, store.url, version.prefix, name, version.created, tables, digest
            )
            return dataset, findings
        message = "the newest version has no Parquet file below tables/"
        hint = "write its tables, or let the run use the version before it: --fall-back, or "
        hint += "fall_back = true"
        severity = Severity.WARNING if fall_back else Severity.ERROR
        findings.append(
            Finding(center.id, severity, "version-empty", version.prefix, message, hint)
        )
        if not fall_back:
            return None, findings
    message = "expected versions/<id>/ with a readable description and tables, found none"
    hint = (
        "send a dataset to this place, or mend the place: --datasets, or datasets in the settings"
    )
    findings.append(_error(center, "dataset-missing", prefix or store.url, message, hint))
    return None, findings


def _located(source: Source, center: Center) -> Place | Finding:
    try:
        return source.locate(center)
    except (NotFound, Invalid) as error:
        return _error(center, error.kind, "place of the dataset", error.message, error.hint)


def _shared(places: Mapping[str, Place]) -> dict[str, Finding]:
    owners: dict[tuple[str, str], list[str]] = defaultdict(list)
    for id_, place in places.items():
        owners[place.store.url, place.prefix].append(id_)
    return {
        id_: Finding(
            id_,
            Severity.ERROR,
            "place-shared",
            "place of the dataset",
            f"expected a place of its own, got the same as {', '.join(i for i in ids if i != id_)}",
            "mend the place of one of them; none is read until then",
        )
        for ids in owners.values()
        if len(ids) > 1
        for id_ in ids
    }


def _dataset(
    center: Center, place: Place | Finding, *, fall_back: bool, pool: Executor
) -> tuple[Dataset | None, list[Finding]]:
    if isinstance(place, Finding):
        return None, [place]
    try:
        return latest(center, place, fall_back=fall_back, pool=pool)
    except (NotFound, Invalid, Unavailable) as error:
        where = place.prefix or place.store.url
        return None, [_error(center, error.kind, where, error.message, error.hint)]


def _describe(center: Center, place: Place, prefix: str) -> _Version | Finding | None:
    """The version at a prefix; a finding if it must be passed over; None if there is no such."""
    key = prefix + DESCRIPTION
    try:
        # One byte more than allowed tells that there are more, whatever the listing said.
        data = place.store.read(key, length=MAX_DESCRIPTION + 1)
        return _read_description(prefix, data)
    except NotFound:
        if prefix == f"{place.prefix}latest/":
            return None
        problem = "the version has no description"
    except Invalid as error:
        problem = error.message
    hint = "write the description anew; the version is passed over until then"
    return Finding(center.id, Severity.WARNING, "description-unreadable", key, problem, hint)


def _read_description(prefix: str, data: bytes) -> _Version:
    if len(data) > MAX_DESCRIPTION:
        raise Invalid(f"expected at most {MAX_DESCRIPTION} bytes, got more")
    try:
        description = loads(data)
    except ValueError:
        # The parser's message may quote what it stumbled over.
        raise Invalid("expected JSON in UTF-8, got something else") from None
    if not isinstance(description, dict):
        raise Invalid(f"expected an object, got {described(description)}")
    if isinstance(description, Repeated):
        raise Invalid("expected each name once, got a name twice")
    tables, errors = description.get("tables"), description.get("errors")
    return _Version(
        prefix,
        read_created(description.get("created")),
        data,
        frozenset(tables if isinstance(tables, dict) else ()),
        len(errors) if isinstance(errors, list | dict) else 0,
    )


def read_created(value: object) -> datetime:
    """The instant of an ISO 8601 date and time with a zone, in UTC. Invalid for anything else."""
    expected = "created: expected an ISO 8601 date and time with a zone"
    if not isinstance(value, str):
        raise Invalid(f"{expected}, got {described(value)}")
    try:
        created = datetime.fromisoformat(value.strip().upper())
        if created.tzinfo is None:
            raise Invalid(f"{expected}, got no zone")
        return created.astimezone(UTC)
    except (ValueError, OverflowError):
        raise Invalid(f"{expected}, got another string") from None


def _tables(
    center: Center, place: Place, version: _Version
) -> tuple[dict[str, tuple[SourceFile, ...]], str, list[Finding]]:
    """The files of each table, in order of key; the digest of all; what else lies there."""
    below = f"{version.prefix}tables/"
    tables: dict[str, list[SourceFile]] = defaultdict(list)
    refused: dict[str, str] = {}
    sha = hashlib.sha256(hashlib.sha256(version.description).digest())
    for stat in place.store.list(below):
        table, problem = _table_of(stat, below)
        if problem:
            place.store.head(stat.key)  # refuses a link: it may stand for a whole table
            refused.setdefault(table, problem)
        elif table:
            tables[table].append(SourceFile(place.store, stat.key, stat.size, stat.etag))
            sha.update(json.dumps([stat.key, stat.size, stat.etag]).encode())
    findings = [
        Finding(center.id, Severity.WARNING, "table-refused", below + where, problem, _TABLE_HINT)
        for where, problem in refused.items()
    ]
    findings += [
        Finding(
            center.id,
            Severity.WARNING,
            "table-missing",
            version.prefix + DESCRIPTION,
            f"the description names the table {shown(name)}, which has no Parquet file",
            "write the version anew, with all of its tables",
        )
        for name in sorted(version.tables - tables.keys() - refused.keys())
    ]
    if version.errors:
        message = f"the description itself reports {version.errors} errors"
        where = version.prefix + DESCRIPTION
        findings.append(Finding(center.id, Severity.NOTE, "description-errors", where, message))
    files = {name: tuple(found) for name, found in sorted(tables.items())}
    return files, f"sha256:{sha.hexdigest()}", findings


_TABLE_HINT = "expected tables/<table>/<file>.parquet; what is refused is not read"


def _table_of(stat: Stat, below: str) -> tuple[str, str]:
    """The table of an object and, if it must be refused, why; no table if it does not matter."""
    folder, *rest = stat.key.removeprefix(below).split("/")
    name = rest[-1] if rest else folder
    if name.startswith((".", "_")) or (not stat.size and not name.endswith(".parquet")):
        return "", ""  # marks of writers (_SUCCESS, .crc) and of folders
    if len(rest) != 1:
        return folder, "a file lies above or below the folder of its table"
    if not name.endswith(".parquet"):
        return folder, "a file is not named *.parquet"
    try:
        return check_name(folder, "table name"), ""
    except Invalid as error:
        return folder, error.message


def _error(center: Center, code: str, where: str, message: str, hint: str = "") -> Finding:
    return Finding(center.id, Severity.ERROR, code, where, message, hint)

"""From raw to stage: files are de-identified, and their rows are those of what came of it.

Runs where a file can hurt nobody. A file that cannot be de-identified has no row, only a reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from catchment.core.errors import Conflict, Invalid
from catchment.core.progress import Event
from catchment.core.store import Store
from catchment.imaging import layout
from catchment.imaging.profile import Profile
from catchment.imaging.read import Batch, Refused, Rows, Stored, read_bytes, read_files
from catchment.imaging.scanning import CHUNK as HEADERS
from catchment.imaging.scanning import in_children
from catchment.imaging.walk import BadFile

if TYPE_CHECKING:
    import pyarrow as pa

    from catchment.core.ledger import Snapshot
    from catchment.imaging.deidentify import Clean
    from catchment.imaging.job import House
    from catchment.imaging.model import Job

CHUNK = 8  # files of a task
LARGEST = 512 << 20  # bytes of a file, which is read whole
SETTING = "deidentified_by"  # in a snapshot's settings: the profile and what it does


def stage_files(
    store: Store,
    files: Sequence[Stored],
    *,
    name: str,
    profile: Profile,
    key: bytes = b"",
    require_deidentified: bool = False,
) -> Batch:
    """Rows of some files, de-identified, and the evidence; a task for a child process.

    What is de-identified is put below ``stage/``, under the SHA-256 of its own bytes. A file that
    no reader can take has the reason that it has without a profile.
    """
    rows = Rows(key)
    refused: list[Refused] = []
    evidence: list[dict[str, Any]] = []
    for file in files:
        try:
            if file.size > LARGEST:
                raise BadFile("too-large")
            data = store.read(file.key)
            read_bytes(data, file, Rows(key, require_deidentified=require_deidentified))
            clean = _clean(data, profile.of_site(file.site))
            staged = file._replace(stage=clean.digest, stage_size=len(clean.data))
            read_bytes(clean.data, staged, rows)
        except BadFile as bad:
            refused.append(Refused(file.digest, str(bad)))
            continue
        with suppress(Conflict):  # the same bytes are there
            store.put(layout.clean_key(name, clean.digest), clean.data)
        evidence.append(_evidence(file, clean))
    return Batch(rows.stream(), refused, evidence)


def _clean(data: bytes, profile: Profile) -> Clean:
    from catchment.imaging.deidentify import deidentify

    return deidentify(data, profile)


def _evidence(file: Stored, clean: Clean) -> dict[str, Any]:
    told = clean.evidence
    return {
        "sha256": file.digest,
        "stage_sha256": clean.digest,
        "site": file.site,
        "SOPInstanceUID": clean.uid,
        "profile": told["profile"],
        "actions": json.dumps(told["actions"], sort_keys=True),
        "looked_for": told["looked_for"],
    }


def check_profile(job: Job, latest: Snapshot | None) -> None:
    """A snapshot holds files of one profile and key, or none is de-identified.

    Invalid (kind ``profile-changed``) where the settings have changed since: old and new UIDs and
    pseudonyms would not fit together, or names would stand beside pseudonyms.
    """
    if latest is None:
        return
    before = latest.provenance["config"].get(SETTING)
    if before != job.config.get(SETTING):
        raise Invalid(
            "the profile of de-identification, or its key, is not that of the latest snapshot",
            kind="profile-changed",
            hint=f"restore it, or bring the files in under a new name than [imaging.{job.name}]",
        )


def read_all_files(
    job: Job, house: House, files: Sequence[Stored]
) -> tuple[pa.Table, dict[str, str], list[dict[str, Any]]]:
    """Rows of the files, the reasons of those that have none, and the evidence."""
    import pyarrow as pa

    from catchment.imaging.read import schema

    tables, refused = [schema().empty_table()], dict[str, str]()
    evidence: list[dict[str, Any]] = []
    event = Event(f"{job.aggregate}: read", "start", unit="files")
    house.progress(event)
    work, chunk = _task(job, house.store)
    for result in in_children(house.executor, work, files, chunk=chunk):
        if isinstance(result, Batch):
            tables.append(pa.ipc.open_stream(result.rows).read_all())
            refused |= {one.digest: one.reason for one in result.refused}
            evidence += result.evidence
        else:
            refused |= dict([Refused(result[0].digest, result[1])])
        done = sum(table.num_rows for table in tables) + len(refused)
        house.progress(event._replace(state="step", done=done, total=len(files)))
    house.progress(event._replace(state="done"))
    return pa.concat_tables(tables).combine_chunks(), refused, evidence


def _task(job: Job, store: Store) -> tuple[Callable[[Sequence[Stored]], Batch], int]:
    """What reads some files, and how many at a time."""
    options = job.options
    key, require = options.key, options.require_deidentified
    if options.profile is None:
        return partial(read_files, store, key=key, require_deidentified=require), HEADERS
    work = partial(stage_files, store, name=job.name, profile=options.profile)
    return partial(work, key=key, require_deidentified=require), CHUNK

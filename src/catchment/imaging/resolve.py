"""Conflicts are decided by a person: which bytes a SOPInstanceUID stands for, or none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from catchment.core.account import Line
from catchment.core.errors import CatchmentError, Invalid, NotFound
from catchment.imaging import run as runs
from catchment.imaging.job import House
from catchment.imaging.model import Job, State
from catchment.imaging.reports import REJECTED
from catchment.imaging.run import Outcome, Work
from catchment.imaging.snapshot import ImagingSnapshot
from catchment.imaging.stage import SOURCE


def conflicts(snapshot: ImagingSnapshot) -> list[dict[str, Any]]:
    """Every conflict that is open: its SOPInstanceUID, and the files that claim it."""
    rows = snapshot.find("files", "state", [State.CONFLICT]).to_pylist()
    by_uid: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        claim = {"site": row["site"], "sha256": row[SOURCE], "size": row["size"]}
        by_uid.setdefault(row["SOPInstanceUID"], []).append(claim)
    return [{"SOPInstanceUID": uid, "files": files} for uid, files in sorted(by_uid.items())]


def resolve(job: Job, house: House, uid: str, keep: str | None) -> Outcome:
    """Publish the bytes to keep (a SHA-256, or how it begins); None: keep them all unpublished.

    The others are quarantined with the reason ``conflict-rejected``; sent again, they are
    duplicates.

    Raises:
        NotFound: kind ``no-conflict``.
        Invalid: kind ``which-file`` if not exactly one of the files is meant.
        Conflict: kind ``lease-held`` while a run is at work.
    """
    with deciding(job, house, {"resolve": uid, "keep": keep}) as work:
        kept, rejected = _chosen(work, uid, keep)
        _decide(work, kept, rejected)
        return work.publish(())


@contextmanager
def deciding(job: Job, house: House, what: dict[str, Any]) -> Iterator[Work]:
    """A run in which a person's decision is carried out, under the lease."""
    with house.ledger.holding(job.aggregate, ttl=house.lease) as lease:
        latest = runs.mend(job, house)
        record = house.ledger.start_run(job.aggregate, what)
        try:
            yield Work(job, house, record, lease, latest)
        except BaseException as error:
            known = error if isinstance(error, CatchmentError) else None
            with suppress(CatchmentError):  # the first error is the one to tell
                house.ledger.finish_run(record.id, "failed" if known else "cancelled", known)
            raise


def _chosen(work: Work, uid: str, keep: str | None) -> tuple[list[str], list[str]]:
    import pyarrow as pa

    rows = work.shelf.find("files", "SOPInstanceUID", pa.array([uid]), [SOURCE, "state"])
    found = [] if rows is None else rows.to_pylist()
    digests = sorted({row[SOURCE] for row in found if row["state"] == State.CONFLICT})
    if not digests:
        raise NotFound(
            "no open conflict is about this SOPInstanceUID",
            kind="no-conflict",
            hint="catchment imaging resolve lists the conflicts",
        )
    kept = [digest for digest in digests if keep is not None and digest.startswith(keep)]
    if keep is not None and len(kept) != 1:
        raise Invalid(
            f"expected the SHA-256 of one of {len(digests)} files, got one that {len(kept)} have",
            kind="which-file",
            hint="catchment imaging resolve lists them",
        )
    return kept, [digest for digest in digests if digest not in kept]


def _decide(work: Work, kept: list[str], rejected: list[str]) -> None:
    import pyarrow as pa

    work.set_states(kept, State.INGESTED, None)
    work.set_states(rejected, State.QUARANTINED, REJECTED)
    rows = work.shelf.find("raw", SOURCE, pa.array(kept, pa.string()))
    if rows is not None:
        work.ingest(rows, kept)
    files = work.shelf.find("files", SOURCE, pa.array(kept + rejected, pa.string()))
    for row in [] if files is None else files.to_pylist():
        if row["state"] == State.DUPLICATE:
            continue
        balance = work.account[Line(row["site"], "resolved", "files")]
        balance.received += 1
        if row["state"] == State.INGESTED:
            balance.kept += 1
        else:
            balance.quarantined[REJECTED] += 1

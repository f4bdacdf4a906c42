"""Quarantined files are looked at by a person: read again, or seen and told no more."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import batched
from typing import TYPE_CHECKING, Any

from catchment.core.account import Line
from catchment.imaging import layout
from catchment.imaging.job import House
from catchment.imaging.model import Job, State
from catchment.imaging.plan import Came, Fate
from catchment.imaging.read import Stored
from catchment.imaging.reports import REJECTED
from catchment.imaging.resolve import deciding
from catchment.imaging.run import FILES, Outcome, Work
from catchment.imaging.stage import SOURCE
from catchment.imaging.staging import check_profile

if TYPE_CHECKING:
    import pyarrow as pa


def again(job: Job, house: House, reasons: Collection[str] = ()) -> Outcome:
    """Read quarantined files once more, by the program and the settings of today.

    Args:
        job: with the profile that files are de-identified by.
        house: where it works.
        reasons: of the quarantine; none: any.

    Returns:
        What was published; "unchanged" if every file stays where it was.

    Raises:
        Conflict: kind ``lease-held`` while a run is at work.
        Invalid: kind ``profile-changed``.
    """
    with deciding(job, house, {"again": sorted(reasons)}) as work:
        check_profile(job, work.latest)
        changed = False
        for rows in batched(_quarantined(work, reasons), FILES):
            changed = _read_again(work, rows) or changed
        if changed:
            return work.publish(())
        house.ledger.record(work.record.id, work.account, ())
        return _unchanged(work)


def seen(job: Job, house: House, reasons: Collection[str] = ()) -> Outcome:
    """Tell no more of the files that are quarantined now; they stay there, and in the account.

    Raises:
        Conflict: kind ``lease-held`` while a run is at work.
    """
    with deciding(job, house, {"seen": sorted(reasons)}) as work:
        digests = {row[SOURCE] for row in _quarantined(work, reasons) if row["seen"] is None}
        if not digests:
            return _unchanged(work)
        _amend(work, digests, {"seen": dict.fromkeys(digests, house.clock())}, reasons)
        return work.publish(())


def _unchanged(work: Work) -> Outcome:
    work.house.ledger.finish_run(work.record.id, "unchanged")
    return Outcome("unchanged", work.latest, work.account, (), work.done)


def _quarantined(work: Work, reasons: Collection[str]) -> list[dict[str, Any]]:
    """Files that were kept and could not be published, but for those that a person rejected."""
    import pyarrow as pa

    wanted = pa.array([State.QUARANTINED], pa.string())
    columns = ["site", SOURCE, "size", "reason", "seen"]
    found = work.shelf.find("files", "state", wanted, columns)
    return [
        row
        for row in (() if found is None else found.to_pylist())
        if row["reason"] != REJECTED and (not reasons or row["reason"] in reasons)
    ]


def _read_again(work: Work, rows: Collection[Mapping[str, Any]]) -> bool:
    """Whether any of the files stands elsewhere now."""
    kept = [row for row in rows if row[SOURCE]]  # of a link there are no bytes
    files = [
        Stored(r["site"], layout.object_key(work.job.name, r[SOURCE]), r[SOURCE], r["size"])
        for r in kept
    ]
    decision, uids = work.settle([Came(f.site, f.digest, None) for f in files], (), files)
    moved: dict[str, Fate] = {}
    for row, fate in zip(kept, decision.fates, strict=True):
        balance = work.account[Line(row["site"], "again", "files")]
        balance.received += 1
        if fate.state == State.INGESTED:
            balance.kept += 1
        else:
            balance.quarantined[fate.reason or str(fate.state)] += 1
        if fate != (State.QUARANTINED, row["reason"]):
            moved[row[SOURCE]] = fate
            if fate.reason or fate.state == State.CONFLICT:
                work.reasons[row["site"], fate.reason or str(fate.state)] += 1
    work.done += len(kept)
    if moved:
        new: dict[str, dict[str | None, Any]] = {
            "state": {digest: str(fate.state) for digest, fate in moved.items()},
            "reason": {digest: fate.reason for digest, fate in moved.items()},
            "SOPInstanceUID": {digest: uids.get(digest) for digest in moved},
            "seen": dict.fromkeys(moved),
        }
        _amend(work, moved.keys(), new)
    return bool(moved)


def _amend(
    work: Work,
    digests: Collection[str | None],
    new: Mapping[str, Mapping[str | None, Any]],
    reasons: Collection[str] = (),
) -> None:
    """Columns of quarantined files, by digest; None: of those that have no bytes."""
    import pyarrow as pa

    def change(rows: pa.Table) -> pa.Table:
        keys, states, why = (rows[name].to_pylist() for name in (SOURCE, "state", "reason"))
        own = [
            key in digests and state == State.QUARANTINED and (not reasons or reason in reasons)
            for key, state, reason in zip(keys, states, why, strict=True)
        ]
        for name, values in new.items():
            at = rows.column_names.index(name)
            column = [
                values[key] if mine else before
                for key, mine, before in zip(keys, own, rows[name].to_pylist(), strict=True)
            ]
            rows = rows.set_column(at, name, pa.array(column, rows.schema.field(name).type))
        return rows

    work.shelf.amend("files", SOURCE, pa.array(list(digests), pa.string()), change)

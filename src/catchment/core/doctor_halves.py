"""What was begun and never finished: writes into the store, and uploads of sites."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from catchment.core.doctor_check import Check
from catchment.core.errors import CatchmentError, NotFound
from catchment.core.ledger.uploads import LIVE, FileState, UploadFile, Uploads
from catchment.core.store import Store
from catchment.core.workspace import Workspace


def halves(workspace: Workspace, grace: timedelta) -> Iterator[Check]:
    """What is younger than the grace time may still go on, and is not told."""
    yield _writes(workspace.store, grace)
    yield from _uploads(workspace, grace)


def _writes(store: Store, grace: timedelta) -> Check:
    """Drafts on a disk, uploads in parts in a bucket: nobody sees them, and they take up space."""
    what = "interrupted writes"
    try:
        count = store.sweep(grace, dry_run=True)
    except CatchmentError as error:
        known = error.kind == "missing-extra"
        return Check(what, well=known, found=f"not known: {error.message}", hint=error.hint)
    if not count:
        return Check(what, well=True, found="none that is older than a day")
    return Check(
        what,
        well=True,
        found=f"{count:,} that are older than a day take up space",
        hint="catchment doctor --mend, or catchment gc",
        remedy=partial(_sweep, store, grace),
    )


def _sweep(store: Store, grace: timedelta) -> str:
    return f"{store.sweep(grace):,} are cleared away"


def _uploads(workspace: Workspace, grace: timedelta) -> Iterator[Check]:
    uploads = Uploads(workspace.ledger)
    before = datetime.now(UTC) - grace
    begun = [
        file
        for state in LIVE
        for file in uploads.files(state)
        if file.expires_at < before and file.touched_at < before
    ]
    there: list[UploadFile] = []
    never: list[UploadFile] = []
    for file in begun:
        came = file.to_storage and _is_there(workspace.store, file.key)
        (there if came else never).append(file)
    waiting = [f for f in uploads.files(FileState.ARRIVED) if f.touched_at < before]
    if waits := len(there) + len(waiting):
        yield Check(
            "uploads that wait",
            well=False,
            found=f"{waits:,} arrived more than a day ago, and nobody took them in",
            hint="catchment studies process, or let catchment serve run",
        )
    if never:
        sites = sorted({file.site for file in never})
        yield Check(
            "half uploads",
            well=True,
            found=f"{len(never):,} were begun more than a day ago, and their bytes never came: "
            f"{', '.join(sites[:5])}{', ...' if len(sites) > 5 else ''}",
            hint="catchment doctor --mend closes them; their sites may ask again",
            remedy=partial(_close, uploads, never),
        )


def _is_there(store: Store, key: str) -> bool:
    try:
        store.head(key)
    except NotFound:
        return False
    return True


def _close(uploads: Uploads, files: Sequence[UploadFile]) -> str:
    error = NotFound(
        "the bytes of this file never came, or not all of them",
        kind="upload-abandoned",
        hint="ask for a new form, and send the file again",
    )
    closed = sum(uploads.abandon(file, error) for file in files)
    return f"{closed:,} are closed"

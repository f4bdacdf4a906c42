"""Uploads that have arrived: who processes them, and what their sites are told.

A :class:`Worker` runs in each process that serves. It is told of what arrives in its own process,
and looks for all else: uploads into a bucket, and what a process that died left behind. Where the
bucket tells a queue of what is put there, it listens to the queue, too: what nobody asked for by
the site API is then taken in as well, without another process.
"""

from __future__ import annotations

import logging
import random
import secrets
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from catchment.core.errors import CatchmentError, Conflict, Corrupt, Unavailable
from catchment.core.ledger.uploads import FileState, UploadFile, Uploads
from catchment.core.store_events import Queue
from catchment.core.workspace import Workspace
from catchment.studies import forms, layout, library, scan, subscribe
from catchment.studies import watch as watching

INTERVAL = 2.0  # seconds between two looks at what arrived elsewhere
SCAN = 600.0  # seconds between two looks at all that lies in a bucket, where no event came
AWAITED = timedelta(days=1)  # that uploads into a bucket are looked for by their keys
ATTEMPTS = 10  # to process an upload that others get in the way of
AT_ONCE = 4  # uploads processed at a time by one process

log = logging.getLogger(__name__)


class Worker:
    """Processes uploads in the background; a context manager.

    Several may run beside each other: each claims what it works on, and a claim that is not kept
    alive is free for the next.
    """

    def __init__(self, workspace: Workspace, interval: float = INTERVAL) -> None:
        self._workspace = workspace
        self._uploads = Uploads(workspace.ledger, workspace.settings.serve.idle)
        self._interval = interval
        self._name = secrets.token_hex(8)
        self._wake = threading.Event()
        self._over = threading.Event()
        self._busy: dict[tuple[str, str], UploadFile] = {}
        self._lock = threading.Lock()
        self._weekly = subscribe.Weekly(workspace)
        self._thread = threading.Thread(target=self._run, name="arrivals", daemon=True)
        self._listener = threading.Thread(target=self._listen, name="events", daemon=True)
        self._pool = ThreadPoolExecutor(AT_ONCE, "arrival")

    def __enter__(self) -> Self:
        self._thread.start()
        if self._workspace.settings.events.queue is not None:
            self._listener.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._wake.set()
        self._thread.join()
        if self._listener.is_alive():
            self._listener.join()
        self._pool.shutdown()

    def notify(self) -> None:
        """Something has arrived: look at once."""
        self._wake.set()

    def look(self) -> None:
        """Begin to process all that has arrived, and keep alive what is being processed."""
        store = self._workspace.store
        if awaited := self._uploads.awaited(AWAITED):
            there = {stat.key for stat in store.list(layout.STAGING)}
            for file in awaited:
                if file.key in there:
                    forms.look(store, self._uploads, file)
        for file in self._uploads.files(FileState.ARRIVED):
            place = (file.upload, file.key)
            with self._lock:  # two threads look: at intervals, and when the bucket tells
                mine = place in self._busy
                if not self._uploads.claim(file, self._name) or mine:
                    continue
                self._busy[place] = file
            self._pool.submit(self._process, file)

    def _run(self) -> None:
        while not self._over.is_set():
            self._wake.wait(self._interval)
            self._wake.clear()
            try:
                self._weekly()
                self.look()
            except Exception as error:  # noqa: BLE001 - it goes on, whatever one look meets
                log.warning("cannot look for uploads: %s", getattr(error, "kind", type(error)))
                self._over.wait(self._interval)

    def _listen(self) -> None:
        """Look at what lies in the bucket when its queue tells of it."""
        settings = self._workspace.settings
        while not self._over.is_set():
            try:
                queue = Queue(str(settings.events.queue), settings.s3.options())
                store = self._workspace.store
                watching.watch(self._told, store, self._over, interval=SCAN, queue=queue)
            except Exception as error:  # noqa: BLE001 - the message comes again
                log.warning("cannot look for events: %s", getattr(error, "kind", type(error)))
                self._over.wait(self._interval)

    def _told(self) -> None:
        """First what the site API knows of, so that it answers for it; then all else."""
        self.look()
        found = scan.scan(library.house(self._workspace))
        log.info("an event: %d uploads, %d failed", len(found.uploads), len(found.failed))

    def _process(self, file: UploadFile) -> None:
        began = time.monotonic()
        try:
            process(self._workspace, self._uploads, file)
        except CatchmentError as error:  # its end could not be written: it is processed again
            log.warning("an upload of %s waits: %s", file.site, error.kind)
        finally:
            with self._lock:
                del self._busy[file.upload, file.key]
        log.info("processed an upload of %s in %.1f s", file.site, time.monotonic() - began)


def process(workspace: Workspace, uploads: Uploads, file: UploadFile) -> None:
    """Bring one upload that has arrived to its answer, and give its lock back.

    Where a service is away the upload stays as it is, for the next look.
    """
    failed: CatchmentError | None = None
    try:
        _submit(workspace, file)
    except Unavailable as error:
        log.warning("an upload of %s waits: %s", file.site, error.kind)
        return
    except CatchmentError as error:
        failed = error
    except Exception as error:  # noqa: BLE001 - its site must be told, and the others go on
        log.error("fault of the program: %s", type(error).__qualname__)  # noqa: TRY400 - no values
        failed = Corrupt(
            "a fault of the program kept this file from being processed; it is not lost",
            kind="upload-not-processed",
            hint="ask the coordinating center; there is no need to send it again",
        )
    uploads.finish(file.upload, file.key, failed)


def _submit(workspace: Workspace, file: UploadFile) -> None:
    """Process it; where another worker decided something meanwhile, look again."""
    place = (file.site, file.study, file.version, file.filename, file.key, file.user, file.upload)
    for attempt in range(1, ATTEMPTS):
        try:
            library.submit(workspace, *place)
            return
        except Conflict as error:
            log.info("an upload of %s is looked at again: %s", file.site, error.kind)
            time.sleep(random.uniform(0, 0.1 * attempt))  # noqa: S311 - not a secret
    library.submit(workspace, *place)


def show(workspace: Workspace, uploads: Uploads, transaction: str, site: str) -> Mapping[str, Any]:
    """What a site is told of its upload: plain types.

    ``state`` is ``open`` while bytes are awaited or come in, ``processing``, ``done``, or
    ``abandoned`` when its form expired unused. ``accepted`` is null until it is done.

    NotFound (kind ``no-upload``), also for another site's.
    """
    row, asked = uploads.get(transaction, site)
    awaited = [f for f in asked if f.state is FileState.REQUESTED]
    if any([forms.look(workspace.store, uploads, file) for file in awaited]):  # noqa: C419 - all
        row, asked = uploads.get(transaction, site)
    answers = {one.filename: one for one in library.uploads(workspace, row.id, site)}
    parts = []
    for file in asked:
        answer = answers.get(file.filename)
        part = {"filename": file.filename, "version": file.version, "size": file.size}
        part |= {"state": _state(file), "accepted": None, "error": file.error, "files": []}
        if answer is not None and file.state in {FileState.PROCESSED, FileState.ARRIVED}:
            part["files"] = [one.to_json() for one in answer.files]
        if part["state"] == "done":
            part["accepted"] = file.error is None and answer is not None and answer.accepted
        parts.append(part)
    state = next((s for s in _ORDER if any(part["state"] == s for part in parts)), "open")
    ended = state == "done"
    return {
        "transaction": row.id,
        "site": row.site,
        "study": row.study,
        "state": state,
        "accepted": all(part["accepted"] for part in parts) if ended else None,
        "opened_at": row.opened_at.isoformat(),
        "uploads": parts,
    }


_ORDER = ("processing", "open", "abandoned", "done")


def _state(file: UploadFile) -> str:
    match file.state:
        case FileState.ARRIVED:
            return "processing"
        case FileState.REQUESTED if file.expires_at <= datetime.now(UTC):
            return "abandoned"
        case FileState.REQUESTED | FileState.SENDING:
            return "open"
    return "done"

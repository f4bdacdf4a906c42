"""Uploads that sites ask for: who may send which bytes now, and what has arrived.

A lock on (site, study) belongs to one upload. It is given back by that upload, or taken over by a
later one once nobody has done anything for it in a while; no timer removes it.
"""

from __future__ import annotations

import enum
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa

from catchment.core.errors import CatchmentError, Conflict, NotFound
from catchment.core.ledger.database import Again, upsert
from catchment.core.ledger.ledger import Ledger
from catchment.core.ledger.schema import upload_files, upload_locks, uploads

IDLE = timedelta(minutes=5)  # after which a later upload may take the lock
CLAIM = timedelta(seconds=15)  # after which another worker may process what one has claimed
_CLAIM = "worker:"

_F = upload_files.c
_L = upload_locks.c


class FileState(enum.StrEnum):
    """How far a file of an upload is on its way here."""

    REQUESTED = "requested"  # a form is out
    SENDING = "sending"  # its bytes are coming in
    ARRIVED = "arrived"  # all of it is in the store, and nobody has looked at it
    PROCESSED = "processed"
    FAILED = "failed"  # not processed, for the reason in ``error``


LIVE = (FileState.REQUESTED, FileState.SENDING)  # begun, and not all of it is here


class Wanted(NamedTuple):
    """What is to be uploaded, and where to."""

    key: str
    filename: str
    version: int


@dataclass(frozen=True, slots=True)
class UploadFile:
    """One file of an upload."""

    upload: str
    key: str
    filename: str
    version: int
    state: FileState
    expires_at: datetime  # of the form
    touched_at: datetime
    size: int | None
    digest: str  # while it is awaited: what lay there before
    error: Mapping[str, str] | None
    to_storage: bool  # the storage takes it in by itself: somebody must look if it is there
    site: str
    study: str
    user: str


@dataclass(frozen=True, slots=True)
class UploadRow:
    """One upload; its id is the transaction id of the site API."""

    id: str
    site: str
    user: str
    network: str
    study: str
    opened_at: datetime


class Uploads:
    """The uploads of a workspace. Each verb that writes is one transaction.

    Args:
        ledger: whose database holds them.
        idle: how long an upload keeps its lock without a sign of life.
    """

    def __init__(self, ledger: Ledger, idle: timedelta = IDLE) -> None:
        self._database = ledger._database  # noqa: SLF001 - of one package
        self._now = ledger._now  # noqa: SLF001 - the same
        self._idle = idle

    def open(
        self, wanted: str, *, site: str, user: str, study: str, network: str = ""
    ) -> UploadRow:
        """Begin an upload, or go on with it: take the lock of the site and the study.

        Conflict: kind ``upload-locked`` while another upload holds the lock, ``upload-taken`` if
        the id is that of an upload of another site or study.
        """
        at = self._now()
        new = {"id": wanted, "site": site, "user": user, "network": network, "study": study}

        def work(c: sa.Connection) -> UploadRow:
            c.execute(upsert(c, uploads).on_conflict_do_nothing(), new | {"opened_at": at})
            row = UploadRow(*c.execute(sa.select(uploads).where(uploads.c.id == wanted)).one())
            if (row.site, row.study) != (site, study):
                raise Conflict(
                    "this transaction-id belongs to another upload",
                    kind="upload-taken",
                    hint="leave the transaction-id out: a new one is made",
                )
            self._take(c, row.id, site, study, at)
            return row

        return self._database.write(work)

    def offer(
        self, upload: str, wanted: Wanted, form: str, expires_at: datetime, before: str = ""
    ) -> None:
        """Remember that a form is out for a file; a form that was out before is good no more.

        ``before`` tells what lay under the key already: that is not what is awaited.

        Conflict: kind ``upload-busy`` while its bytes come in or wait to be processed;
        ``upload-taken`` if the upload is of another version: what it brings is known by its id.
        """
        at = self._now()

        def work(c: sa.Connection) -> None:
            of_another = (_F.key != wanted.key, _F.version != wanted.version)
            others = sa.select(_F.key).where(_F.upload == upload, *of_another)
            if c.scalar(others.limit(1)) is not None:
                raise Conflict(
                    "this transaction-id belongs to an upload of another data package version",
                    kind="upload-taken",
                    hint="leave the transaction-id out: a new one is made",
                )
            row = _locked(c, _F.upload == upload, _F.key == wanted.key)
            values = {"state": FileState.REQUESTED, "form": form, "expires_at": expires_at}
            values |= {"attempt": "", "touched_at": at, "size": None}
            values |= {"digest": before, "error": None}
            if row is None:
                query = upsert(c, upload_files).on_conflict_do_nothing()
                made = query.returning(_F.key)
                if c.scalar(made, {"upload": upload} | wanted._asdict() | values) is None:
                    raise Again
            elif row.form == form and form:
                return  # its answer was lost
            elif row.state == FileState.ARRIVED or self._is_sending(row, at):
                raise Conflict(
                    "this file is being uploaded or processed",
                    kind="upload-busy",
                    hint="wait until it is done, then ask again",
                )
            else:
                c.execute(sa.update(upload_files).where(_is(row)).values(values))

        self._database.write(work)

    def begin(self, upload: str, key: str, form: str, attempt: str) -> UploadFile:
        """Let one request send the bytes that a form allows.

        NotFound (kind ``no-form``) for a form that is none, or was replaced; Conflict: kind
        ``form-used``, ``form-expired``, ``upload-busy`` while another request sends,
        ``upload-locked`` if a later upload took the lock.
        """
        at = self._now()

        def work(c: sa.Connection) -> UploadFile:
            row = _locked(c, _F.upload == upload, _F.key == key)
            if row is None or not hmac.compare_digest(row.form, form or "-"):
                raise NotFound("there is no such form", kind="no-form", hint=_ASK)
            known = row.state == FileState.SENDING and row.attempt == attempt
            if not known:
                if row.state not in LIVE:
                    raise Conflict("this form was used", kind="form-used", hint=_ASK)
                if row.expires_at <= at:
                    raise Conflict("this form has expired", kind="form-expired", hint=_ASK)
                if self._is_sending(row, at):
                    raise Conflict(
                        "another request is sending this file", kind="upload-busy", hint=_ASK
                    )
                owner = c.execute(sa.select(uploads).where(uploads.c.id == row.upload)).one()
                self._take(c, row.upload, owner.site, owner.study, at)
                _set(c, row, state=FileState.SENDING, attempt=attempt, touched_at=at)
            return _file(c, row.upload, row.key)

        return self._database.write(work)

    def touch(self, file: UploadFile, attempt: str) -> None:
        """Say that the bytes still come in. Conflict (kind ``upload-busy``) if others took over."""
        at = self._now()
        self._database.write(lambda c: _set(c, _own(c, file, attempt), touched_at=at))

    def give_up(self, file: UploadFile, attempt: str) -> None:
        """The request broke off: the form may be used again until it expires."""
        at = self._now()

        def work(c: sa.Connection) -> None:
            row = _locked(c, _F.upload == file.upload, _F.key == file.key)
            if row is not None and row.attempt == attempt and row.state == FileState.SENDING:
                _set(c, row, state=FileState.REQUESTED, attempt="", touched_at=at)

        self._database.write(work)

    def arrive(self, file: UploadFile, attempt: str, size: int, digest: str) -> None:
        """All bytes are durable in the store; from here on somebody must process them.

        Conflict (kind ``upload-busy``) if others took over.
        """
        at = self._now()
        values = {"state": FileState.ARRIVED, "size": size, "digest": digest, "touched_at": at}

        def work(c: sa.Connection) -> None:
            row = _locked(c, _F.upload == file.upload, _F.key == file.key)
            if row is None or (row.state, row.digest) != (FileState.ARRIVED, digest):
                _set(c, _own(c, file, attempt), **values)

        self._database.write(work)

    def claim(self, file: UploadFile, worker: str) -> bool:
        """Let one worker process a file that has arrived; it claims it again to keep it.

        False while another worker does.
        """
        at = self._now()

        def work(c: sa.Connection) -> bool:
            row = _locked(c, _F.upload == file.upload, _F.key == file.key)
            if row is None or row.state != FileState.ARRIVED:
                return False
            claimed = row.attempt.startswith(_CLAIM) and row.touched_at > at - CLAIM
            if claimed and row.attempt != _CLAIM + worker:
                return False
            _set(c, row, attempt=_CLAIM + worker, touched_at=at)
            return True

        return self._database.write(work)

    def finish(self, upload: str, key: str, error: CatchmentError | None = None) -> None:
        """Somebody has processed the file, or cannot; the upload's lock is given back with it."""
        at = self._now()
        state = FileState.PROCESSED if error is None else FileState.FAILED
        told = error and {"kind": error.kind, "message": error.message, "hint": error.hint}

        def work(c: sa.Connection) -> None:
            row = _locked(c, _F.upload == upload, _F.key == key)
            if row is not None and row.state not in {FileState.PROCESSED, FileState.FAILED}:
                _set(c, row, state=state, attempt="", error=told, touched_at=at)
            if not self._is_live(c, upload, at):
                c.execute(sa.delete(upload_locks).where(_L.upload == upload))

        self._database.write(work)

    def abandon(self, file: UploadFile, error: CatchmentError) -> bool:
        """Close a file whose bytes never came; False if anybody did anything for it since."""

        def work(c: sa.Connection) -> bool:
            row = _locked(c, _F.upload == file.upload, _F.key == file.key)
            if row is None or row.state not in LIVE or row.touched_at != file.touched_at:
                return False
            told = {"kind": error.kind, "message": error.message, "hint": error.hint}
            _set(c, row, state=FileState.FAILED, attempt="", error=told)
            return True

        return self._database.write(work)

    def get(self, upload: str, site: str) -> tuple[UploadRow, list[UploadFile]]:
        """An upload of a site with its files. NotFound (kind ``no-upload``), also for others'."""

        def work(c: sa.Connection) -> tuple[UploadRow, list[UploadFile]]:
            query = sa.select(uploads).where(uploads.c.id == upload, uploads.c.site == site)
            row = c.execute(query).one_or_none()
            if row is None:
                raise NotFound("this site has no such upload", kind="no-upload")
            return UploadRow(*row), _files(c, _F.upload == upload)

        return self._database.read(work)

    def awaited(self, within: timedelta) -> list[UploadFile]:
        """What the storage may have taken in by itself: of each key the file last asked for.

        Its form went out within a time, or is good still: who sends by it again sends anew.
        """
        at = self._now()
        asked = sa.and_(_F.state == FileState.REQUESTED, _F.touched_at > at - within)
        again = sa.and_(_F.state == FileState.PROCESSED, _F.expires_at > at)
        found = self._database.read(lambda c: _files(c, _TO_STORAGE, sa.or_(asked, again)))
        return list({file.key: file for file in found}.values())

    def files(self, state: FileState) -> list[UploadFile]:
        """The files in a state, the longest untouched first."""
        return self._database.read(lambda c: _files(c, _F.state == state))

    def find(self, key: str) -> UploadFile | None:
        """The file that was last asked for under a key; None if nobody asked."""
        files = self._database.read(lambda c: _files(c, _F.key == key))
        return max(files, key=lambda file: file.touched_at, default=None)

    def holder(self, site: str, study: str) -> str | None:
        """The upload that holds the lock; None if it is free."""
        query = sa.select(_L.upload).where(_L.site == site, _L.study == study)
        return self._database.read(lambda c: c.scalar(query))

    def _take(self, c: sa.Connection, upload: str, site: str, study: str, at: datetime) -> None:
        row = {"site": site, "study": study, "upload": upload}
        c.execute(upsert(c, upload_locks).on_conflict_do_nothing(), row)
        here = (_L.site == site, _L.study == study)
        holder = c.scalar(sa.select(_L.upload).where(*here).with_for_update())
        if holder is None:
            raise Again  # given back just now
        if holder == upload:
            return
        if self._is_live(c, holder, at):
            raise locked(study)
        c.execute(sa.update(upload_locks).where(*here).values(upload=upload))

    def _is_live(self, c: sa.Connection, upload: str, at: datetime) -> bool:
        """Something of the upload is under way, or waits to be processed."""
        rows = c.execute(sa.select(_F.state, _F.touched_at).where(_F.upload == upload)).all()
        if not rows:
            opened = c.scalar(sa.select(uploads.c.opened_at).where(uploads.c.id == upload))
            return opened is not None and opened > at - self._idle
        return any(
            r.state == FileState.ARRIVED or (r.state in LIVE and r.touched_at > at - self._idle)
            for r in rows
        )

    def _is_sending(self, row: Any, at: datetime) -> bool:
        return bool(row.state == FileState.SENDING and row.touched_at > at - self._idle)


_ASK = "ask for a new form"


def locked(study: str) -> Conflict:
    """The refusal of an upload while a former one is under way, in the words of the contract."""
    return Conflict(
        f"Currently processing a previous upload of {study}. Please try again later.",
        kind="upload-locked",
        hint="wait, or go on with the upload that is under way by its transaction-id",
    )


def _locked(c: sa.Connection, *wanted: sa.ColumnElement[bool]) -> Any:
    return c.execute(sa.select(upload_files).where(*wanted).with_for_update()).one_or_none()


def _own(c: sa.Connection, file: UploadFile, attempt: str) -> Any:
    row = _locked(c, _F.upload == file.upload, _F.key == file.key)
    if row is None or row.attempt != attempt:
        raise Conflict("another request has taken over", kind="upload-busy", hint=_ASK)
    return row


def _is(row: Any) -> sa.ColumnElement[bool]:
    return sa.and_(_F.upload == row.upload, _F.key == row.key)


def _set(c: sa.Connection, row: Any, **values: Any) -> None:
    c.execute(sa.update(upload_files).where(_is(row)).values(**values))


def _file(c: sa.Connection, upload: str, key: str) -> UploadFile:
    return _files(c, _F.upload == upload, _F.key == key)[0]


_NAMES = tuple(UploadFile.__dataclass_fields__)[:10]  # those of the file itself
_TO_STORAGE = _F.form == ""


def _files(c: sa.Connection, *wanted: sa.ColumnElement[bool]) -> list[UploadFile]:
    u = uploads.c
    query = sa.select(*(_F[name] for name in _NAMES), _TO_STORAGE, u.site, u.study, u.user)
    query = query.join(uploads, u.id == _F.upload).where(*wanted)
    rows: Any = c.execute(query.order_by(_F.touched_at, _F.upload, _F.key))
    return [replace(UploadFile(*r), state=FileState(r.state)) for r in rows]

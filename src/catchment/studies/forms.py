"""Upload requests of sites: a form that allows one file, for an hour, and its bytes when they come.

The form is the storage's own presigned POST where it has one. Elsewhere it is ours: a policy that
says what is allowed, and a signature, 256 random bits of which the ledger knows the digest only.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from catchment.core import strictjson
from catchment.core.errors import CatchmentError, Invalid, NotFound
from catchment.core.ledger.uploads import FileState, UploadFile, Uploads, Wanted, locked
from catchment.core.names import check_name
from catchment.core.store import Form, Stat, Store
from catchment.studies import layout

LIFE = timedelta(hours=1)  # what the public client was made for
HEARTBEAT = 20.0  # seconds between two signs of life of an upload
MAX_BYTES = 2 << 30  # of an upload
TOO_LARGE = "upload-too-large"

_VERSION = re.compile(r"[0-9]{1,6}(\.0+)?")


class Request(NamedTuple):
    """What a site asks for, checked; who asks is known by credentials only."""

    study: str
    filename: str
    version: int


class Sender(NamedTuple):
    """Who asks: the site and its user as the credentials say; a network if one is named."""

    site: str
    user: str
    network: str = ""


@dataclass(frozen=True, slots=True)
class Offer:
    """The answer: where to send the file, and the transaction that it belongs to."""

    transaction: str
    form: Form


def read_request(body: Any) -> Request:
    """The request that JSON from outside says. Invalid: kind ``bad-request``, ``bad-name``."""
    if not isinstance(body, dict):
        raise _bad("expected a JSON object with 'study' and 'filename'")
    if isinstance(body, strictjson.Repeated):
        raise _bad("expected each name once, got one twice")
    found = {}
    for name in ("study", "filename"):
        value = body.get(name)
        if not isinstance(value, str) or not value:
            raise _bad(f"expected a JSON object with 'study' and 'filename': no usable {name!r}")
        found[name] = value
    study, filename = found["study"], found["filename"]
    return Request(
        layout.check_part(study, "study"),
        layout.check_file(filename),
        _version(body.get("data_package_version")),
    )


def transaction_of(text: str | None) -> str:
    """The transaction that a request goes on with, or a new one. Invalid (``bad-transaction``)."""
    return str(uuid.uuid4()) if text is None else layout.check_transaction(text)


def offer(  # noqa: D417 - the others are what their types say
    store: Store,
    uploads: Uploads,
    request: Request,
    sender: Sender,
    *,
    transaction: str,
    url: str,
    max_bytes: int = MAX_BYTES,
) -> Offer:
    """Take the lock of the site and the study, and make the form.

    Args:
        transaction: see :func:`transaction_of`.
        url: where our own forms are sent, for stores that make none.

    Conflict: kind ``upload-locked`` while a former upload is under way, ``upload-taken``,
    ``upload-busy``.
    """
    site, user, network = sender
    if network:
        check_name(network, "network")
    key = layout.staging(request.study, site, request.version, request.filename)
    until = datetime.now(UTC) + LIFE
    wanted = Wanted(key, request.filename, request.version)
    who = {"site": site, "user": user, "study": request.study, "network": network}
    try:
        form = store.presign_post(key, expires=LIFE, max_bytes=max_bytes)
    except Invalid as error:
        if error.kind != "no-presign":
            raise
        row = uploads.open(transaction, **who)
        form, digest = _ours(url, row.id, key, until, max_bytes)
        uploads.offer(row.id, wanted, digest, until)
    else:
        _check_free(store, uploads, key, request.study)
        row = uploads.open(transaction, **who)
        uploads.offer(row.id, wanted, "", until, _there(store, key))
    return Offer(row.id, form)


class Entry:
    """The bytes of one form of ours on their way into the store.

    Raises what :meth:`Uploads.begin` raises, for a form that is not good now.
    """

    def __init__(self, store: Store, uploads: Uploads, fields: Mapping[str, str]) -> None:
        self._store = store
        self._uploads = uploads
        self._attempt = secrets.token_hex(16)
        policy = _policy(fields)
        self.max_bytes = policy["max_bytes"]
        digest = _digest(fields["policy"], fields["signature"])
        upload, key = policy["transaction"], policy["key"]
        self.file = uploads.begin(upload, key, digest, self._attempt)

    def give_up(self, _: BaseException | None = None) -> None:
        """The request broke off: let the form be used again. Nothing is in the store."""
        with suppress(CatchmentError):  # without it, the form waits until it is idle
            self._uploads.give_up(self.file, self._attempt)

    def refuse(self, error: CatchmentError) -> None:
        """The upload is over, for a reason that its site can read."""
        self._uploads.finish(self.file.upload, self.file.key, error)

    def receive(self, chunks: Iterable[bytes]) -> UploadFile:
        """Store the bytes as they come, and say that they have arrived.

        Invalid (kind ``upload-too-large``), or whatever the chunks raise.
        """
        counted = _Counted(chunks, self)
        self._store.put(self.file.key, counted, mode="overwrite")
        digest = f"sha256:{counted.sha256.hexdigest()}"
        self._uploads.arrive(self.file, self._attempt, counted.size, digest)
        return self.file

    def beat(self) -> None:
        """A sign of life."""
        self._uploads.touch(self.file, self._attempt)


class _Counted:
    """Chunks, with their size and digest, and with signs of life."""

    def __init__(self, chunks: Iterable[bytes], entry: Entry) -> None:
        self.size = 0
        self.sha256 = hashlib.sha256()
        self._chunks = chunks
        self._entry = entry

    def __iter__(self) -> Iterator[bytes]:
        beat = time.monotonic() + HEARTBEAT
        for chunk in self._chunks:
            self.size += len(chunk)
            if self.size > self._entry.max_bytes:
                raise too_large(self._entry.max_bytes)
            self.sha256.update(chunk)
            if time.monotonic() > beat:
                self._entry.beat()
                beat = time.monotonic() + HEARTBEAT
            yield chunk


def too_large(most: int) -> Invalid:
    """The error of an upload that brings more than its form allows."""
    return Invalid(
        f"expected an upload of at most {most:,} bytes",
        kind=TOO_LARGE,
        hint="send fewer packages at once",
    )


def look(store: Store, uploads: Uploads, file: UploadFile) -> bool:
    """Whether a file that is sent to the storage itself is there; from now on it has arrived.

    What lay there when its form went out is not it; what comes by its form again is. What comes
    under its key once a later form is out is that one's.
    """
    if not file.to_storage or file.state not in {FileState.REQUESTED, FileState.PROCESSED}:
        return False
    try:
        stat = store.head(file.key)
    except NotFound:
        return False
    last = uploads.find(file.key)
    if last != file or (file.state is FileState.REQUESTED and file.digest == _mark(stat)):
        return False
    uploads.arrive(file, "", stat.size, f"etag:{stat.etag}")
    return True


def _check_free(store: Store, uploads: Uploads, key: str, study: str) -> None:
    """What came by an older form comes first: else it would be mixed up with what comes next."""
    last = uploads.find(key)
    if last is not None and (last.state is FileState.ARRIVED or look(store, uploads, last)):
        raise locked(study)


def _there(store: Store, key: str) -> str:
    """What lies under a key; empty if nothing does."""
    try:
        return _mark(store.head(key))
    except NotFound:
        return ""


def _mark(stat: Stat) -> str:
    return f"before:{stat.etag}:{stat.modified.isoformat()}"


def _ours(url: str, upload: str, key: str, until: datetime, max_bytes: int) -> tuple[Form, str]:
    said = {"expiration": until.isoformat(), "key": key, "max_bytes": max_bytes}
    text = json.dumps(said | {"transaction": upload}).encode()
    policy, signature = base64.b64encode(text).decode(), secrets.token_hex(32)
    form = Form(url, {"key": key, "policy": policy, "signature": signature})
    return form, _digest(policy, signature)


def _policy(fields: Mapping[str, str]) -> Mapping[str, Any]:
    """What the policy of a form says; it is believed only once the ledger knows the form."""
    said: dict[str, Any] = {}
    try:
        said = json.loads(base64.b64decode(fields["policy"], validate=True))
        well = all(isinstance(said[name], str) for name in ("transaction", "key"))
        well = well and isinstance(said["max_bytes"], int) and said["key"] == fields["key"]
        _ = fields["signature"]
    except (ValueError, KeyError, TypeError, RecursionError):
        well = False
    if not well:
        raise NotFound("there is no such form", kind="no-form", hint="ask for a new form")
    return said


def _digest(policy: str, signature: str) -> str:
    return hashlib.sha256(f"{policy}\n{signature}".encode(errors="replace")).hexdigest()


def _version(value: Any) -> int:
    if value is None:
        return 0
    text = str(value) if isinstance(value, str | int | float) else ""
    if isinstance(value, bool) or not _VERSION.fullmatch(text):
        raise _bad("expected 'data_package_version' to be a number of 0 to 999999")
    return layout.check_version(int(float(text)))


def _bad(message: str) -> Invalid:
    return Invalid(
        message,
        kind="bad-request",
        hint='send {"study": ..., "filename": ..., "data_package_version": 0}',
    )

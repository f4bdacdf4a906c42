"""What sites send by DICOMweb (PS3.18, 10.5) waits in an inbox, which is one more thing to receive.

An instance is kept whole, under the SHA-256 of its bytes, before its sender is told so; a later run
takes it as it takes a provider's file. Sent twice, it is there once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import suppress
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple

from catchment.core.errors import Conflict, Invalid, NotFound
from catchment.core.store import Store
from catchment.core.workspace import Workspace
from catchment.imaging import layout
from catchment.imaging.capability import settings_of
from catchment.imaging.model import UID
from catchment.imaging.read import slowly
from catchment.imaging.scan import read_header
from catchment.imaging.scanning import KILLERS
from catchment.imaging.values import Unreadable
from catchment.imaging.walk import BadFile, Unscannable

CHUNK = 4 << 20  # bytes
ODD = 64 << 20  # bytes of a file that only the slower reader can read
MOST = 10_000  # instances of one request

# Reasons of a failure (PS3.4, table B.2-1; PS3.18, 10.5.3).
NO_ROOM = 0xA700
OTHER_STUDY = 0xA900
NOT_UNDERSTOOD = 0xC000


class Identity(NamedTuple):
    """What an instance says that it is; empty where it does not say it."""

    sop_class: str = ""
    instance: str = ""
    study: str = ""


class Sent(NamedTuple):
    """What became of one instance; without a failure it is kept."""

    identity: Identity
    failure: int | None = None


class Inbox:
    """The inbox of one site for ``[imaging.<name>]``.

    NotFound (kind ``no-aggregate``) if there is none, or the site may not send to it.
    """

    def __init__(self, workspace: Workspace, name: str, site: str) -> None:
        if name not in workspace.settings.imaging or site not in (
            settings_of(workspace, name).senders
        ):
            raise NotFound(
                "there is nothing here that this site may send to",
                kind="no-aggregate",
                hint="the coordinating center names the site in 'senders' of [imaging.NAME]",
            )
        self._store = workspace.store
        self._executor = lambda: workspace.executor
        self._most = workspace.settings.serve.max_upload << 20
        self._prefix = layout.inbox(name, site)

    def keep(self, parts: Iterable[Iterator[bytes]], study: str = "") -> list[Sent]:
        """Keep each instance, and say what became of it; of one study only, if one is named.

        Invalid (kind ``too-many-instances``) for more than are taken at once; those before are
        kept.
        """
        told: list[Sent] = []
        for part in parts:
            if len(told) == MOST:
                raise Invalid(
                    f"expected at most {MOST:,} instances in a request",
                    kind="too-many-instances",
                    hint="send the rest in another one; those that were taken are kept",
                )
            with TemporaryFile() as file:
                told.append(self._keep(part, file, study))
        return told

    def _keep(self, part: Iterator[bytes], file: IO[bytes], study: str) -> Sent:
        made, size = hashlib.sha256(), 0
        for chunk in part:  # to its end, for the next part stands behind it
            size += len(chunk)
            if size <= self._most:
                made.update(chunk)
                file.write(chunk)
        if size > self._most:
            return Sent(Identity(), NO_ROOM)
        try:
            found = identify(file, size, self._executor)
        except BadFile:
            return Sent(Identity(), NOT_UNDERSTOOD)
        if not (UID.fullmatch(found.instance) and UID.fullmatch(found.sop_class)):
            return Sent(Identity(), NOT_UNDERSTOOD)
        if study and found.study != study:
            return Sent(found, OTHER_STUDY)
        file.seek(0)
        with suppress(Conflict):  # it was sent before, and waits
            self._store.put(self._prefix + made.hexdigest(), iter(lambda: file.read(CHUNK), b""))
        return Sent(found)


def identify(file: IO[bytes], size: int, executor: Callable[[], Executor]) -> Identity:
    """What a file says that it is. BadFile if no reader can tell.

    Odd files are read by pydicom, in a child: what they do to it must not hurt the service.
    """

    def fetch(start: int, length: int) -> bytes:
        file.seek(start)
        return file.read(length)

    try:
        return _identity(read_header(fetch, size))
    except (Unscannable, Unreadable):
        if size > ODD:
            raise BadFile("header-too-large") from None
    try:
        found = executor().submit(identify_odd, fetch(0, size)).result()
    except Invalid as error:
        if error.kind not in KILLERS:
            raise
        raise BadFile(error.kind) from None
    if found is None:
        raise BadFile("header-broken")
    return found


def identify_odd(data: bytes) -> Identity | None:
    """The same by the slower reader; None where it cannot. A task for a child process."""
    import io

    try:
        return _identity(slowly(io.BytesIO(data), len(data)))
    except BadFile:
        return None


def _identity(header: Any) -> Identity:
    def text(tag: int) -> str:
        found = header.values(tag)
        return str(found[0]) if found else ""

    return Identity(text(0x00080016), text(0x00080018), text(0x0020000D))


def waiting(store: Store, name: str) -> int:
    """How many instances wait in all inboxes."""
    return sum(1 for _ in store.list(layout.inboxes(name)))


def response(told: Iterable[Sent]) -> tuple[int, dict[str, Any]]:
    """The status and the Store Instances Response Module (PS3.18, I.2), as DICOM JSON."""
    kept: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for one in told:
        item = {
            "00081150": _value("UI", one.identity.sop_class),
            "00081155": _value("UI", one.identity.instance),
        }
        reason = {"00081197": _value("US", one.failure)}
        if one.failure is None:
            kept.append(item)
        elif one.identity.instance:
            failed.append(item | reason)
        else:
            others.append(reason)
    body: dict[str, Any] = {"00081190": {"vr": "UR"}}  # nothing is retrieved here
    for tag, items in (("00081198", failed), ("00081199", kept), ("0008119A", others)):
        if items:
            body[tag] = {"vr": "SQ", "Value": items}
    if not failed and not others:
        return 200, body
    return (202 if kept else 409), body


def _value(vr: str, value: Any) -> dict[str, Any]:
    return {"vr": vr, "Value": [value]}

"""Process: an upload that has arrived is taken in, and its files are brought to an answer.

S3 event, local notification, scan and the site API all come here, each as often as it likes: what
was done is found done. A crash leaves the staged bytes, or a record from which another worker goes
on.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC
from typing import Any

from catchment.core.errors import CatchmentError, Conflict, Invalid, NotFound
from catchment.core.finding import Finding, Severity
from catchment.core.ledger import Contribution, Delivery, Ledger, Move
from catchment.core.store import Stat, Store
from catchment.studies import intake, layout, run
from catchment.studies.house import House
from catchment.studies.intake import Intake, Member
from catchment.studies.model import FileResult, Kind, Problem, Staged, State, Upload

RECEIVED, PROCESSED = "received", "processed"  # of an upload
_PAUSE = 0.05  # seconds between two tries for a study that another worker holds


def submit(house: House, staged: Staged) -> Upload:
    """Take in one staged upload and bring all of its files to an answer.

    NotFound (kind ``no-upload``) if there is nothing at its key and nothing was taken in before.
    """
    return resume(house, take_in(house, staged))


def take_in(house: House, staged: Staged) -> Contribution:
    """Make members of the staged bytes, and remember them; the bytes are removed then."""
    store, ledger = house.store, house.ledger
    layout.check_transaction(staged.transaction)
    layout.staging(staged.study, staged.site, staged.version, staged.filename)  # names only
    try:
        stat = store.head(staged.key)
    except NotFound:
        known = _known(ledger, staged)
        if known is None:
            raise NotFound(
                f"nothing has arrived at {staged.key}",
                kind="no-upload",
                hint="send the file to the form that the site API gave",
            ) from None
        return known
    taken = _take(house, staged)
    _check_own(ledger, staged, taken.digest)
    meta = {
        "study": staged.study,
        "version": staged.version,
        "filename": staged.filename,
        "user": staged.user,
        "transaction": staged.transaction,
        "arrived": stat.modified.astimezone(UTC).isoformat(timespec="microseconds"),
    }
    key = layout.upload(staged.study, staged.site, staged.transaction, taken.digest)
    listed = {"members": [asdict(member) for member in taken.members]}
    store.put(key, json.dumps(listed).encode(), mode="overwrite")
    ledger.receive_many(
        layout.aggregate(staged.study), _deliveries(staged, meta, taken), State.RECEIVED.value
    )
    upload = ledger.receive(
        layout.UPLOADS, staged.site, staged.transaction, taken.digest, taken.size, meta, RECEIVED
    )
    if _unmoved(store, stat):  # else another upload has come under the key meanwhile
        store.delete(staged.key)
    return upload


def resume(house: House, upload: Contribution) -> Upload:
    """Bring all files of an upload to an answer; what others decide meanwhile counts."""
    study = upload.meta["study"]
    if upload.state == RECEIVED:
        own = [one for one in members(house, upload) if one.state == State.RECEIVED]
        _promote(house, own)
        while any(_undecided(one) for one in members(house, upload)):
            try:
                run.settle(house, study)
            except Conflict as error:
                if error.kind not in run.OVERTAKEN:
                    raise
                time.sleep(_PAUSE)
        with suppress(Conflict):  # another worker was as fast
            house.ledger.move([Move(upload.id, RECEIVED, PROCESSED)])
    return result(house.store, house.ledger, _again(house.ledger, upload))


def _promote(house: House, own: Sequence[Contribution]) -> None:
    """Check before the lease is asked for: of many sites at once, side by side."""
    for one, checked in run.check_all(house, own):
        if checked.facts is not None:
            with suppress(Conflict):  # decided meanwhile
                house.ledger.move([Move(one.id, State.RECEIVED.value, State.LATEST.value)])


def members(house: House, upload: Contribution) -> list[Contribution]:
    """The files of an upload as they stand now."""
    return [one for _, one in _members(house.store, house.ledger, upload)]


def uploads(
    store: Store, ledger: Ledger, transaction: str, site: str | None = None
) -> list[Upload]:
    """What became of a transaction: one entry for each file that was uploaded in it.

    Empty where nothing has arrived. With a site, only that site's.
    """
    found = ledger.contributions(layout.UPLOADS, site=site, name=transaction)
    return [result(store, ledger, one) for one in found]


def result(store: Store, ledger: Ledger, upload: Contribution) -> Upload:
    """An upload, with the answer to each of its files."""
    meta = upload.meta
    history = ledger.history(upload.id)
    return Upload(
        transaction=upload.name,
        site=upload.site,
        study=meta["study"],
        version=meta["version"],
        filename=meta["filename"],
        user=meta["user"],
        digest=upload.digest,
        size=upload.size,
        state="done" if upload.state == PROCESSED else "processing",
        received_at=upload.received_at,
        finished_at=history[-1].at if upload.state == PROCESSED else None,
        files=tuple(_answer(store, one) for _, one in _members(store, ledger, upload)),
    )


def unfinished(ledger: Ledger) -> Iterator[Contribution]:
    """Uploads that were taken in and have files without an answer."""
    return ledger.contributions(layout.UPLOADS, state=RECEIVED)


def staged(
    store: Store, study: str | None = None, strays: list[Finding] | None = None
) -> Iterator[Staged]:
    """What lies in ``upload_staging/``, whoever put it there; a transaction of its own for each.

    The transaction follows from the object as it is, so that a second look finds the same.

    Args:
        store: where.
        study: only what lies in its folder.
        strays: takes what is told of each object that lies where no upload can.
    """
    for stat in store.list(f"{layout.STAGING}{study}/" if study else layout.STAGING):
        found = _found(stat)
        if found is not None:
            yield found
        elif strays is not None and not _passing(stat):
            strays.append(
                Finding(
                    "",
                    Severity.WARNING,
                    "stray-upload",
                    ascii(stat.key)[1:-1],
                    "it lies where no upload can, and is not read: expected "
                    f"{layout.STAGING}STUDY/SITE/VERSION/FILE, the version of three digits",
                    "move it there, or remove it",
                )
            )


def _passing(stat: Stat) -> bool:
    """A mark of a folder, or what a program writes before it gives it its name."""
    return stat.key.endswith("/") or any(part.startswith(".") for part in stat.key.split("/"))


def _found(stat: Stat) -> Staged | None:
    try:
        study, site, version, filename = stat.key.removeprefix(layout.STAGING).split("/")
        key = layout.staging(study, site, int(version), filename)
    except (Invalid, ValueError):
        return None
    if key != stat.key:
        return None
    name = f"{stat.key}\n{stat.etag}\n{stat.size}\n{stat.modified.isoformat()}"
    transaction = str(uuid.uuid5(uuid.NAMESPACE_URL, name))
    return Staged(site, study, int(version), filename, "", transaction, key)


def _take(house: House, staged: Staged) -> Intake:
    """The intake, by a child; where that dies of the upload, it is refused as a whole."""
    future = house.executor.submit(
        intake.take_in,
        house.store,
        staged.key,
        study=staged.study,
        site=staged.site,
        filename=staged.filename,
        bounds=house.bounds,
    )
    try:
        return run.answer(future)
    except Invalid as error:
        problem = Problem(error.kind, error.message, error.hint)
        return intake.refuse(
            house.store,
            staged.key,
            study=staged.study,
            site=staged.site,
            filename=staged.filename,
            problem=problem,
        )


def _deliveries(staged: Staged, meta: dict[str, Any], taken: Intake) -> list[Delivery]:
    return [
        Delivery(
            staged.site,
            f"{staged.transaction}/{member.name}",
            member.digest,
            member.size,
            meta
            | {
                "file": member.name,
                "kind": member.kind.value,
                "package": member.package,
                "key": member.kept,
                "problem": list(member.problem) if member.problem else None,
            },
        )
        for member in taken.members
    ]


def _known(ledger: Ledger, staged: Staged) -> Contribution | None:
    found = ledger.contributions(layout.UPLOADS, site=staged.site, name=staged.transaction)
    return next((one for one in found if one.meta["filename"] == staged.filename), None)


def _check_own(ledger: Ledger, staged: Staged, digest: str) -> None:
    """Conflict (kind ``upload-taken``) where these bytes came in the transaction as another's.

    What a transaction brought is known by its name and digest: it would be taken for done.
    """
    found = ledger.contributions(layout.UPLOADS, site=staged.site, name=staged.transaction)
    place = {"study": staged.study, "version": staged.version}
    if any(one.digest == digest and not place.items() <= one.meta.items() for one in found):
        raise Conflict(
            "the transaction brought the same bytes for another study or version",
            kind="upload-taken",
            hint="send them in a transaction of their own",
        )


def _again(ledger: Ledger, upload: Contribution) -> Contribution:
    found = ledger.contributions(layout.UPLOADS, site=upload.site, name=upload.name)
    return next(one for one in found if one.id == upload.id)


def _members(
    store: Store, ledger: Ledger, upload: Contribution
) -> list[tuple[Member, Contribution]]:
    meta = upload.meta
    key = layout.upload(meta["study"], upload.site, upload.name, upload.digest)
    aggregate = layout.aggregate(meta["study"])
    found = []
    for told in json.loads(store.read(key))["members"]:
        problem = Problem(*told["problem"]) if told["problem"] else None
        member = Member(**{**told, "kind": Kind(told["kind"]), "problem": problem})
        name = f"{upload.name}/{member.name}"
        known = ledger.contributions(aggregate, site=upload.site, name=name)
        found += [(member, one) for one in known if one.digest == member.digest]
    return found


def _undecided(one: Contribution) -> bool:
    return one.state in {State.RECEIVED, State.LATEST}


def _answer(store: Store, one: Contribution) -> FileResult:
    meta = one.meta
    told: dict[str, Any] = {}
    accepted = None
    if not _undecided(one):
        accepted = one.state != State.ERROR
        key = layout.result(meta["study"], one.site, meta["transaction"], meta["file"])
        try:
            told = json.loads(store.read(key))
        except NotFound:
            told = {}
    return FileResult(
        name=meta["file"],
        kind=Kind(meta["kind"]),
        package=meta["package"],
        accepted=accepted,
        state=State(one.state),
        digest=one.digest,
        size=one.size,
        rows=told.get("rows"),
        findings=tuple(Finding.from_json(f) for f in told.get("findings", ())),
        quality=told.get("quality", {}),
    )


def _unmoved(store: Store, stat: Stat) -> bool:
    try:
        now = store.head(stat.key)
    except CatchmentError:
        return False
    return (now.size, now.etag) == (stat.size, stat.etag)

"""Scan: all that has arrived, was left unfinished or waits in a study is brought to an answer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from catchment.core.errors import CatchmentError, Conflict, NotFound
from catchment.core.finding import Finding
from catchment.core.ledger.uploads import FileState, Uploads
from catchment.studies import layout, process, run
from catchment.studies.catalog import studies
from catchment.studies.house import House
from catchment.studies.model import Staged, Upload
from catchment.studies.run import Outcome

logger = logging.getLogger(__name__)

Identify = Callable[[Staged], Staged]


@dataclass(slots=True)
class Scanned:
    """What a scan came to.

    Attributes:
        uploads: that were brought to an answer.
        outcomes: of studies that had more to do.
        busy: studies that another worker holds; it decides on what waits there.
        failed: what could not be done now, and why; it stays where it is.
        strays: what lies where no upload can.
    """

    uploads: list[Upload] = field(default_factory=list)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    busy: list[str] = field(default_factory=list)
    failed: dict[str, CatchmentError] = field(default_factory=dict)
    strays: list[Finding] = field(default_factory=list)


def arrived(house: House, study: str | None = None) -> Iterator[Staged]:
    """What lies in ``upload_staging/``, of one study or of all."""
    return process.staged(house.store, study)


def announced(uploads: Uploads) -> Identify:
    """Gives an arrival the transaction and the user that asked for its form, if somebody did."""

    def identify(one: Staged) -> Staged:
        file = uploads.find(one.key)
        if file is None or file.state is FileState.PROCESSED:
            return one  # put there by hand
        return replace(one, transaction=file.upload, user=file.user)

    return identify


def scan(house: House, study: str | None = None, identify: Identify | None = None) -> Scanned:
    """Process all that there is; what fails stops nothing else.

    Args:
        house: where.
        study: only this one.
        identify: gives an arrival the transaction and the user that it was announced with;
            see :func:`announced`, which is used where none is given.
    """
    result = Scanned()
    uploads = Uploads(house.ledger)
    identify = identify or announced(uploads)
    for one in process.staged(house.store, study, result.strays):
        try:
            process.take_in(house, identify(one))
        except NotFound:
            continue  # another worker has taken it
        except CatchmentError as error:
            result.failed[one.key] = error
    _resume(house, study, uploads, result)
    for name in studies(house.ledger):
        if study in (None, name):
            _settle(house, name, result)
    for what, failure in result.failed.items():
        logger.warning("%s: %s", what, failure)
    return result


def _resume(house: House, study: str | None, uploads: Uploads, result: Scanned) -> None:
    """Uploads that were taken in, by this worker or one that is gone."""
    for upload in list(process.unfinished(house.ledger)):
        if study in (None, upload.meta["study"]):
            try:
                done = process.resume(house, upload)
                result.uploads.append(done)
                key = layout.staging(done.study, done.site, done.version, done.filename)
                uploads.finish(done.transaction, key)  # gives the lock back
            except CatchmentError as error:
                result.failed[f"{upload.meta['study']}/{upload.site}"] = error


def _settle(house: House, study: str, result: Scanned) -> None:
    """What a change of the settings, or a crash, left to do in a study."""
    try:
        outcome = run.settle(house, study)
    except Conflict as error:
        if error.kind not in run.OVERTAKEN:
            raise
        result.busy.append(study)
    except CatchmentError as error:
        result.failed[study] = error
    else:
        result.outcomes[study] = outcome

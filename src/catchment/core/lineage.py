"""OpenLineage: each run as events for a collector, and how they get there without being waited for.

Events follow from the ledger alone, so that any of them can be told again: the same run gives the
same events, under the same id. A collector that is away costs events, never a commit.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

from catchment.core.account import Account
from catchment.core.errors import CatchmentError, Unavailable
from catchment.core.ledger.model import Run, Snapshot

if TYPE_CHECKING:
    from catchment.core.ledger import Ledger
    from catchment.core.sections import LineageSettings

SPEC = "https://openlineage.io/spec"
EVENT = f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
ENDS = {"published": "COMPLETE", "unchanged": "COMPLETE", "failed": "FAIL", "cancelled": "ABORT"}
# What counts of each unit are to the specification; a unit without one is told by no number.
COUNTS = {"rows": "rowCount", "lines": "rowCount", "sessions": "rowCount", "files": "fileCount"}
WAITING = 1000  # runs that wait to be told of; more are left out
PATIENCE = 5  # seconds that a program waits at its end, and for one answer
_IDS = uuid.uuid5(uuid.NAMESPACE_URL, "urn:catchment:run")

log = logging.getLogger(__name__)


class Place(NamedTuple):
    """What events call the workspace, and the URL of its store."""

    workspace: str
    store: str


def events(place: Place, ledger: Ledger, run: Run) -> list[dict[str, Any]]:
    """All that is to be told of a run so far: that it started, and how it ended."""
    told = [_event("START", run.started_at, place, run)]
    if run.finished_at is None:
        return told
    end = _event(ENDS[run.state], run.finished_at, place, run)
    end["inputs"] = list(_inputs(place, run, ledger.account(run.id)))
    if run.state == "published":
        snapshot = next((s for s in ledger.snapshots(run.aggregate) if s.run == run.id), None)
        if snapshot is not None:
            end["outputs"] = [_output(place, ledger.snapshot(run.aggregate, snapshot.number))]
    return [*told, end]


class Teller:
    """Tells a file, a collector or both of runs, from a thread of its own; used up by ``close``."""

    def __init__(self, settings: LineageSettings, place: Place, ledger: Ledger) -> None:
        self._settings = settings
        self._place = place
        self._ledger = ledger
        self._runs: queue.Queue[tuple[str, bool] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._work, name="lineage", daemon=True)
        self._thread.start()

    def note(self, run: str, ended: bool) -> None:  # noqa: FBT001 - as the ledger calls it
        """A run has begun or ended. Never waits, never raises."""
        try:
            self._runs.put_nowait((run, ended))
        except queue.Full:
            log.warning("run %s is not told of: the collector is too slow", run)

    def close(self) -> None:
        """Wait for what is on its way, for a few seconds at most."""
        with contextlib.suppress(queue.Full):
            self._runs.put(None, timeout=PATIENCE)
            self._thread.join(PATIENCE)
        if self._thread.is_alive():
            log.warning("not all runs were told of; catchment lineage --send tells them again")

    def _work(self) -> None:
        while (noted := self._runs.get()) is not None:
            run, ended = noted
            try:
                told = events(self._place, self._ledger, self._ledger.run(run))
                send(self._settings, told[1:] if ended else told[:1])
            except CatchmentError as error:
                log.warning("run %s is not told of: %s", run, error.message)
            except Exception as error:  # noqa: BLE001 - the next run shall be told of
                log.warning("run %s is not told of: %s", run, type(error).__name__)


def send(settings: LineageSettings, told: Sequence[Mapping[str, Any]]) -> None:
    """Hand events over. Unavailable (kind ``lineage-refused``) where they are not taken."""
    if settings.file is not None:
        data = b"".join(json.dumps(one).encode() + b"\n" for one in told)
        try:
            file = os.open(settings.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                # In one piece: several processes share the file.
                if os.write(file, data) < len(data):
                    raise _refused(f"{settings.file} took a part of them")
            finally:
                os.close(file)
        except OSError as error:
            raise _refused(f"{settings.file} cannot be written ({error.strerror})") from None
    if settings.url is not None:
        import httpx

        token = settings.token.get_secret_value() if settings.token else None
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            with httpx.Client(timeout=PATIENCE, headers=headers) as client:
                for one in told:
                    client.post(settings.url, json=one).raise_for_status()
        except httpx.HTTPStatusError as error:
            raise _refused(f"the collector answers {error.response.status_code}") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _refused(f"the collector is not reached ({type(error).__name__})") from None


def _refused(what: str) -> Unavailable:
    return Unavailable(
        f"events of lineage were not taken: {what}",
        kind="lineage-refused",
        hint="mend [lineage], then: catchment lineage --send",
    )


def producer() -> str:
    """Who makes the events."""
    return f"urn:catchment:{version('catchment')}"


def _facet(name: str, /, **values: Any) -> dict[str, Any]:
    """A standard facet, by its version and name in the specification."""
    _, _, defined = name.partition("/")
    schema = f"{SPEC}/facets/{name}.json#/$defs/{defined}"
    return {"_producer": producer(), "_schemaURL": schema} | values


def _event(kind: str, at: datetime, place: Place, run: Run) -> dict[str, Any]:
    engine = _facet(
        "1-1-1/ProcessingEngineRunFacet", name="Catchment", version=version("catchment")
    )
    facets = {"processing_engine": engine}
    if run.error is not None:
        message = f"{run.error['kind']}: {run.error['message']}"
        facets["errorMessage"] = _facet(
            "1-0-1/ErrorMessageRunFacet", message=message, programmingLanguage="PYTHON"
        )
    capability = run.aggregate.partition("/")[0]
    job = _facet(
        "2-0-4/JobTypeJobFacet",
        processingType="BATCH",
        integration="CATCHMENT",
        jobType=capability.upper(),
    )
    return {
        "eventType": kind,
        "eventTime": at.isoformat(),
        "producer": producer(),
        "schemaURL": EVENT,
        "run": {"runId": str(uuid.uuid5(_IDS, f"{run.aggregate} {run.id}")), "facets": facets},
        "job": {"namespace": place.workspace, "name": run.aggregate, "facets": {"jobType": job}},
        "inputs": [],
        "outputs": [],
    }


def _inputs(place: Place, run: Run, account: Account) -> Iterator[dict[str, Any]]:
    """One for each site: what it gave is counted, never named."""
    received: dict[str, Counter[str]] = {}
    for line, balance in account:
        counts = received.setdefault(line.site, Counter())
        if line.unit in COUNTS:
            counts[COUNTS[line.unit]] += balance.received
    for site, counts in sorted(received.items()):
        statistics = _facet("1-0-0/InputStatisticsInputDatasetFacet", **counts)
        yield {
            "namespace": place.workspace,
            "name": f"{run.aggregate}/sites/{site}",
            "facets": {},
            "inputFacets": {"inputStatistics": statistics},
        }


def _output(place: Place, snapshot: Snapshot) -> dict[str, Any]:
    objects = snapshot.provenance.get("objects", [])
    facets = {
        "version": _facet("1-0-1/DatasetVersionDatasetFacet", datasetVersion=str(snapshot.number)),
    }
    if tables := snapshot.provenance.get("tables"):
        fields = [
            {
                "name": table,
                "type": "table",
                "fields": [{"name": name, "type": kind} for name, kind in of["columns"].items()],
            }
            for table, of in tables.items()
        ]
        facets["schema"] = _facet("1-2-0/SchemaDatasetFacet", fields=fields)
    statistics = _facet(
        "1-0-2/OutputStatisticsOutputDatasetFacet",
        rowCount=sum(item.get("rows") or 0 for item in objects),
        size=sum(item["size"] for item in objects),
        fileCount=len(objects),
    )
    parts = urlsplit(place.store)
    namespace = f"{parts.scheme}://{parts.netloc}" if parts.netloc else parts.scheme
    folder = unquote(parts.path).rstrip("/")
    if parts.netloc:
        folder = folder.lstrip("/")
    return {
        "namespace": namespace,
        "name": f"{folder}/{snapshot.location}".strip("/" if parts.netloc else "").rstrip("/"),
        "facets": facets,
        "outputFacets": {"outputStatistics": statistics},
    }

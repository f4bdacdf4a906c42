"""Imaging: patients, series, pictures and technical tags; nothing that identifies."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Query
from fastapi.responses import Response

from catchment.imaging import browse
from catchment.imaging.snapshot import ImagingSnapshot, open_snapshot
from catchment.web.pages.house import Asked
from catchment.web.pages.route import data, page

PAGE = 30

Name = Annotated[str, Path(max_length=100)]
Handle = Annotated[str, Path(pattern="^[0-9a-f]{24}$")]
Digest = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]
After = Annotated[str, Query(max_length=200)]
Value = Annotated[float | None, Query(ge=-1e6, le=1e6, allow_inf_nan=False)]


@page("/imaging", "imaging.html")
def imaging(ask: Asked) -> dict[str, Any]:
    """Every aggregate of imaging: rows, files by state, de-identification, codecs."""
    ledger, told = ask.workspace.ledger, []
    names = {n.partition("/")[2] for n in ledger.aggregates() if n.startswith("imaging/")}
    for name in sorted(names | set(ask.workspace.settings.imaging)):
        latest = ledger.latest(f"imaging/{name}")
        about: dict[str, Any] = {"name": name, "snapshot": latest.number if latest else None}
        if latest is not None:
            about["published_at"] = latest.published_at.isoformat()
            about |= browse.status_of(ImagingSnapshot(ask.workspace.store, name, latest))
        told.append(about)
    return {"aggregates": told}


@page("/imaging/{name}/patients", "patients.html", part="rows", role="steward")
def patients(ask: Asked, name: Name, after: After = "") -> dict[str, Any]:
    """Patients by pseudonym."""
    found = browse.patients(_open(ask, name), after, PAGE + 1)
    return {
        "name": name,
        "patients": found[:PAGE],
        "next": found[PAGE - 1]["patient"] if len(found) > PAGE else None,
    }


@page("/imaging/{name}/series", "series_list.html", part="rows", role="steward")
def series_list(ask: Asked, name: Name, patient: After = "", after: After = "") -> dict[str, Any]:
    """Series with a thumbnail each, of one patient or of all."""
    found = browse.series_of(_open(ask, name), patient or None, after, PAGE + 1)
    return {
        "name": name,
        "patient": patient,
        "series": found[:PAGE],
        "next": found[PAGE - 1]["series"] if len(found) > PAGE else None,
    }


@page("/imaging/{name}/series/{series}", "series.html", role="steward")
def one_series(ask: Asked, name: Name, series: Handle) -> dict[str, Any]:
    """A series: its stack of pictures and its technical tags."""
    told = browse.one_series(_open(ask, name), series)
    ask.note("series looked at", f"imaging/{name}/{series}")
    frames = [
        {"sha256": one["sha256"], "frame": frame}
        for one in told["images"]
        for frame in range(one["frames"] if (one["rows"] or 0) > 0 else 0)
    ]
    return {"name": name, "frames": frames} | told


@data("/imaging/{name}/pictures/{digest}/{frame}", role="steward")
def picture(  # noqa: PLR0917 - how it is looked at
    ask: Asked,
    name: Name,
    digest: Digest,
    frame: Annotated[int, Path(ge=0, le=100_000)],
    center: Value = None,
    width: Value = None,
    small: bool = False,  # noqa: FBT001, FBT002 - a parameter of the URL
) -> Response:
    """A frame as JPEG through a window; without one, through the file's own."""
    look = browse.Look(frame, center, width, small)
    found, window = browse.picture(_open(ask, name), digest, look, ask.workspace.executor)
    headers = {f"X-Window-{k.title()}": f"{v:g}" for k, v in window.items()}
    headers["Cache-Control"] = "private, max-age=600"  # of content that never changes
    return Response(found, media_type="image/jpeg", headers=headers)


def _open(ask: Asked, name: str) -> ImagingSnapshot:
    return open_snapshot(ask.workspace.store, ask.workspace.ledger, name)

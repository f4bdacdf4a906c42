"""What people look at in a snapshot of imaging: patients, studies, series, pictures, tags.

Nothing that identifies is among it. Patients go by their pseudonym; a study and a series go by a
digest of their UID, so that none stands in an address; tags are those that the basic profile of
PS3.15 keeps. Pictures are decoded in a child process.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from catchment.core.errors import Corrupt, NotFound
from catchment.core.store import Store
from catchment.imaging import layout
from catchment.imaging.one_series import not_shown
from catchment.imaging.snapshot import ImagingSnapshot

if TYPE_CHECKING:
    import duckdb

HANDLE = 24  # hexadecimal digits of a digest
SMALL = 160  # pixels of a thumbnail's longer side
_HANDLE_SQL = f'left(sha256("{{}}"), {HANDLE})'
_GONE = "the picture is not in the snapshot"


class Look(NamedTuple):
    """How a picture is asked for. Without a window, that of the file; ``small``: a thumbnail."""

    frame: int = 0
    center: float | None = None
    width: float | None = None
    small: bool = False


def patients(snapshot: ImagingSnapshot, after: str = "", limit: int = 50) -> list[dict[str, Any]]:
    """Patients by pseudonym, with how much there is of each."""
    query = """
        SELECT p.patient_key AS patient, any_value(p.site) AS site,
               count(DISTINCT s."StudyInstanceUID") AS studies,
               count(DISTINCT s."SeriesInstanceUID") AS series,
               list_sort(list(DISTINCT s."Modality")) AS modalities
        FROM patients p LEFT JOIN series s USING (patient_key)
        WHERE p.patient_key > ? GROUP BY ALL ORDER BY 1 LIMIT ?
    """
    return _asked(snapshot, query, [after, limit])


def series_of(
    snapshot: ImagingSnapshot, patient: str | None = None, after: str = "", limit: int = 50
) -> list[dict[str, Any]]:
    """Series by handle, of one patient or of all, with the image that stands for each."""
    query = f"""
        SELECT {_HANDLE_SQL.format("SeriesInstanceUID")} AS series,
               {_HANDLE_SQL.format("StudyInstanceUID")} AS study, s.patient_key AS patient,
               s.site AS site, s."Modality" AS modality, s."BodyPartExamined" AS body_part,
               i.images AS images, i."rows" AS "rows", i."columns" AS "columns", i.shown AS picture,
               i.burned AS burned, i.removed AS deidentified
        FROM series s JOIN (
            SELECT "SeriesInstanceUID" AS uid, count(*) AS images, max("Rows") AS "rows",
                   max("Columns") AS "columns",
                   arg_min(sha256, coalesce("InstanceNumber", 0)) FILTER ("Rows" > 0) AS shown,
                   bool_or("BurnedInAnnotation" = 'YES') AS burned,
                   bool_and("PatientIdentityRemoved" = 'YES') AS removed
            FROM images GROUP BY 1
        ) i ON i.uid = s."SeriesInstanceUID"
        WHERE {_HANDLE_SQL.format("SeriesInstanceUID")} > ? AND (? IS NULL OR s.patient_key = ?)
        ORDER BY 1 LIMIT ?
    """  # noqa: S608 - of constants
    return _asked(snapshot, query, [after, patient, patient, limit])


def one_series(snapshot: ImagingSnapshot, series: str) -> dict[str, Any]:
    """A series with its images in order and its tags; NotFound (kind ``no-series``)."""
    query = f"""
        SELECT sha256, "InstanceNumber" AS number, coalesce("NumberOfFrames", 1) AS frames,
               "Rows" AS "rows", "Columns" AS "columns", "SeriesInstanceUID" AS uid
        FROM images WHERE {_HANDLE_SQL.format("SeriesInstanceUID")} = ?
        ORDER BY coalesce("InstanceNumber", 0), "SOPInstanceUID"
    """  # noqa: S608 - of constants
    images = _asked(snapshot, query, [series])
    if not images:
        raise NotFound("there is no such series", kind="no-series", hint="catchment imaging show")
    uid = images[0]["uid"]
    for one in images:
        del one["uid"]
    return {
        "series": series,
        "images": images,
        "tags": _tags(snapshot, uid),
        "codecs": _codecs(snapshot, [one["sha256"] for one in images]),
    }


def status_of(snapshot: ImagingSnapshot) -> dict[str, Any]:
    """Rows by table, files by state, and how de-identification and codecs went."""
    said = """
        SELECT coalesce("PatientIdentityRemoved", 'not said') AS removed,
               coalesce("BurnedInAnnotation", 'not said') AS burned, count(*) AS images
        FROM images GROUP BY ALL ORDER BY ALL
    """
    syntaxes = """
        SELECT coalesce("TransferSyntaxUID", '') AS syntax, count(*) AS images FROM images
        GROUP BY ALL ORDER BY 2 DESC
    """
    made = """
        SELECT format, coalesce(compress_error, '') AS error, count(*) AS frames,
               coalesce(sum(object_size), 0)::BIGINT AS bytes
        FROM compressed_images GROUP BY ALL ORDER BY ALL
    """
    with snapshot.connect() as connection:
        return {
            "rows": snapshot.rows(),
            "states": snapshot.states(),
            "deidentified": _rows(connection, said, []),
            "syntaxes": [
                one | {"name": _syntax(one["syntax"])} for one in _rows(connection, syntaxes, [])
            ],
            "compressed": _rows(connection, made, []),
        }


def picture(
    snapshot: ImagingSnapshot, digest: str, look: Look, executor: Executor
) -> tuple[bytes, dict[str, float]]:
    """A frame as JPEG, and the window that it is seen through.

    NotFound (kind ``no-picture``) where the snapshot has no such image, Invalid
    (``cannot-decode``) where there is nothing to see.
    """
    rows = snapshot.find("images", "sha256", [digest], ["stage_sha256"]).to_pylist()
    if not rows:
        raise NotFound(_GONE, kind="no-picture")
    key = layout.staged_key(snapshot.name, digest, rows[0]["stage_sha256"])
    found = executor.submit(_drawn, snapshot.store, key, look).result()
    if isinstance(found, str):
        raise not_shown(found)
    return found


def _drawn(store: Store, key: str, look: Look) -> tuple[bytes, dict[str, float]] | str:
    """In a child: decoders are native."""
    from PIL import Image

    from catchment.imaging.codecs import CannotDecode, read_frames, shape_of
    from catchment.imaging.compress import header_of
    from catchment.imaging.functional import Frames
    from catchment.imaging.previews import QUALITY, window_of
    from catchment.imaging.previews import picture as draw

    data = store.read(key)
    header = header_of(data)
    shape, window = shape_of(header), window_of(Frames(header), look.frame)
    if look.center is not None and look.width is not None:
        window = window._replace(center=look.center, width=max(look.width, 1.0))
    try:
        frame = next(iter(read_frames(data, [look.frame])), None)
    except Exception as error:  # noqa: BLE001 - whatever a decoder raises
        return str(error) if isinstance(error, CannotDecode) else type(error).__name__
    if frame is None:
        return "it has no such frame"
    low, high = float(frame.pixels.min()), float(frame.pixels.max())
    ends = sorted(v * window.slope + window.intercept for v in (low, high))
    center = window.center if window.center is not None else sum(ends) / 2
    width = window.width if window.width is not None else max(ends[1] - ends[0], 1.0)
    image = Image.fromarray(draw(frame, shape, window, data))
    if look.small:
        image.thumbnail((SMALL, SMALL))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    told = {"center": center, "width": width, "low": ends[0], "high": ends[1]}
    return file.getvalue(), told


def _tags(snapshot: ImagingSnapshot, uid: str) -> list[dict[str, Any]]:
    """Technical attributes; where images differ, how many values there are."""
    images = snapshot.find("images", "SeriesInstanceUID", [uid])
    series = snapshot.find("series", "SeriesInstanceUID", [uid])
    told = []
    for name in shown_tags():
        table = images if name in images.column_names else series
        values = {str(v): v for v in table[name].to_pylist() if v not in (None, [], "")}
        if values:
            first = next(iter(values.values()))
            told.append({"name": name, "value": str(first), "values": len(values)})
    return told


@cache
def shown_tags() -> Sequence[str]:
    """Keywords of attributes that identify nobody: numbers and codes that the profile keeps."""
    from pydicom.datadict import dictionary_VR

    from catchment.imaging import deidentify_table as profile
    from catchment.imaging.deidentify_standard import ACTIONS
    from catchment.imaging.entities import ENTITIES, columns

    hidden = profile.EMPTY | profile.DUMMY | profile.ALSO | profile.CHARACTERISTICS | profile.DEVICE
    hidden |= ACTIONS.keys()
    safe = profile.TECHNICAL | profile.CLASSES
    numbers = {"IS", "DS", "FD", "FL", "US", "SS", "UL", "SL", "US or SS", "CS"}
    stated = {"PatientIdentityRemoved", "LongitudinalTemporalInformationModified"}
    shown = dict.fromkeys([*ENTITIES["images"], *ENTITIES["series"]])
    return sorted(
        name
        for name, column in ((name, columns()[name]) for name in shown)
        if name in stated
        or (name not in hidden and (name in safe or dictionary_VR(column.tag) in numbers))
    )


def _codecs(snapshot: ImagingSnapshot, digests: Sequence[str]) -> list[dict[str, Any]]:
    table = snapshot.find("compressed_images", "sha256", digests, ["format", "compress_error"])
    counts: dict[tuple[str, str], int] = {}
    for row in table.to_pylist():
        key = row["format"] or "", row["compress_error"] or ""
        counts[key] = counts.get(key, 0) + 1
    return [{"format": f, "error": e, "frames": n} for (f, e), n in sorted(counts.items())]


def _syntax(uid: str) -> str:
    from pydicom.uid import UID

    name = UID(uid).name if uid else "not said"
    return name if name != uid else "unknown"


def _asked(snapshot: ImagingSnapshot, query: str, values: list[Any]) -> list[dict[str, Any]]:
    with snapshot.connect() as connection:
        return _rows(connection, query, values)


def _rows(
    connection: duckdb.DuckDBPyConnection, query: str, values: list[Any]
) -> list[dict[str, Any]]:
    import duckdb

    try:
        found = connection.execute(query, values)
        names = [one[0] for one in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    except duckdb.Error as error:  # its text may quote cells
        raise Corrupt(
            f"the tables cannot be asked ({type(error).__name__})",
            kind="snapshot-damaged",
            hint="catchment imaging verify",
        ) from None

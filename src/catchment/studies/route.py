"""Which way a file goes, by its name."""

from __future__ import annotations

from typing import NamedTuple

from catchment.core.errors import Invalid
from catchment.studies import layout
from catchment.studies.model import Kind, Problem

_ENDINGS = {
    ".archive.parquet": Kind.LINES,
    ".meta.parquet": Kind.META,
    ".flat.parquet": Kind.FLAT,
    ".annotated_cube.parquet": Kind.CUBE,
    ".cube.parquet": Kind.CUBE,
    ".toml": Kind.MANIFEST,
}
LINES = b".archive.parquet"


class Route(NamedTuple):
    """What a file is; a problem where it has no place."""

    kind: Kind
    package: str
    problem: Problem | None = None


def route(study: str, filename: str) -> Route:
    """The kind and the package of a file of a study's upload, by the reference's rules.

    What may hold line-level data is told first, whatever else its name says.
    """
    lower = filename.lower()
    stem, kind = filename, Kind.OTHER
    for ending, known in _ENDINGS.items():
        if lower.endswith(ending):
            stem, kind = filename[: -len(ending)], known
            break
    if kind is Kind.LINES:
        return Route(kind, "")
    described = lower.startswith(("discovery__", "catalog__")) or "__meta_" in lower
    if lower.endswith(".parquet") and described:
        kind = Kind.META
        stem = stem.removesuffix(".parquet")
    if kind is Kind.MANIFEST:
        return Route(kind, "manifest")
    if kind is Kind.OTHER:
        return Route(
            kind,
            "",
            Problem(
                "unknown-kind",
                "expected a name that ends in .cube.parquet, .annotated_cube.parquet, "
                ".flat.parquet, .meta.parquet or .toml",
                "export the study with the library of your site again, and send what it writes",
            ),
        )
    owner, _, package = stem.partition("__")
    if owner != study and not (kind is Kind.META and owner in {"discovery", "catalog"}):
        return Route(
            kind,
            "",
            Problem(
                "other-study",
                "expected a name that begins with the study and '__'",
                "upload the file with its own study",
            ),
        )
    try:
        layout.check_part(package, "package")
    except Invalid as error:
        return Route(kind, "", Problem(error.kind, error.message, error.hint))
    return Route(kind, package)

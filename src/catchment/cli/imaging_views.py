"""What ``catchment imaging`` shows, as lines and tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from catchment.cli.output import findings, table
from catchment.core.names import counted

if TYPE_CHECKING:
    from rich.table import Table


def outcome(data: dict[str, Any]) -> Iterator[str | Table]:
    """What a run did."""
    details = data["details"]
    if data["state"] == "planned":
        yield f"dry run: {counted(details['files'], 'files')} received, to be published by a run"
        return
    yield table(
        data["aggregate"],
        ("provider", "of", "received", "ingested", "duplicate", "quarantined"),
        (
            (
                line["site"],
                line["part"],
                line["received"],
                line["kept"],
                sum(line["dropped"].values()),
                ", ".join(f"{n:,} {reason}" for reason, n in line["quarantined"].items()),
            )
            for line in data["account"]
        ),
    )
    if rows := details.get("rows"):
        yield table("tables", ("table", "rows"), sorted(rows.items()))
    yield from findings(data["findings"])
    if data["snapshot"] is None:
        yield "nothing was received yet"
        return
    verb = "published" if data["state"] == "published" else "nothing new: the latest is"
    yield f"{verb} snapshot {data['snapshot']}"
    yield f"{data['store'].rstrip('/')}/{data['location']}"


def deidentified(data: dict[str, Any]) -> Iterator[str]:
    """What became of the files."""
    for line in data["account"]:
        files = counted(line["received"], "files")
        yield f"{files}: {line['kept']:,} de-identified in {data['output']}"
        for reason, count in line["quarantined"].items():
            yield f"  {count:,} were left out: {reason}"


def waiting(data: dict[str, Any]) -> Iterator[str]:
    """How many files wait."""
    yield from findings(data["findings"])
    yield f"{counted(data['details']['files'], 'files')} to publish with: catchment imaging run"


def status(data: dict[str, Any]) -> Iterator[str | Table]:
    """Files by state, rows by table."""
    yield f"{data['aggregate']}: snapshot {data['snapshot']} of {data['published_at']}"
    yield table(
        "files",
        ("provider", "state", "files"),
        ((site, s, n) for site, states in data["files"].items() for s, n in states.items()),
    )
    yield table("tables", ("table", "rows"), data["rows"].items())


def files(data: list[dict[str, Any]]) -> Iterator[str | Table]:
    """One file a line."""
    columns = ["site", "state", "reason", "size", "seen", "sha256"]
    columns += ["name"] if data and "name" in data[0] else []
    yield table("", columns, ([row[column] for column in columns] for row in data))


def conflicts(data: list[dict[str, Any]]) -> Iterator[str | Table]:
    """What is to be decided."""
    rows = (
        (one["SOPInstanceUID"], f["site"], f["size"], f["sha256"])
        for one in data
        for f in one["files"]
    )
    yield table("conflicts", ("SOPInstanceUID", "provider", "bytes", "sha256"), rows)
    if data:
        yield "decide each with: catchment imaging resolve UID --keep SHA256 | --keep-none"


def series(data: list[dict[str, Any]]) -> Iterator[Table]:
    """One series a line."""
    columns = ("SeriesInstanceUID", "modality", "site", "description", "images")
    yield table("series", columns, ([row[column] for column in columns] for row in data))

"""What ``catchment arrays`` prints for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from catchment.cli.output import findings, table

if TYPE_CHECKING:
    from rich.table import Table


def transform(data: dict[str, Any]) -> Iterator[str | Table]:
    """A run of a transform: its sessions, its account, its stores."""
    sessions = data["details"]["sessions"]
    if sessions:
        yield table(
            "",
            ("session", "recording", "status", "windows", "store", "slot", "reason"),
            (
                (s["session"], s["key"], s["status"], s["windows"], s["stores"], s["slots"],
                 s["reason"])
                for s in sessions
            ),
        )  # fmt: skip
    yield table(
        data["aggregate"],
        ("site", "unit", "received", "kept", "dropped", "quarantined"),
        (
            (
                line["site"],
                line["unit"],
                line["received"],
                line["kept"],
                sum(line["dropped"].values()),
                sum(line["quarantined"].values()),
            )
            for line in data["account"]
        ),
    )
    yield from findings(data["findings"])
    if data["state"] == "planned":
        yield "dry run: nothing was written"
        return
    for store in data["details"]["stores"]:
        counts = f"{store['sessions']:,} sessions, {store['windows']:,} windows"
        place = f"{data['store'].rstrip('/')}/{data['details']['output']}{store['store']}"
        yield f"{place}: {counts}"
    yield f"{data['state']}: snapshot {data['snapshot']}"


def outcome(data: dict[str, Any]) -> Iterator[str | Table]:
    """An append: what became of each session."""
    yield from findings(data["findings"])
    yield table(
        "",
        ("session", "what", "slot", "windows", "bytes"),
        (
            (s["session"], s["decision"], s["slot"], s["windows"], s["raw_bytes"])
            for s in data["steps"]
        ),
    )
    if data["dry_run"]:
        yield "dry run: nothing was written"
    elif data["commit"] is not None:
        yield f"{data['store']} at commit {data['commit']}, {data['written_bytes']:,} bytes written"


def listing(data: dict[str, Any]) -> Iterator[str | Table]:
    """The sessions of a store."""
    yield table(
        f"{data['store']} at commit {data['commit']}",
        ("slot", "session", "windows", "site", "status", "content"),
        (
            (s["slot"], s["session"], s["n_windows"], s["site"], s["status"],
             s["content_hash"].removeprefix("sha256:")[:12])
            for s in data["sessions"]
        ),
    )  # fmt: skip


def store(data: dict[str, Any]) -> Iterator[str | Table]:
    """A store's arrays."""
    yield f"{data['store']} at commit {data['commit']}, schema {data['fingerprint']}"
    yield f"{data['sessions']:,} sessions, {data['windows']:,} windows, along {data['append_dim']}"
    yield _arrays(data["variables"])


def session(data: dict[str, Any]) -> Iterator[str | Table]:
    """One session's arrays."""
    yield f"{data['session']} in slot {data['slot']}: {data['n_windows']:,} windows"
    yield f"content {data['content_hash']}"
    yield _arrays(data["variables"])
    if data["plot"]:
        yield f"drawn to {data['plot']}"


def _arrays(variables: list[dict[str, Any]]) -> Table:
    return table(
        "",
        ("array", "type", "dimensions", "shape"),
        ((v["name"], v["type"], v["dims"], v["shape"]) for v in variables),
    )


def verdict(data: dict[str, Any]) -> Iterator[str]:
    """What a verification found."""
    yield from data["wrong"]
    yield from data["notes"]
    if data["repaired"]:
        yield "root and rows were written anew from the commits"
    if not data["wrong"]:
        yield f"{data['sessions']:,} sessions, {data['windows']:,} windows: all is well"

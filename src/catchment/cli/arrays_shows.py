"""What ``catchment arrays`` prints for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from catchment.cli.output import BALANCE, balance, findings, table
from catchment.core.names import counted

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
    yield account(data["aggregate"], data["account"])
    yield from findings(data["findings"])
    if data["state"] == "planned":
        yield "dry run: nothing was written"
        return
    for store in data["details"]["stores"]:
        place = f"{data['store'].rstrip('/')}/{data['details']['output']}{store['store']}"
        yield f"{place}: {_size(store)}"
    if data["snapshot"] is None:
        yield "no recording was taken yet"
        return
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
        size = data["written_bytes"]
        written = "" if size is None else f", {counted(size, 'bytes')} written"
        yield f"{data['store']} at commit {data['commit']}{written}"


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
    yield f"{_size(data)}, along {data['append_dim']}"
    yield _arrays(data["variables"])


def group(data: dict[str, Any]) -> Iterator[str | Table]:
    """A group that is no store of sessions."""
    yield f"{data['store']} is a Zarr group, and no store of sessions"
    yield _arrays(data["variables"])


def session(data: dict[str, Any]) -> Iterator[str | Table]:
    """One session's arrays."""
    yield f"{data['session']} in slot {data['slot']}: {counted(data['n_windows'], 'windows')}"
    yield f"content {data['content_hash']}"
    yield _arrays(data["variables"])
    if data["plot"]:
        yield f"drawn to {data['plot']}"


def rechunked(data: dict[str, Any]) -> Iterator[str]:
    """A rechunk: from which chunks to which."""
    before, now = (
        ", ".join(f"{dim}={size}" for dim, size in sorted(data[which].items()))
        for which in ("before", "chunks")
    )
    if data["state"] == "unchanged":
        yield f"{data['store']} has these chunks already: {before}"
        return
    yield f"{data['store']}: {before} -> {now}; {_size(data)}"
    if data["state"] == "planned":
        yield "dry run: nothing was written"
        return
    yield f"commit {data['commit']}, {counted(data['written_bytes'], 'bytes')} written"
    if data["former_chunks"]:
        yield (
            f"{data['former_chunks']:,} former chunks stay for readers that have the store open; "
            f"then: catchment arrays rechunk {data['store']} --drop-former"
        )


def dropped(data: dict[str, Any]) -> Iterator[str]:
    """Former chunks that were deleted."""
    would = "would be" if data["dry_run"] else "were"
    yield f"{data['former_chunks']:,} former chunks {would} deleted"


def account(title: str, lines: list[dict[str, Any]]) -> Table:
    """Balances, a line each."""
    return table(
        title,
        ("site", "unit", *BALANCE),
        ((line["site"], line["unit"], *balance(line)) for line in lines),
    )


def exported(data: dict[str, Any]) -> Iterator[str | Table]:
    """An export: its account and its arrays."""
    yield account("", data["account"])
    yield table(
        "",
        ("array", "type", "dimensions", "shape"),
        ((n, v["type"], v["dims"], v["shape"]) for n, v in data["variables"].items()),
    )
    size = f"{counted(data['windows'], 'windows')}, {counted(data['raw_bytes'], 'bytes')}"
    yield f"{data['target']}: {size} before compression"
    yield "dry run: nothing was written" if data["state"] == "planned" else data["state"]


def _size(of: dict[str, Any]) -> str:
    return f"{counted(of['sessions'], 'sessions')}, {counted(of['windows'], 'windows')}"


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
        yield f"{_size(data)}: all is well"

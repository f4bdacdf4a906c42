"""What an aggregate came to, told so that two ways to the same inputs tell the same.

Tables, exports and studies: the digests of what readers see. Images: which run wrote a row, and
which of two equal files was first, follow from the order of arrival; everything else is compared,
row by row. Arrays: sessions by their digests, and the chunks of those that are present.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from catchment.core.workspace import Workspace
from catchment.testing import workspaces

# Columns that tell of a run, or of which of several equal files came first.
_OF_THE_RUN = {"etag", "modified", "delivery", "name", "state", "reason", "site"}
_FIRST = {  # by table: of a duplicate it is not read again; an entity is told by its first image
    "files": {"SOPInstanceUID"},
    **{table: {"sha256"} for table in ("devices", "patients", "studies", "series")},
}


def behind(workspace: Workspace, aggregate: str) -> bool:
    """Whether somebody died between a commit to a store of sessions and showing it to readers."""
    if not aggregate.startswith("arrays/"):
        return False
    from catchment.arrays.catalog import keys
    from catchment.arrays.stack import Stack
    from catchment.arrays.transform.sinks import below

    folder = below(workspace.store, aggregate)
    return any(Stack(below(folder, key)).look()[1] for key in keys(folder))


def contents(workspace: Workspace, aggregate: str) -> Mapping[str, str]:
    """Digests of what was published last, by names that hold nothing of the run; empty: nothing."""
    if workspace.ledger.latest(aggregate) is None:
        return {}
    match aggregate.partition("/")[0]:
        case "imaging":
            return dict(_images(workspace, aggregate.partition("/")[2]))
        case "arrays":
            return dict(_arrays(workspace, aggregate))
        case "studies":
            return dict(_studies(workspace, aggregate))
        case "exports":
            return dict(_exports(workspace, aggregate))
    return workspaces.contents(workspace, aggregate)


def _exports(workspace: Workspace, aggregate: str) -> Iterator[tuple[str, str]]:
    latest = workspace.ledger.latest(aggregate)
    assert latest is not None
    for item in latest.provenance["objects"]:
        if item["role"] != "manifest":  # it names the job
            yield item["key"].removeprefix(latest.location), item["digest"]


def _studies(workspace: Workspace, aggregate: str) -> Iterator[tuple[str, str]]:
    latest = workspace.ledger.latest(aggregate)
    assert latest is not None
    for item in latest.provenance["objects"]:
        if item["role"] != "catalog":  # it tells when
            yield f"{item['role']} {item.get('package')} {item.get('version')}", item["digest"]


def _images(workspace: Workspace, name: str) -> Iterator[tuple[str, str]]:
    from catchment.imaging.snapshot import ALL, open_snapshot

    shown = open_snapshot(workspace.store, workspace.ledger, name)
    for table in ALL:
        rows = _rows(shown[table], table)
        yield f"rows of {table}", hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()
    files = shown["files"].to_pylist()
    yield "files", json.dumps(sorted([f["site"], f["name"], f["sha256"]] for f in files))
    states = Counter((f["sha256"] or "", f["state"], f["reason"] or "") for f in files)
    yield "states", json.dumps(sorted([*key, count] for key, count in states.items()))


def _rows(shown: Any, table: str) -> list[str]:
    left = _OF_THE_RUN | _FIRST.get(table, set())
    rows = ({k: v for k, v in row.items() if k not in left} for row in shown.to_pylist())
    return [json.dumps(row, sort_keys=True, default=str) for row in rows]


def differences(one: Workspace, other: Workspace, aggregate: str) -> list[str]:
    """Rows that only one of two workspaces has, for whoever has to find out why."""
    if aggregate.startswith("exports/"):
        here, there = (Counter(_lines(w, aggregate)) for w in (one, other))
        return [f"has {line}" for line in here - there] + [f"lacks {x}" for x in there - here]
    if not aggregate.startswith("imaging/"):
        return []
    from catchment.imaging.snapshot import ALL, open_snapshot

    name, told = aggregate.partition("/")[2], []
    tables = [open_snapshot(w.store, w.ledger, name) for w in (one, other)]
    for table in ALL:
        here, there = (Counter(_rows(shown[table], table)) for shown in tables)
        told += [f"{table} has {row}" for row in here - there]
        told += [f"{table} lacks {row}" for row in there - here]
    return told


def _lines(workspace: Workspace, aggregate: str) -> Iterator[str]:
    """Of every part, with its name."""
    latest = workspace.ledger.latest(aggregate)
    assert latest is not None
    for item in latest.provenance["objects"]:
        if item["role"] != "manifest":
            name = item["key"].removeprefix(latest.location)
            lines = workspace.store.read(item["key"]).decode(errors="replace").splitlines()
            yield from (f"{name}: {line}" for line in lines)


def _arrays(workspace: Workspace, aggregate: str) -> Iterator[tuple[str, str]]:
    for name, digest in workspaces.contents(workspace, aggregate).items():
        if name != "chunks":  # those of slots that were given up may not be collected yet
            yield name, digest
    latest = workspace.ledger.latest(aggregate)
    assert latest is not None
    account = [dict(line) for line in latest.provenance["catchment"]["account"]]
    yield "account", json.dumps(sorted(account, key=lambda line: sorted(map(str, line.values()))))

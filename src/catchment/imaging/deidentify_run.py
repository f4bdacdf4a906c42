"""De-identify whatever lies below a folder or a URL into another, in child processes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from typing import Any

from catchment.core.account import Account, Line
from catchment.core.errors import Conflict, Invalid, NotFound
from catchment.core.store import Stat, Store
from catchment.core.store_folders import overlap, there
from catchment.imaging.deidentify import deidentify
from catchment.imaging.profile import Profile
from catchment.imaging.scanning import in_children
from catchment.imaging.walk import BadFile

EVIDENCE = "evidence.ndjson"
CHUNK = 8  # files of a task
SITE = "input"
CONFLICT = "conflict"

type Told = dict[str, Any]


def deidentify_all(
    source: Store, target: Store, profile: Profile, executor: Executor
) -> tuple[Account, Counter[str]]:
    """De-identify every file; those that are not are left out, and counted by reason.

    Of files with one SOPInstanceUID and other bytes none is written. The evidence, a line for each
    file, is written last, under :data:`EVIDENCE`. Names of the input are in none of the output.
    Conflict (kind ``key-taken``) if there is evidence already; Invalid (kind ``folder-shared``) if
    one of the two lies in the other: there, nobody could tell which files are which.
    """
    if overlap(source, target):
        raise Invalid(
            "the input and the output lie in one another",
            kind="folder-shared",
            hint="name a folder for the output that is not in the input's, and does not hold it",
        )
    with suppress(NotFound):
        target.head(EVIDENCE)
        raise Conflict(
            "the output has evidence of an earlier run",
            kind="key-taken",
            hint="name a new folder",
        )
    account, lines = Account(), list[Told]()
    work = partial(_task, source, target, profile)
    for result in in_children(executor, work, list(there(source).list()), chunk=CHUNK):
        if isinstance(result, list):
            lines += result
        else:
            lines.append({"state": "quarantined", "reason": result[1]})
    _withdraw(target, lines)
    balance = account[Line(SITE, "files", "files")]
    for line in lines:
        balance.received += 1
        if line["state"] == "written":
            balance.kept += 1
        else:
            balance.quarantined[line["reason"]] += 1
    account.check()
    text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
    target.put(EVIDENCE, text.encode())
    return account, balance.quarantined


def _withdraw(target: Store, lines: list[Told]) -> None:
    """Leave out what another file is in conflict with: which was first depends on the workers."""
    taken = {line["SOPInstanceUID"] for line in lines if line.get("reason") == CONFLICT}
    for number, line in enumerate(lines):
        if line["state"] == "written" and line["SOPInstanceUID"] in taken:
            target.delete(line["file"])
            rest = {name: value for name, value in line.items() if name != "file"}
            lines[number] = rest | {"state": "quarantined", "reason": CONFLICT}


def _task(source: Store, target: Store, profile: Profile, files: Sequence[Stat]) -> list[Told]:
    told: list[Told] = []
    for stat in files:
        try:
            data = source.read(stat.key)
        except (Invalid, NotFound) as error:  # one file's own: a link, no permission, gone
            told.append({"state": "quarantined", "reason": error.kind})
            continue
        try:
            clean = deidentify(data, profile)
        except BadFile as bad:
            digest = hashlib.sha256(data).hexdigest()
            told.append({"state": "quarantined", "reason": str(bad), "source_sha256": digest})
            continue
        key = f"{clean.uid}.dcm"
        try:
            target.put(key, clean.data)
        except Conflict:
            if target.read(key) != clean.data:
                told.append({"state": "quarantined", "reason": CONFLICT, **clean.evidence})
                continue
        told.append({"state": "written", "file": key, **clean.evidence})
    return told

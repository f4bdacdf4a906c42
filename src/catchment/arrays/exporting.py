"""A flat export for training: windows of all sessions behind each other, without padding.

``zarr``: arrays ``(window, ...)``, with ``session``, ``site`` and ``position`` of each window.
``npy``: a file ``<variable>.npy`` for each variable of more than one value, for memory maps, and
``index.parquet`` with all else. ``parquet``: ``windows.parquet``, a row for each window, the values
of a variable in a list of fixed size. ``export.json`` is written last: it says what is there.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from catchment.arrays import layout
from catchment.arrays.export_files import Files, Form, size_of
from catchment.arrays.training import Windows
from catchment.core.account import Account, Line
from catchment.core.errors import Conflict, Invalid, NotFound
from catchment.core.progress import Progress, silent
from catchment.core.store import Store

FORMS = ("zarr", "npy", "parquet")
MANIFEST = "export.json"
BEGUN = "export-begun.json"


@dataclass(frozen=True)
class Exported:
    """What an export wrote, or with ``dry_run`` would write.

    Attributes:
        state: ``exported``, ``unchanged`` or ``planned``.
        account: sessions and windows that came, and what was left out, with the reason.
        variables: shape and type of each array.
    """

    target: str
    state: Literal["exported", "unchanged", "planned"]
    form: str
    windows: int
    account: Account
    variables: dict[str, dict[str, Any]]
    raw_bytes: int = 0
    source: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain types, ready for ``json.dumps``."""
        return {**vars(self), "account": self.account.to_json()}


def export(
    windows: Windows,
    target: Store,
    form: Form = "zarr",
    *,
    dry_run: bool = False,
    progress: Progress = silent,
) -> Exported:
    """Write windows into an empty folder. The same export a second time changes nothing.

    Memory holds some blocks of one session. What was interrupted is begun anew by the next run.

    Raises:
        Conflict: kind ``export-exists`` where another export is, ``not-empty`` where something
            else is.
        Invalid: kind ``bad-form``.
    """
    if form not in FORMS:
        raise Invalid(
            f"expected one of {', '.join(FORMS)}, got {form!r}", kind="bad-form", hint="--form zarr"
        )
    work = _Export(windows, target, form, progress)
    planned = work.planned()
    if dry_run:
        return planned
    found = _manifest(target, MANIFEST)
    wanted = work.manifest(planned)
    if found is not None:
        if found != wanted:
            raise Conflict(
                f"another export is in {target.url}",
                kind="export-exists",
                hint="name a new folder, or delete that one",
            )
        return Exported(**{**vars(planned), "state": "unchanged"})
    if _manifest(target, BEGUN) is None and next(target.list(), None) is not None:
        raise Conflict(f"{target.url} is not empty", kind="not-empty", hint="name a new folder")
    target.put(BEGUN, b"{}", mode="overwrite")
    target.delete(layout.ROOT)  # of an export that was interrupted at the end
    work.write()
    target.put(MANIFEST, json.dumps(wanted, indent=1).encode(), mode="overwrite")
    target.delete(BEGUN)
    return Exported(**{**vars(planned), "state": "exported"})


def _manifest(target: Store, key: str) -> dict[str, Any] | None:
    with suppress(NotFound, ValueError):
        return json.loads(target.read(key))  # type: ignore[no-any-return]
    return None


class _Export(Files):
    """One export at work."""

    def planned(self) -> Exported:
        account = Account()
        for one in self.windows.chosen:
            row = one.entry.row
            sessions = account[Line(row.site, "export", "sessions")]
            windows = account[Line(row.site, "export", "windows")]
            sessions.received += 1
            windows.received += one.received
            windows.kept += len(one.windows)
            lost = one.received - len(one.windows)
            reason = "not-valid" if self.windows.valid and len(one.windows) else "not-selected"
            if lost:
                windows.dropped[reason] += lost
            if len(one.windows):
                sessions.kept += 1
            else:
                sessions.dropped[reason] += 1
        account.check()
        variables = {
            name: {
                "dims": ["window", *self.dims[name]],
                "shape": [self.total, *shape],
                "type": self.types[name],
            }
            for name, shape in self.shapes.items()
        }
        raw = sum(
            self.total * math.prod(shape) * size_of(self.types[name])
            for name, shape in self.shapes.items()
        )
        source = [
            {
                "store": part.store.url,
                "commit": part.document.commit,
                "fingerprint": part.document.schema.fingerprint,
            }
            for part in self.windows.parts
        ]
        return Exported(
            self.target.url, "planned", self.form, self.total, account, variables, raw, source
        )

    def manifest(self, planned: Exported) -> dict[str, Any]:
        """What ``export.json`` says."""
        first, sessions = 0, []
        for one in self.windows.chosen:
            if not len(one.windows):
                continue
            row = one.entry.row
            start = None if math.isnan(row.start) else row.start
            sessions.append(
                {
                    "session": row.session,
                    "site": row.site,
                    "start": start,
                    "first": first,
                    "windows": len(one.windows),
                    "content_hash": row.content_hash,
                }
            )
            first += len(one.windows)
        labels = {
            name: list(described["values"])
            for name, described in self.document.schema.labels.items()
        }
        attributes = {name: self.document.arrays[name]["attributes"] for name in self.shapes}
        made = {k: v for k, v in planned.to_json().items() if k not in ("state", "target")}
        told = made | {"valid": self.windows.valid, "labels": labels, "attributes": attributes}
        plain: dict[str, Any] = json.loads(json.dumps(told | {"sessions": sessions}))
        return plain

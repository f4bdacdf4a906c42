"""What a worker does: one session, read and processed, its chunks staged; nobody sees them."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from catchment.arrays.journal import Holder
from catchment.arrays.model import Decision, OnConflict
from catchment.arrays.transform.base import BaseTransform
from catchment.arrays.transform.model import Session, TransformResult
from catchment.arrays.transform.sinks import Partitioning, Refused, Sent, StagingSink
from catchment.core.errors import CatchmentError, Invalid
from catchment.core.finding import Finding, Severity
from catchment.core.names import shown
from catchment.core.safe_child import with_pandas
from catchment.core.store import Store

GROUP = "catchment.transforms"
CHUNK = 4 << 20  # bytes of a file
BUILTIN = {"window": "catchment.arrays.transform.window:WindowTransform"}


@dataclass(frozen=True, slots=True)
class Task:
    """A session to be done, small enough to send anywhere."""

    transform: str
    options: Mapping[str, Any]
    session: Session
    source: Store
    destination: Store
    holder: Holder
    partitioning: Partitioning
    on_conflict: OnConflict
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """What became of it: either an error, or what the transform gave and where it went."""

    session: Session
    result: TransformResult
    sent: Sequence[Sent] = ()
    findings: Sequence[Finding] = ()
    error: CatchmentError | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def load(name: str) -> type[BaseTransform]:
    """A transform by its registered name, ``module:Class``, or ``/path/to/file.py:Class``.

    Invalid (kind ``bad-transform``) if there is none.
    """
    place = name if ":" in name else _registered(name)
    module_name, _, attribute = place.rpartition(":")
    try:
        if module_name.endswith(".py"):
            module = _from_file(Path(module_name))
        else:
            module = importlib.import_module(module_name)
        found = getattr(module, attribute)
    except (AttributeError, ImportError, OSError, ValueError) as error:
        raise _bad(name, type(error).__name__) from None
    if not (inspect.isclass(found) and issubclass(found, BaseTransform)):
        raise _bad(name, "not a BaseTransform")
    return found


@cache
def _registered(name: str) -> str:
    """Where a transform of that name is; looking through all that is installed takes long."""
    place = BUILTIN.get(name, name)
    for entry in entry_points(group=GROUP, name=name):
        place = entry.value
    return place


def process(task: Task) -> Done:
    """Do one session. What is wrong with it is in the answer; only our own troubles raise."""
    with_pandas()
    transform = load(task.transform)
    sink = StagingSink(
        task.destination,
        task.holder,
        transform.identity(),
        task.partitioning,
        task.on_conflict,
        task.dry_run,
    )
    session = task.session
    made = transform(task.source, task.destination, task.options, sink=sink, isolated=True)
    try:
        result = made.run_session(session)
        if result.status == "success" and not task.dry_run:
            _place_files(task, result)
    except Refused as refused:
        return Done(session, TransformResult("failed"), (), refused.findings, _plain(refused))
    except CatchmentError as error:
        return Done(session, TransformResult("failed"), (), tuple(sink.findings), error)
    findings = [*sink.findings, *result.findings, *_strangers(session, result, sink.asked)]
    return Done(session, result, tuple(sink.sent), tuple(findings))


def _strangers(session: Session, result: TransformResult, asked: set[str]) -> Iterator[Finding]:
    """Stores that a transform names and that it gave us nothing for."""
    for key in result.zarr_stores:
        if key not in asked:
            yield Finding(
                session.site,
                Severity.WARNING,
                "store-unknown",
                f"{session.id}: {shown(key)}",
                "the transform names a store that it appended nothing to: it is in no catalog, "
                "no snapshot and no verification",
                "append to it by append_dataset_to_s3_zarr or save_dataset_to_s3_zarr",
            )


def warm(transform: str) -> None:
    """Load what takes long, before there is work."""
    with_pandas()
    load(transform)
    for name in ("xarray", "zarr", "scipy.signal"):
        importlib.import_module(name)


def told(done: Done) -> dict[str, Any]:
    """A line of a run's report."""
    error: CatchmentError | None = done.error
    decisions = sorted({s.step.decision.value for s in done.sent})
    quarantined = error is not None or done.result.status == "failed"
    skipped = done.result.status == "skipped"
    return {
        "session": done.session.id,
        "site": done.session.site,
        "key": done.session.key,
        "status": "quarantined" if quarantined else "skipped" if skipped else "kept",
        "decision": ", ".join(decisions) or None,
        "reason": error.kind if error else None,
        "windows": sum(s.windows for s in done.sent),
        "bytes": sum(s.raw_bytes for s in done.sent),
        "stores": [s.key for s in done.sent],
        "slots": [s.step.slot for s in done.sent],
        "conflict": any(s.step.decision is Decision.CONFLICT for s in done.sent),
    }


def _plain(refused: Refused) -> Invalid:
    return Invalid(refused.message, kind=refused.kind, hint=refused.hint)


def _place_files(task: Task, result: TransformResult) -> None:
    """Files beside the stores, below a folder of the session."""
    folder = f"{task.session.id}/"
    for key, name in result.files_to_copy:
        task.destination.put(folder + name, task.source.stream(key), mode="overwrite")
    for path, name in result.files_to_upload:
        with Path(path).open("rb") as file:
            chunks = iter(lambda: file.read(CHUNK), b"")
            task.destination.put(folder + name, chunks, mode="overwrite")


def _from_file(path: Path) -> Any:
    name = f"catchment_transform_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError
    module = importlib.util.module_from_spec(spec)
    importlib.import_module("sys").modules[name] = module
    spec.loader.exec_module(module)
    return module


def _bad(name: str, why: str) -> Invalid:
    return Invalid(
        f"no transform is called {shown(name)} ({why})",
        kind="bad-transform",
        hint=f"name an entry point of {GROUP}, module:Class, or /path/file.py:Class",
    )

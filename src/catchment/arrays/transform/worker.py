"""What a worker does: one session, read and processed, its chunks staged; nobody sees them."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_args

from catchment.arrays.journal import Holder
from catchment.arrays.model import Decision, OnConflict
from catchment.arrays.transform.base import BaseTransform
from catchment.arrays.transform.model import Session, Status, TransformResult
from catchment.arrays.transform.sinks import Partitioning, Refused, Sent, StagingSink
from catchment.core.errors import CatchmentError, Invalid, NotFound
from catchment.core.finding import Finding, Severity
from catchment.core.names import shown
from catchment.core.safe_child import with_pandas
from catchment.core.store import Store

GROUP = "catchment.transforms"
CHUNK = 4 << 20  # bytes of a file
LOST = ("file-vanished", "file-forbidden")  # a recording was listed and could not be had
FORBIDDEN = "permission-denied"
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
        result = _checked(made.run_session(session))
        if result.status == "success" and not task.dry_run:
            _place_files(task, result)
    except Refused as refused:
        return Done(session, TransformResult("failed"), (), refused.findings, _plain(refused))
    except CatchmentError as error:
        lost = _lost(task) or error
        return Done(session, TransformResult("failed"), (), tuple(sink.findings), lost)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - what a transform of a user's own may raise
        failed = _failed(transform, error)
        return Done(session, TransformResult("failed"), (), tuple(sink.findings), failed)
    findings = [*sink.findings, *result.findings, *_strangers(session, result, sink.asked)]
    return Done(session, result, tuple(sink.sent), tuple(findings))


def _checked(result: object) -> TransformResult:
    """The result, if it is one that can be kept."""
    if not isinstance(result, TransformResult):
        raise _bad_result(f"expected a TransformResult, got {type(result).__name__}")
    if result.status not in get_args(Status):
        raise _bad_result(f"expected a status of {', '.join(get_args(Status))}")
    try:
        json.dumps(result.metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise _bad_result(f"expected metadata of plain JSON ({type(error).__name__})") from None
    return result


def _bad_result(what: str) -> Invalid:
    return Invalid(
        f"the transform gave no result that can be kept: {what}",
        kind="bad-result",
        hint="mend the transform: its recordings are done again then",
    )


def _failed(transform: type[BaseTransform], error: Exception) -> Invalid:
    """Where a transform failed: the last line of its own file; the error's text may hold values."""
    own = inspect.getsourcefile(transform)
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == own]
    place = f" at line {lines[-1]} of {Path(own).name}" if own and lines else ""
    return Invalid(
        f"the transform failed with {type(error).__name__}{place}",
        kind="transform-failed",
        hint="mend it, or let it raise catchment.core.errors.Invalid for what it cannot use",
    )


def _lost(task: Task) -> CatchmentError | None:
    """That the recording cannot be had now, if so; the next run looks again."""
    again = "nothing is lost: the next run looks again"
    try:
        task.source.head(task.session.key)
    except NotFound:
        return NotFound("it was listed, and gone when it was read", kind=LOST[0], hint=again)
    except Invalid as error:
        if error.kind == FORBIDDEN:
            return Invalid("it was listed, and may not be read", kind=LOST[1], hint=again)
    except CatchmentError:
        pass  # the first error is the one to tell
    return None


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
        try:
            found = task.source.stream(key)
        except NotFound:
            raise _bad_result(f"the source has no {shown(key)}") from None
        task.destination.put(folder + name, found, mode="overwrite")
    for path, name in result.files_to_upload:
        try:
            with Path(path).open("rb") as file:
                chunks = iter(partial(file.read, CHUNK), b"")
                task.destination.put(folder + name, chunks, mode="overwrite")
        except OSError as error:
            raise _bad_result(f"{shown(str(path))}: {error.strerror}") from None


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

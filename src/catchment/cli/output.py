"""What a person or a program sees: results, errors and progress, as text or as JSON.

Results go to standard output, with ``--json`` errors too; all else goes to standard error. Text
from outside (names of sites, findings) has no power over the terminal: control characters are
spelt out.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import threading
import traceback
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catchment.core.errors import CatchmentError
from catchment.core.names import counted
from catchment.core.progress import Event, Progress, silent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

HEARTBEAT_SECONDS = 60.0
SITES = 3  # named in a finding that more of them share
PIPE_WIDTH = 160  # columns of a table that no terminal shows
BALANCE = ("received", "kept", "dropped", "quarantined")  # of an account's lines
SEVERITIES = ("error", "warning", "note")
UNEXPECTED = 70  # exit code of a fault of our own: EX_SOFTWARE of sysexits.h


@dataclass(slots=True)
class Output:
    """How this call of the program speaks; the global options set it."""

    json: bool = False
    quiet: bool = False
    verbosity: int = 0
    workspace: Path | None = None

    def result(self, data: Any, render: Callable[[Any], Iterable[str | Table]]) -> None:
        """Print the data as JSON, or what ``render`` makes of it: lines and tables."""
        if self.json:
            # ASCII only: a terminal obeys some characters that JSON allows.
            print(_pretty(data))
            return
        for item in render(data):
            if isinstance(item, str):
                print(_lines(item))
            else:
                _console(sys.stdout).print(item)

    def note(self, text: str) -> None:
        """A line for people about what is going on; not with ``--json`` or ``--quiet``."""
        if not (self.json or self.quiet):
            print(_lines(text), file=sys.stderr)

    def error(self, error: CatchmentError) -> None:
        """Say what went wrong and what to do next."""
        if self.json:
            print(json.dumps({"error": facts(error)}, indent=1))
            return
        print(f"error: {_lines(error.message)}", file=sys.stderr)
        if error.hint:
            print(f"hint: {_lines(error.hint)}", file=sys.stderr)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A listener for the events of long work: bars on a terminal, else a line each minute."""
        if self.json or self.quiet:
            yield silent
        elif sys.stderr.isatty():
            with _bars() as show:
                yield show
        else:
            with _heartbeat(HEARTBEAT_SECONDS) as show:
                yield show

    def log(self) -> None:
        """Send log records to standard error: warnings, with ``-v`` more, with ``-vv`` all."""
        levels = [logging.WARNING, logging.INFO, logging.DEBUG]
        handler = logging.StreamHandler()
        handler.setFormatter(_PlainFormatter("%(levelname)s %(name)s: %(message)s"))
        handler.addFilter(logging.Filter("catchment"))
        level = logging.ERROR if self.quiet else levels[min(self.verbosity, 2)]
        logging.basicConfig(handlers=[handler], level=level, force=True)


def _pretty(data: Any, depth: int = 0) -> str:
    """What ``json.dumps(data, indent=1)`` says, in a quarter of its time."""
    if not isinstance(data, dict | list | tuple) or not data:
        return json.dumps(data)
    inner, outer = "\n" + " " * (depth + 1), "\n" + " " * depth
    values = list(data.values() if isinstance(data, dict) else data)
    if any(isinstance(value, dict | list | tuple) for value in values):
        told = [_pretty(value, depth + 1) for value in values]
        if isinstance(data, dict):
            keys = [json.dumps({key: 0})[1:-2] for key in data]
            told = [key + text for key, text in zip(keys, told, strict=True)]
        body = f",{inner}".join(told)
    else:  # the encoder in C does it, which knows no indent
        body = json.dumps(data, separators=("," + inner, ": "))[1:-1]
    left, right = "{}" if isinstance(data, dict) else "[]"
    return f"{left}{inner}{body}{outer}{right}"


def facts(error: CatchmentError) -> dict[str, str]:
    """What there is to know of an error, ready for JSON."""
    return {"kind": error.kind, "message": error.message, "hint": error.hint}


def findings(found: Iterable[dict[str, str]]) -> Iterator[str]:
    """A line or two for each finding, the gravest first; what several sites share is said once.

    Notes are only counted.
    """
    notes = 0
    sites: dict[tuple[str, str, str, str, str], dict[str, None]] = {}
    for f in found:
        if f["severity"] == "note":
            notes += 1
            continue
        same = f["severity"], f["code"], f["where"], f["message"], f["hint"]
        sites.setdefault(same, {})[f["site"]] = None
    for same in sorted(sites, key=lambda s: (SEVERITIES.index(s[0]), *s)):
        severity, code, where, message, hint = same
        names = list(sites[same])
        more = f" and {len(names) - SITES} more" if len(names) > SITES else ""
        parts = severity, f"{', '.join(names[:SITES])}{more}", where, f"{message} [{code}]"
        yield ": ".join(part for part in parts if part)
        if hint:
            yield f"  hint: {hint}"
    if notes:
        yield f"and {counted(notes, 'notes')} (--json shows {'it' if notes == 1 else 'them'})"


def balance(line: Mapping[str, Any]) -> list[int]:
    """The counts of a line of an account, as :data:`BALANCE` names them."""
    return [n if isinstance(n := line[name], int) else sum(n.values()) for name in BALANCE]


def plain(text: str) -> str:
    """The text with every control, format, surrogate and separator character spelt out."""
    return "".join(
        c if c == " " or unicodedata.category(c)[0] not in "CZ" else ascii(c)[1:-1] for c in text
    )


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table for :meth:`Output.result`: numbers to the right with thousands set apart."""
    from rich import box
    from rich.table import Table

    made = Table(
        title=plain(title) or None, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False
    )
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*map(_cell, row))
    return made


def unexpected(error: BaseException) -> CatchmentError:
    """What to tell of a fault of our own. The stack goes to a file that only the user can read.

    Messages of foreign libraries may quote cells, so the file holds places and types only.
    """
    parts = []
    link: BaseException | None = error
    while link is not None:
        parts.append(
            f"{type(link).__qualname__}\n{''.join(traceback.format_tb(link.__traceback__))}"
        )
        link = link.__cause__ or link.__context__
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    descriptor, path = tempfile.mkstemp(".log", f"catchment-{stamp}-", text=True)
    with os.fdopen(descriptor, "w") as file:
        file.write("\n".join(parts))
    return CatchmentError(
        f"a fault of the program itself ({type(error).__qualname__})",
        kind="unexpected",
        hint=f"report it with {path}",
    )


def _cell(value: object) -> Text:
    from rich.text import Text

    match value:
        case None:
            return Text("")
        case bool():
            return Text(str(value).lower())
        case int():
            return Text(f"{value:,}", justify="right")
        case list() | tuple():
            return Text(plain(", ".join(map(str, value))))
        case _:
            return Text(plain(str(value)))


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return _lines(super().format(record))


def _lines(text: str) -> str:
    return "\n".join(plain(line) for line in text.split("\n"))


def _console(stream: Any) -> Console:
    from rich.console import Console

    return Console(file=stream, highlight=False, width=None if stream.isatty() else PIPE_WIDTH)


@contextmanager
def _bars() -> Iterator[Progress]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[message]}", markup=False),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=_console(sys.stderr)) as bars:
        tasks: dict[str, Any] = {}

        def show(event: Event) -> None:
            if event.work not in tasks:
                tasks[event.work] = bars.add_task(plain(event.work), total=None, message="")
            message = plain(f"{event.unit} {event.message}".strip())
            bars.update(tasks[event.work], completed=event.done, total=event.total, message=message)

        yield show


@contextmanager
def _heartbeat(seconds: float) -> Iterator[Progress]:
    latest: dict[str, Event] = {}
    over = threading.Event()

    def show(event: Event) -> None:
        latest.pop(event.work, None)
        if event.state != "done":
            latest[event.work] = event

    def beat() -> None:
        while not over.wait(seconds):
            for event in list(latest.values())[-1:]:
                print(plain(_sentence(event)), file=sys.stderr, flush=True)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield show
    finally:
        over.set()
        thread.join()


def _sentence(event: Event) -> str:
    count = f"{event.done:,}" + (f" of {event.total:,}" if event.total is not None else "")
    return " ".join(part for part in (f"{event.work}:", count, event.unit, event.message) if part)

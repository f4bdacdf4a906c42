"""A workspace: a store, a ledger and the settings that name sites and aggregates."""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
from collections.abc import Mapping
from concurrent.futures import Executor
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit
from weakref import WeakSet

from catchment.core.errors import Invalid, NotFound
from catchment.core.executor import open_executor
from catchment.core.ledger import Ledger
from catchment.core.lineage import Place, Teller
from catchment.core.provenance import read_all
from catchment.core.safe import Limits
from catchment.core.scratch import scratch_folder
from catchment.core.settings import FILE, Settings, without_password
from catchment.core.store import RESERVED, Store, open_store
from catchment.core.store_folders import not_made

SQLITE = "sqlite:///"

logger = logging.getLogger(__name__)

_open: WeakSet[Workspace] = WeakSet()


class Workspace:
    """Store and ledger are opened when they are first asked for.

    Attributes:
        settings: all settings, resolved.
        file: the ``catchment.toml``; None where the workspace is described by arguments only.
        refused: why the ledger that is there could not be opened, and the store answered for it.
    """

    def __init__(self, settings: Settings, file: Path | None = None) -> None:
        self.settings = settings
        self.file = file
        self.refused: Invalid | None = None
        self._opened = ExitStack()
        _open.add(self)

    @classmethod
    def open(
        cls,
        path: str | Path | None = None,
        overrides: Mapping[str, Any] | None = None,
        flags: Mapping[str, str] = MappingProxyType({}),
    ) -> Self:
        """The workspace of a folder or a ``catchment.toml``, with settings by dotted key on top.

        ``flags`` are what the user calls them, for messages.
        Without a path, the environment's ``CATCHMENT_WORKSPACE``, or else the nearest
        ``catchment.toml`` in this folder or above it. NotFound (kind ``no-workspace``) where there
        is none, Invalid (kind ``bad-settings``) where it cannot be used.
        """
        path = path or os.environ.get("CATCHMENT_WORKSPACE")
        file = Path(path) if path else find(Path.cwd())
        if file is not None and file.is_dir():
            file /= FILE
        if file is None or not file.is_file():
            raise NotFound(
                f"there is no {FILE} in {path or 'this folder or above it'}",
                kind="no-workspace",
                hint="catchment init",
            )
        return cls(Settings.load(file, overrides, flags=flags), file)

    @classmethod
    def described(
        cls, overrides: Mapping[str, Any], flags: Mapping[str, str] = MappingProxyType({})
    ) -> Self:
        """A workspace without a file: environment and overrides say everything."""
        return cls(Settings.load(None, overrides, flags=flags))

    def close(self) -> None:
        """Let go of ledger and workers, if there are any; the next use opens them again."""
        self.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._opened.__exit__(kind, error, trace)
        for name in ("ledger", "executor"):
            vars(self).pop(name, None)

    @cached_property
    def store(self) -> Store:
        """The store that holds all aggregates."""
        return self.open_store(self.settings.workspace.store)

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger; made where there is none yet."""
        file = _sqlite_file(self._ledger_url)
        if file is not None:
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise not_made(file.parent, error) from None
        ledger = self._opened.enter_context(Ledger.open(self._ledger_url))
        lineage = self.settings.lineage
        if lineage.file is not None or lineage.url is not None:
            teller = Teller(lineage, self.place, ledger)
            self._opened.callback(teller.close)
            ledger.watch = teller.note
        return ledger

    @property
    def place(self) -> Place:
        """What those outside call this workspace."""
        return Place(self.settings.workspace.name, without_password(self.store.url))

    @property
    def has_ledger(self) -> bool:
        """Whether there is a ledger to open; one in a database server is taken to be there."""
        file = _sqlite_file(self._ledger_url)
        return file is None or file.exists()

    def ledger_to_read(self) -> Ledger:
        """The ledger, for questions; without one, what the store says of itself, for this once.

        So it is where the ledger's folder cannot be written: even to read, SQLite needs that.
        """
        if "ledger" in vars(self):
            return self.ledger
        if self.has_ledger:
            try:
                return self.ledger
            except Invalid as error:
                file = _sqlite_file(self._ledger_url)
                if error.kind != "ledger-refused" or file is None or _writable(file):
                    raise
                logger.warning("%s: the store tells what is published", error.message)
                self.refused = error
        folder = self._opened.enter_context(scratch_folder())
        ledger = self._opened.enter_context(Ledger.open(f"{SQLITE}{folder}/ledger.db"))
        ledger.restore(read_all(self.store))
        return ledger

    def rebuild(self) -> int:
        """Take what the store describes into the ledger; returns how many snapshots were new.

        Corrupt as :func:`~catchment.core.provenance.read_all` and :meth:`Ledger.restore` raise it;
        no ledger is made then, for readers would ask it instead of the store.
        """
        if not self.has_ledger:
            self.ledger_to_read()
        return self.ledger.restore(read_all(self.store))

    def only_read(self) -> None:
        """From now on the ledger is one to ask: none is made where there is none."""
        self.ledger = self.ledger_to_read()

    def open_store(self, url: str) -> Store:
        """Any store, of a site for example, reached with the settings of this workspace."""
        return open_store(url, **self.settings.s3.options())

    @cached_property
    def executor(self) -> Executor:
        """The workers that the settings ask for; one pool, for all runs until :meth:`close`."""
        wanted = self.settings.executor
        return self._opened.enter_context(open_executor(wanted.kind, wanted.workers, self.limits))

    @property
    def limits(self) -> Limits:
        """What reading one untrusted file may take."""
        return Limits(memory=self.settings.executor.memory << 20)

    @property
    def _ledger_url(self) -> str:
        if self.settings.workspace.ledger is not None:
            return self.settings.workspace.ledger
        url = self.settings.workspace.store
        if url.startswith("memory:"):
            raise Invalid(
                "a store in memory is gone with the program, and so must its ledger be",
                kind="bad-settings",
                hint="set workspace.ledger to a temporary file",
            )
        if not url.startswith("file:"):
            # A remote store has no place for a database; the state folder keeps one per URL.
            state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
            folder = Path(state, "catchment", hashlib.sha256(url.encode()).hexdigest()[:16])
        elif self.file is None:
            folder = Path(unquote(urlsplit(url).path), RESERVED)
        else:
            folder = self.file.absolute().parent / RESERVED
        return f"{SQLITE}{folder / 'ledger.db'}"


@atexit.register
def _close_all() -> None:
    """Of workspaces that nobody closed: later, no more threads start, which closing may need."""
    for workspace in list(_open):
        workspace.close()


def _writable(file: Path) -> bool:
    return os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)


def _sqlite_file(url: str) -> Path | None:
    return Path(url.removeprefix(SQLITE)) if url.startswith(SQLITE) else None


def find(folder: Path) -> Path | None:
    """The ``catchment.toml`` of the folder or the nearest one above it."""
    return next((p / FILE for p in (folder, *folder.parents) if (p / FILE).is_file()), None)

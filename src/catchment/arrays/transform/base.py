"""``BaseTransform``: write :meth:`~BaseTransform.process_session`, and all else is there.

A transform is a class in a module that workers can import. It finds sessions below its source, and
makes of each what belongs below its destination. Where it runs, in what order, what is skipped and
how much is recorded is the business of :mod:`catchment.arrays.transform.run`.
"""

from __future__ import annotations

import hashlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from catchment.arrays.transform import readers
from catchment.arrays.transform.model import Piece, Recording, Session, TransformResult
from catchment.core.errors import Invalid
from catchment.core.names import shown
from catchment.core.safe import SafePool
from catchment.core.scratch import scratch_folder
from catchment.core.store import Store

if TYPE_CHECKING:
    import xarray as xr


class Sink(Protocol):
    """Where the datasets of a transform go."""

    def append(self, piece: Piece) -> str:
        """Put a dataset into the store at its key of the destination; the URL of that store."""
        ...


class BaseTransform(ABC):
    """What all transforms share.

    Args:
        source: recordings.
        destination: results.
        options: what the settings or the command say, by name.
        sink: where datasets go; None: into the destination, at once.
        isolated: this process may die of a bad file, so files are read in it.

    Attributes:
        NAME, VERSION: identity, with the digest of the code; a new version does sessions again.
        SOURCE_PREFIX, DEST_PREFIX: below source and destination; empty or ending in ``/``.
        SUFFIXES: endings of the files that are sessions.
    """

    NAME: ClassVar[str] = "transform"
    VERSION: ClassVar[str] = "1"
    SOURCE_PREFIX: ClassVar[str] = ""
    DEST_PREFIX: ClassVar[str] = ""
    SUFFIXES: ClassVar[tuple[str, ...]] = tuple(readers.READERS)
    OPTIONS: ClassVar[Mapping[str, Any]] = {}  # names and defaults

    def __init__(
        self,
        source: Store,
        destination: Store,
        options: Mapping[str, Any] | None = None,
        *,
        sink: Sink | None = None,
        isolated: bool = False,
    ) -> None:
        unknown = sorted((options or {}).keys() - self.OPTIONS.keys())
        if unknown:
            known = ", ".join(sorted(self.OPTIONS)) or "none"
            raise Invalid(
                f"{self.NAME} has no option {', '.join(unknown)}; it has: {known}",
                kind="bad-transform-option",
            )
        self.source = source
        self.destination = destination
        self.options = {**self.OPTIONS, **(options or {})}
        self.check_options()
        self._sink = sink
        self._isolated = isolated
        self._session: Session | None = None

    @classmethod
    def code_digest(cls) -> str:
        """Twelve hexadecimal digits of the source of the class and of those that it builds on."""
        hashed = hashlib.sha256()
        for one in reversed(cls.__mro__[:-1]):
            try:
                hashed.update(inspect.getsource(one).encode())
            except (OSError, TypeError):
                hashed.update(f"{one.__module__}.{one.__qualname__}".encode())
        return hashed.hexdigest()[:12]

    @classmethod
    def identity(cls) -> str:
        """Name, version and code of the transform, as it stands in stores."""
        return f"{cls.NAME} {cls.VERSION} {cls.code_digest()}"

    def check_options(self) -> None:  # noqa: B027 - a hook
        """Say what is wrong with the options, before a session is done. Yours to write, or not.

        Raise :class:`Invalid`, for instance by :func:`bad_option`: nothing is done then.
        """

    @abstractmethod
    def process_session(self, session: Session) -> TransformResult:
        """Make of one session what belongs below the destination. Yours to write.

        Raise :class:`Invalid` for a recording that cannot be used: the session is quarantined, and
        the others go on.
        """

    def run_session(self, session: Session) -> TransformResult:
        """:meth:`process_session`, with what the session is known by at hand."""
        self._session = session
        try:
            return self.process_session(session)
        finally:
            self._session = None

    # What process_session may use

    def read_recording(self, session: Session) -> Recording:
        """The recording, by the reader of its format."""
        suffix = readers.suffix_of(session.key)
        if suffix is None:
            raise readers.unreadable("no reader knows its ending")
        with self.local_file(session, suffix) as path:
            if self._isolated:
                return readers.read(str(path), suffix, self.options)
            with SafePool(1) as pool:
                return pool.submit(readers.read, str(path), suffix, self.options).result()

    def local_file(self, session: Session, suffix: str = "") -> _Local:
        """The recording as a file of this machine, within a ``with`` block."""
        return _Local(self.source, session.key, suffix)

    def append_dataset_to_s3_zarr(
        self,
        new_dataset: xr.Dataset,
        store_key: str,
        append_dim: str = "session",
        chunks: Mapping[str, int] | None = None,
    ) -> str:
        """Append a dataset to the store at a key of the destination; its URL.

        The store is made if there is none. Its chunks stay what they are. A dataset without the
        append dimension gets it, with the session's id as its label. Committed sessions are never
        touched: readers see the store with the session or without it.
        """
        piece = Piece(new_dataset, store_key, append_dim, chunks, self._session)
        return self._out().append(piece)

    def save_dataset_to_s3_zarr(
        self, dataset: xr.Dataset, store_key: str, chunks: Mapping[str, int] | None = None
    ) -> str:
        """Put a dataset into a store of its own; its URL. The same again changes nothing."""
        piece = Piece(dataset, store_key, chunks=chunks, session=self._session)
        return self._out().append(piece)

    def open_dataset_from_s3_zarr(self, store_key: str) -> xr.Dataset:
        """What is in the store at a key of the destination, lazily."""
        from catchment.arrays import read
        from catchment.arrays.transform.sinks import below

        return read.dataset(below(self.destination, store_key))

    def _out(self) -> Sink:
        if self._sink is None:
            from catchment.arrays.transform.sinks import DirectSink

            self._sink = DirectSink(self.destination, self.identity())
        return self._sink


def bad_option(name: str, expected: str, value: object) -> Invalid:
    """The error of an option that a transform cannot work with."""
    return Invalid(
        f"option {name}: expected {expected}, got {shown(str(value))}",
        kind="bad-transform-option",
        hint="set it in [arrays.NAME.options]",
    )


class _Local:
    """A stored object as a local file: itself in a folder, else a copy that is removed again."""

    def __init__(self, store: Store, key: str, suffix: str) -> None:
        self._store = store
        self._key = key
        self._suffix = suffix
        self._copied = ExitStack()

    def __enter__(self) -> Path:
        path = self._store.path(self._key)
        if path is not None:
            return path
        with ExitStack() as stack:
            path = stack.enter_context(scratch_folder()) / f"recording{self._suffix}"
            with path.open("wb") as file:
                for chunk in self._store.stream(self._key):
                    file.write(chunk)
            self._copied = stack.pop_all()
        return path

    def __exit__(self, *_: object) -> None:
        self._copied.close()

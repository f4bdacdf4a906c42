"""A store in a local folder, durable: what was acknowledged survives a power cut."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
import time
from collections.abc import Buffer, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, Self, override
from urllib.parse import unquote_to_bytes

from catchment.core import compose
from catchment.core import store_folders as folders
from catchment.core.errors import Invalid, NotFound
from catchment.core.store import (
    RESERVED,
    Composed,
    Form,
    Mode,
    Range,
    Segment,
    Stat,
    Store,
    check_key,
    check_prefix,
    draft_removed,
    key_taken,
    open_store,
)
from catchment.core.store_draft import STRIDE, Draft, not_followed, os_errors

CHUNK = 1 << 18  # bytes of a stream's chunk; fits a core's cache
MAX_SOURCES = 64  # files held open by one composition

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe must not make us wait
_DRAFTS = (RESERVED, "tmp")
_WRITABLE = 0o222
# another file system, too many names of one file, a file system that knows one name only
_NO_LINK = {errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}
_DRAFT = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


def open_local(path: str) -> LocalStore:
    """The store at what follows ``file://``."""
    root = os.fsdecode(unquote_to_bytes(path))
    if not root.startswith("/") or "\0" in root or "?" in path or "#" in path:
        raise Invalid("expected file:///an/absolute/folder", kind="bad-store-url")
    return LocalStore(root)


class LocalStore(Store):
    """Objects are files below a folder; see :class:`catchment.core.store.Store`.

    An object is written to ``.catchment/tmp/`` below the folder, made durable, and only then linked
    to its name. Links and special files below the folder are listed, and refused by every other
    verb but delete (Invalid, kind ``not-a-file``): none is followed. A listing holds the names of
    one folder at each level in memory.
    """

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)  # noqa: PTH100 - Path keeps ".."
        self._durable: set[tuple[int, int]] = set()  # folders whose name is on the disk

    def __repr__(self) -> str:
        return f"LocalStore({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return open_store, (self.url,)

    @property
    @override
    def url(self) -> str:
        return Path(self.root).as_uri()

    @override
    def head(self, key: str) -> Stat:
        with self._open(key) as file:
            return folders.stat(key, os.fstat(file))

    @override
    def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        with self._open(key) as file, os_errors(key):
            return b"".join(_chunks(file, start, length))

    @override
    def stream(self, key: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        chunks = self._stream(key, start, length)
        next(chunks)  # opens the file: NotFound is raised here, and a dropped stream closes it
        return chunks

    @override
    def put(
        self,
        key: str,
        data: Buffer | Iterable[Buffer],
        *,
        mode: Mode = "create",
        durable: bool = True,
    ) -> Stat:
        with self._draft(key, mode, durable=durable) as (file, draft):
            for chunk in (data,) if isinstance(data, Buffer) else data:
                draft.write(chunk)
            draft.finish()
            status = os.fstat(file)
        return folders.stat(key, status)

    @override
    def list(self, prefix: str = "") -> Iterator[Stat]:
        check_prefix(prefix)
        return self._list(prefix)

    @override
    def folders(self, prefix: str = "") -> Iterator[str]:
        check_prefix(prefix)
        return self._folders(prefix)

    @override
    def delete(self, key: str) -> None:
        *parents, name = check_key(key).split("/")
        with (
            suppress(NotFound),
            self._folder(key, parents) as folder,
            os_errors(key),
            suppress(IsADirectoryError),
        ):
            os.unlink(name, dir_fd=folder)
            os.fsync(folder)

    @override
    def copy(self, source: str, target: str, *, mode: Mode = "create") -> Stat:
        if self._link(source, target, mode):
            return self.head(target)
        return compose.copy(self, source, target, mode)

    @override
    def path(self, key: str) -> Path | None:
        try:
            os.close(self.open_file(key))
        except NotFound:
            return None
        return Path(self.root, key)

    @override
    def presign(
        self, key: str, *, expires: timedelta, method: Literal["GET", "PUT"] = "GET"
    ) -> str:
        raise Invalid(f"{self.url}: only an S3 store presigns URLs", kind="no-presign")

    @override
    def presign_post(self, key: str, *, expires: timedelta, max_bytes: int) -> Form:
        raise Invalid(f"{self.url}: only an S3 store presigns forms", kind="no-presign")

    @override
    def compose(
        self,
        target: str,
        segments: Iterable[Segment],
        *,
        mode: Mode = "create",
        digest: bool = False,
        durable: bool = True,
    ) -> Composed:
        with (
            _Sources() as sources,
            self._draft(target, mode, durable=durable, digest=digest) as (_, draft),
        ):
            for segment in compose.joined(segments, STRIDE):
                if not isinstance(segment, Range):
                    draft.write(segment)
                elif isinstance(segment.store, LocalStore):
                    file, size = sources.open(segment.store, segment.key)
                    if size < segment.start + segment.length:
                        raise compose.short(segment.key, segment.start + segment.length)
                    draft.splice(file, segment.key, segment.start, segment.length)
                else:
                    for chunk in compose.stream([segment]):
                        draft.write(chunk)
            draft.finish()
        return Composed(target, draft.size, draft.digest)

    @override
    def clock(self) -> None:
        return None

    @override
    def sweep(self, older_than: timedelta, *, dry_run: bool = False) -> int:
        before = time.time() - older_than.total_seconds()
        swept = 0
        drafts = "/".join(_DRAFTS)
        with (
            suppress(NotFound),
            self._folder(drafts, _DRAFTS) as folder,
            os_errors(drafts),
            os.scandir(folder) as entries,
        ):
            for entry in entries:
                with suppress(FileNotFoundError):  # its writer has just finished
                    if entry.stat(follow_symlinks=False).st_mtime <= before:
                        if not dry_run:
                            os.unlink(entry.name, dir_fd=folder)
                        swept += 1
        return swept

    def open_file(self, key: str) -> int:
        """A file descriptor for reading, the caller's to close; never outside the store."""
        *parents, name = check_key(key).split("/")
        with self._folder(key, parents) as folder, os_errors(key):
            file = os.open(name, _FILE, dir_fd=folder)
        mode = os.fstat(file).st_mode
        if stat.S_ISREG(mode):
            return file
        os.close(file)
        raise NotFound(f"no object {key!r}") if stat.S_ISDIR(mode) else not_followed(key)

    def _link(self, source: str, target: str, mode: Mode) -> bool:
        """Give a file a second name; False where the file system has no such thing.

        No verb of a store changes a file, and from now on nobody else does by mistake: the file
        can only be read.
        """
        *above, own = check_key(source).split("/")
        *parents, name = check_key(target).split("/")
        temporary = f"{os.getpid():x}-{secrets.token_hex(8)}"
        with (
            self._open(source) as file,
            self._folder(source, above) as folder,
            self._folder(target, _DRAFTS, make=True) as drafts,
            self._folder(target, parents, make=True, durable=True) as place,
        ):
            with os_errors(target):
                os.fsync(file)
                mode_bits = os.fstat(file).st_mode
                try:
                    if mode_bits & _WRITABLE:
                        os.fchmod(file, mode_bits & ~_WRITABLE & 0o7777)
                    os.link(own, temporary, src_dir_fd=folder, dst_dir_fd=drafts)
                except OSError as error:
                    if error.errno in _NO_LINK:
                        return False
                    raise
            try:
                with os_errors(target):
                    _place(target, mode, drafts, temporary, place, name)
                    os.fsync(place)
            finally:
                with suppress(FileNotFoundError):  # of two names of one file, none is moved
                    os.unlink(temporary, dir_fd=drafts)
        return True

    @contextmanager
    def _open(self, key: str) -> Iterator[int]:
        file = self.open_file(key)
        try:
            yield file
        finally:
            os.close(file)

    def _stream(self, key: str, start: int, length: int | None) -> Iterator[bytes]:
        with self._open(key) as file, os_errors(key):
            yield b""
            yield from _chunks(file, start, length)

    @contextmanager
    def _draft(
        self, key: str, mode: Mode, *, durable: bool, digest: bool = False
    ) -> Iterator[tuple[int, Draft]]:
        """A file to fill and finish; when the block ends well, it gets its name."""
        *parents, name = check_key(key).split("/")
        if mode == "create":
            with suppress(NotFound):  # early, for big objects; the link below decides
                self.head(key)
                raise key_taken(key)
        temporary = f"{os.getpid():x}-{secrets.token_hex(8)}"
        with self._folder(key, _DRAFTS, make=True) as drafts:
            with os_errors(key):
                file = os.open(temporary, _DRAFT, 0o666, dir_fd=drafts)
            draft = None
            try:
                draft = Draft(file, key, digest=digest, durable=durable)
                yield file, draft
                with (
                    self._folder(key, parents, make=True, durable=durable) as folder,
                    os_errors(key),
                ):
                    _place(key, mode, drafts, temporary, folder, name)
                    if durable:
                        os.fsync(folder)
            finally:
                if draft is not None:
                    draft.close()
                os.close(file)
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=drafts)

    @contextmanager
    def _folder(
        self, key: str, parts: Sequence[str], *, make: bool = False, durable: bool = False
    ) -> Iterator[int]:
        """A folder, entered part by part from the root: a link on the way is not followed."""
        with os_errors(key):
            folder = self._open_root(make=make)
        try:
            for part in parts:
                with os_errors(key):
                    child = _enter(folder, part, key, make=make)
                if durable:
                    self._keep(folder, child, key)
                os.close(folder)
                folder = child
            yield folder
        finally:
            os.close(folder)

    def _open_root(self, *, make: bool) -> int:
        try:
            return os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        except NotADirectoryError as error:
            raise folders.not_made(Path(self.root), error) from None
        except FileNotFoundError:
            if not make:
                raise
        root = Path(self.root)
        for folder in reversed([root, *takewhile(lambda path: not path.exists(), root.parents)]):
            try:
                folder.mkdir(exist_ok=True)
            except OSError as error:
                raise folders.not_made(folder, error) from None
            parent = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(parent)
            finally:
                os.close(parent)
        return os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)

    def _keep(self, folder: int, child: int, key: str) -> None:
        """Make the child's name durable: once, also if somebody else has made it just now."""
        status = os.fstat(child)
        identity = (status.st_dev, status.st_ino)
        if identity not in self._durable:
            with os_errors(key):
                os.fsync(folder)
            self._durable.add(identity)

    def _list(self, prefix: str) -> Iterator[Stat]:
        with suppress(NotFound), self._folder(prefix, prefix.split("/")[:-1]) as folder:
            yield from folders.walk(folder, prefix)

    def _folders(self, prefix: str) -> Iterator[str]:
        with suppress(NotFound), self._folder(prefix, prefix.split("/")[:-1]) as folder:
            found = folders.names(folder, prefix, refuse=True)  # a link may stand for a folder
            for name in sorted(name[:-1] for name in found if name.endswith(b"/")):
                if any(True for _ in folders.below(folder, name, prefix)):
                    yield folders.text(name)


class _Sources:
    """The files that a composition reads, held open while it does."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], tuple[int, int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file, _size in self._open.values():
            os.close(file)

    def open(self, store: LocalStore, key: str) -> tuple[int, int]:
        """The file and its size in bytes."""
        found = self._open.get((store.root, key))
        if found is None:
            if len(self._open) >= MAX_SOURCES:
                os.close(self._open.pop(next(iter(self._open)))[0])
            file = store.open_file(key)
            found = self._open[store.root, key] = (file, os.fstat(file).st_size)
        return found


def _place(key: str, mode: Mode, drafts: int, draft: str, folder: int, name: str) -> None:  # noqa: PLR0917 - from where, to where
    """Give a draft its name."""
    place = os.link if mode == "create" else os.rename
    try:
        place(draft, name, src_dir_fd=drafts, dst_dir_fd=folder)
    except FileNotFoundError:
        raise draft_removed(key) from None


def _enter(folder: int, part: str, key: str, *, make: bool) -> int:
    try:
        try:
            return os.open(part, folders.FOLDER, dir_fd=folder)
        except FileNotFoundError:
            if not make:
                raise
        with suppress(FileExistsError):
            os.mkdir(part, dir_fd=folder)
        return os.open(part, folders.FOLDER, dir_fd=folder)
    except NotADirectoryError:
        if stat.S_ISLNK(os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode):
            raise not_followed(key) from None
        if make:
            raise key_taken(key) from None
        raise


def _chunks(file: int, start: int, length: int | None) -> Iterator[bytes]:
    if start < 0:
        start = max(0, os.fstat(file).st_size + start)
    end = sys.maxsize if length is None else start + length
    while chunk := os.pread(file, min(CHUNK, max(0, end - start)), start):
        start += len(chunk)
        yield chunk

"""What is in a folder of a local store, in order of key; no link is followed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from catchment.core.errors import CatchmentError, Invalid, NotFound
from catchment.core.store import RESERVED, Stat, Store
from catchment.core.store_draft import failure, not_followed, os_errors

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def walk(folder: int, prefix: str) -> Iterator[Stat]:
    """All objects below an open folder, whose keys begin with the prefix."""
    for name in names(folder, prefix):
        if name.endswith(b"/"):
            yield from below(folder, name[:-1], prefix)
        else:
            with suppress(FileNotFoundError):  # deleted since
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                yield stat(prefix + text(name), status)


def below(folder: int, name: bytes, prefix: str) -> Iterator[Stat]:
    """All objects below a folder of an open one; none if it is gone."""
    with suppress(NotFound):
        with os_errors(prefix):
            child = os.open(name, FOLDER, dir_fd=folder)
        try:
            yield from walk(child, f"{prefix}{text(name)}/")
        finally:
            os.close(child)


def names(folder: int, prefix: str, *, refuse: bool = False) -> list[bytes]:
    """Names in a folder, in the order of the keys below: a folder's name ends in ``/``.

    A link or a special file has a name as a file has, unless it is to be refused.
    """
    found = []
    with os_errors(prefix), os.scandir(folder) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            if entry.is_dir(follow_symlinks=False):
                if prefix or entry.name != RESERVED:
                    found.append(name + b"/")
            elif refuse and not entry.is_file(follow_symlinks=False):
                raise not_followed(prefix + text(name))
            else:
                found.append(name)
    return sorted(found)


def text(name: bytes) -> str:
    """The name; bytes that are no UTF-8 are escaped by a backslash, which no key can hold."""
    return name.decode(errors="backslashreplace")


def stat(key: str, status: os.stat_result) -> Stat:
    """What a file's status tells of an object."""
    etag = f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"
    return Stat(key, status.st_size, etag, datetime.fromtimestamp(status.st_mtime, UTC))


def there(store: Store) -> Store:
    """The store itself. NotFound (kind ``no-folder``) if it is of a folder that is not there.

    For stores that others fill: a folder that is gone is a disk that is not mounted, or a slip of
    the pen, and not "nothing new".
    """
    root = getattr(store, "root", None)
    if root is not None and not Path(root).is_dir():
        raise NotFound(
            f"there is no folder {store.url}",
            kind="no-folder",
            hint="mount or make it, or mend its URL",
        )
    return store


def not_made(folder: Path, error: OSError) -> CatchmentError:
    """Why a folder cannot be made or entered: in terms of the first one on the way that is none."""
    if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST):
        return failure(error, str(folder))
    way = (*reversed(folder.parents), folder)
    first = next((one for one in way if not one.is_dir()), folder)
    return Invalid(
        f"{first} is a file, expected a folder"
        if first.is_file()
        else f"{first} cannot be made: {error.strerror}",
        kind="folder-unusable",
        hint="name a folder that is there, or may be made",
    )


def inside(one: Store, other: Store) -> bool:
    """Whether a store lies in another, or is it."""
    return _place(one).startswith(_place(other))


def overlap(one: Store, other: Store, prefix: str = "") -> bool:
    """Whether a store lies in another, or in what is below a prefix of it, or the reverse."""
    first, second = _place(one), _place(other) + prefix
    return first.startswith(second) or second.startswith(first)


def _place(store: Store) -> str:
    """Where it is, whatever links lead there."""
    root = getattr(store, "root", None)
    return f"{store.url if root is None else Path(root).resolve()}".rstrip("/") + "/"

"""Intake: an upload's bytes become members, each known by its digest. Untrusted: call in a child.

Nothing of an upload is kept before all of it was looked at: first its names, then every byte of
every member (size, ratio, checksum, digest), and only then are members written. One that may hold
line-level data condemns the whole upload, of which then nothing is kept.
"""

from __future__ import annotations

import hashlib
import io
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from catchment.core.errors import Conflict, Invalid
from catchment.core.store import Store
from catchment.core.store_file import StoreFile
from catchment.studies import layout, route
from catchment.studies.model import Kind, Problem

CHUNK = 1 << 20
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
_LINES = re.compile(re.escape(route.LINES), re.IGNORECASE)
_ENCRYPTED = 0x1
_END = 22  # bytes of a zip without members


class Bounds(NamedTuple):
    """What one upload may be.

    Attributes:
        upload: bytes as they came.
        members: of a zip.
        member: bytes of one member.
        total: bytes of all members.
        ratio: bytes of a member for each byte that it has in the zip; small ones are let pass.
    """

    upload: int = 2 << 30
    members: int = 2000
    member: int = 1 << 30
    total: int = 4 << 30
    ratio: int = 200


DEFAULT_BOUNDS = Bounds()
SMALL = 1 << 20  # bytes below which the ratio says nothing


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an upload. ``kept`` is its key; None where it must not be kept."""

    name: str
    kind: Kind
    package: str
    size: int
    digest: str
    kept: str | None
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Intake:
    """What an upload holds, and the digest of its bytes."""

    size: int
    digest: str
    members: tuple[Member, ...]


class _Refused(Exception):
    """The upload is refused as a whole."""

    def __init__(self, problem: Problem, *, keep: bool = True) -> None:
        super().__init__(problem.code)
        self.problem = problem
        self.keep = keep


def take_in(
    store: Store, key: str, *, study: str, site: str, filename: str, bounds: Bounds = DEFAULT_BOUNDS
) -> Intake:
    """Look at the staged upload ``key``, keep its members, and tell what they are.

    Doing it again gives the same result. Raises only what the store raises: what is wrong with the
    upload is a problem of a member, or of the one member that stands for a refused upload.
    """
    size, digest, lines = _scan(store, key)
    kept = layout.kept(study, site, digest)
    try:
        if lines:
            raise _line_level(filename)
        if size > bounds.upload:
            raise _Refused(
                Problem(
                    "upload-too-large",
                    f"expected at most {bounds.upload:,} bytes, got {size:,}; nothing was kept",
                    "send fewer packages at once",
                ),
                keep=False,
            )
        head = store.read(key, length=4)
        if head in _MAGIC:
            members = _unzip(store, key, size, (study, site), bounds)
        elif filename.lower().endswith(".zip"):
            raise _zip(
                "zip-unreadable",
                "the file is called .zip, and is none: it may be empty or cut off",
                "make the zip again and send it again",
            )
        else:
            members = (_bare(filename, size, digest, (study, site)),)
            _keep(store, study, site, digest, store.stream(key))
        return Intake(size, digest, members)
    except _Refused as refused:
        if refused.keep:
            _keep(store, study, site, digest, store.stream(key))
        place = kept if refused.keep else None
        return Intake(size, digest, (_whole(filename, size, digest, place, refused.problem),))


def refuse(
    store: Store, key: str, *, study: str, site: str, filename: str, problem: Problem
) -> Intake:
    """An upload that nobody could look into. It is kept unless it names line-level data."""
    size, digest, lines = _scan(store, key)
    kept = None if lines else layout.kept(study, site, digest)
    if kept is not None:
        _keep(store, study, site, digest, store.stream(key))
    return Intake(size, digest, (_whole(filename, size, digest, kept, problem),))


def _whole(name: str, size: int, digest: str, kept: str | None, problem: Problem) -> Member:
    return Member(name, Kind.UPLOAD, "", size, digest, kept, problem)


def _scan(store: Store, key: str) -> tuple[int, str, bool]:
    """Size, digest, and whether a name of line-level data stands anywhere in the bytes.

    Names are never compressed in a zip, so this finds members that a crafted directory hides.
    """
    seen, size, lines, tail = hashlib.sha256(), 0, False, b""
    for chunk in store.stream(key):
        seen.update(chunk)
        size += len(chunk)
        lines = lines or bool(_LINES.search(tail + chunk))
        tail = (tail + chunk)[-len(route.LINES) :]  # chunks may be shorter than the name
    return size, f"sha256:{seen.hexdigest()}", lines


def _bare(filename: str, size: int, digest: str, place: tuple[str, str]) -> Member:
    study, site = place
    kind, package, problem = route.route(study, filename)
    if kind is Kind.LINES:
        raise _line_level(filename)
    return Member(filename, kind, package, size, digest, layout.kept(study, site, digest), problem)


def _unzip(
    store: Store, key: str, size: int, place: tuple[str, str], bounds: Bounds
) -> tuple[Member, ...]:
    study, site = place
    if size <= _END:
        raise _empty()
    with io.BufferedReader(StoreFile(store, key, size), CHUNK) as file:
        try:
            archive = zipfile.ZipFile(file)
            infos = archive.infolist()
            routes = _check_names(infos, study, bounds)
            found = _check_members(archive, infos, bounds)
            for info, (_, digest) in zip(infos, found, strict=True):
                _keep(store, study, site, digest, _chunks(archive, info))
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
            raise _Refused(
                Problem(
                    "zip-unreadable",
                    f"the zip is damaged or not a plain one ({type(error).__name__})",
                    "make the zip again and send it again",
                )
            ) from None
    return tuple(
        Member(i.filename, r.kind, r.package, n, d, layout.kept(study, site, d), r.problem)
        for i, r, (n, d) in zip(infos, routes, found, strict=True)
    )


def _check_names(infos: list[zipfile.ZipInfo], study: str, bounds: Bounds) -> list[route.Route]:
    """The route of each member, all of whose names and declared sizes are well."""
    if not infos:
        raise _empty()
    if len(infos) > bounds.members:
        raise _zip(
            "zip-too-large",
            f"expected at most {bounds.members:,} members, got {len(infos):,}",
            "send the study in several zips",
        )
    routes = []
    seen: set[str] = set()
    for info in infos:
        name = info.filename
        if name.lower().endswith(route.LINES.decode()):
            raise _line_level("the zip")
        try:
            layout.check_file(name)
        except Invalid as error:
            raise _zip("zip-bad-name", f"a member has {error.message}", error.hint) from None
        if name.lower() in seen:
            raise _zip(
                "zip-bad-name",
                "two members have the same name, or differ by upper and lower case only",
                "give each member a name of its own",
            )
        seen.add(name.lower())
        mode = info.external_attr >> 16
        if info.flag_bits & _ENCRYPTED or info.compress_type not in _METHODS or stat.S_ISLNK(mode):
            raise _zip(
                "zip-unreadable",
                "a member is encrypted, a link, or compressed in an unusual way",
                "make a plain zip: stored or deflated files, no password",
            )
        routes.append(route.route(study, name))
    return routes


def _check_members(
    archive: zipfile.ZipFile, infos: list[zipfile.ZipInfo], bounds: Bounds
) -> list[tuple[int, str]]:
    """Bytes, counted as they come, and digest of each member."""
    found, total = [], 0
    for info in infos:
        seen, size, tail, nested = hashlib.sha256(), 0, b"", False
        most = bounds.member
        if bounds.ratio:
            most = min(most, max(SMALL, bounds.ratio * info.compress_size))
        for chunk in _chunks(archive, info):
            nested |= not size and chunk[:4] in _MAGIC
            seen.update(chunk)
            size += len(chunk)
            total += len(chunk)
            if size > most or total > bounds.total:
                raise _zip(
                    "zip-too-large",
                    f"a member unpacks to more than {most:,} bytes, or all of them to more than "
                    f"{bounds.total:,}",
                    "send fewer or smaller packages at once",
                )
            if _LINES.search(tail + chunk):
                raise _line_level("the zip")
            tail = (tail + chunk)[-len(route.LINES) :]
        if nested:
            # What is in it was not looked at, so nothing of it may be kept.
            raise _Refused(
                Problem(
                    "zip-nested",
                    "a member is itself a zip",
                    "send the study's files in one plain zip",
                ),
                keep=False,
            )
        found.append((size, f"sha256:{seen.hexdigest()}"))
    return found


def _chunks(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    with archive.open(info) as member:
        while chunk := member.read(CHUNK):
            yield chunk


def _keep(store: Store, study: str, site: str, digest: str, chunks: Iterable[bytes]) -> None:
    """Keep bytes under their digest, if they are those that it was made of.

    Conflict (kind ``upload-moved``) if they are others: nothing is kept then.
    """
    try:
        store.put(layout.kept(study, site, digest), _checked(chunks, digest))
    except Conflict as error:
        if error.kind != "key-taken":  # the same bytes are there already
            raise


def _checked(chunks: Iterable[bytes], digest: str) -> Iterator[bytes]:
    seen = hashlib.sha256()
    for chunk in chunks:
        seen.update(chunk)
        yield chunk
    if f"sha256:{seen.hexdigest()}" != digest:
        raise Conflict(
            "the upload was replaced while it was looked at",
            kind="upload-moved",
            hint="it is looked at again; there is no need to send it again",
        )


def _zip(code: str, message: str, hint: str) -> _Refused:
    return _Refused(Problem(code, message, hint))


def _empty() -> _Refused:
    return _zip("zip-empty", "the zip has no members", "send a zip with the study's files")


def _line_level(what: str) -> _Refused:
    return _Refused(
        Problem(
            "line-level-refused",
            f"{what} holds or may hold line-level data (.archive.parquet), so nothing of it was "
            "kept",
            "export the study without its archive tables, and send that",
        ),
        keep=False,
    )

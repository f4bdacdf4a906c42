"""Keys of the dashboard API: what each may read; and who read what."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from catchment.core.errors import Conflict, Invalid, NotFound
from catchment.core.ledger.ledger import Ledger
from catchment.core.ledger.schema import api_keys, reads
from catchment.core.names import check_name, shown


@dataclass(frozen=True, slots=True)
class Key:
    """What a key may read. An empty sequence of studies or sites stands for all of them."""

    name: str
    studies: Sequence[str]
    sites: Sequence[str]
    created_at: datetime


class Read(NamedTuple):
    """One request: when, by which key, for what, and how it was answered."""

    at: datetime
    key: str
    path: str
    status: int


_ADD = "catchment key add NAME --scope study:STUDY"


def scopes(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Studies and sites of ``study:NAME``, ``site:NAME`` and ``all``; empty means all of them.

    Invalid (kind ``bad-scope``) for anything else, or if nothing is given.
    """
    found: dict[str, list[str]] = {"study": [], "site": []}
    for text in texts:
        kind, _, name = text.partition(":")
        if kind in found and name:
            found[kind].append(check_name(name, kind))
        elif text != "all":
            raise Invalid(
                f"expected study:NAME, site:NAME or all, got {shown(text)}",
                kind="bad-scope",
                hint=_ADD,
            )
    if not texts or ("all" in texts and len(texts) > 1):
        raise Invalid(
            "expected `all`, or studies and sites, as scopes", kind="bad-scope", hint=_ADD
        )
    return sorted(set(found["study"])), sorted(set(found["site"]))


def digest(token: str) -> str:
    """What is kept of a token: it is random, so that a plain hash cannot be guessed back."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


class Keys:
    """The keys of a workspace. Each verb that writes is one transaction, as the ledger's are."""

    def __init__(self, ledger: Ledger) -> None:
        self._database = ledger._database  # noqa: SLF001 - of one package
        self.now = ledger._now  # noqa: SLF001 - the same

    def add(self, name: str, token: str, studies: Sequence[str], sites: Sequence[str]) -> Key:
        """A new key. Conflict (kind ``key-taken``) if there is one of this name already."""
        check_name(name, "key")
        made = Key(name, tuple(studies), tuple(sites), self.now())

        def work(c: sa.Connection) -> Key:
            query = sa.select(api_keys.c.digest).where(api_keys.c.name == name)
            there = c.scalar(query)
            if there is None:
                row = {"name": name, "digest": digest(token), "created_at": made.created_at}
                scope = {"studies": list(studies), "sites": list(sites)}
                c.execute(sa.insert(api_keys), row | scope)
            elif there != digest(token):  # it is there if an answer was lost
                raise Conflict(
                    f"there is a key {name!r} already",
                    kind="key-taken",
                    hint=f"catchment key remove {name}, or choose another name",
                )
            return made

        return self._database.write(work)

    def remove(self, name: str) -> None:
        """It opens nothing any more, at once. NotFound (kind ``no-key``)."""
        seen: list[str] = []  # by an attempt whose answer was lost

        def work(c: sa.Connection) -> None:
            gone = c.execute(sa.delete(api_keys).where(api_keys.c.name == name)).rowcount
            if not gone and not seen:
                raise NotFound(
                    f"there is no key {shown(name)}", kind="no-key", hint="catchment key list"
                )
            seen.append(name)

        self._database.write(work)

    def listed(self) -> list[Key]:
        """All keys, by name."""
        query = sa.select(api_keys).order_by(api_keys.c.name)
        return self._database.read(lambda c: [_key(row) for row in c.execute(query)])

    def find(self, token: str) -> Key | None:
        """The key of a token, or None."""
        query = sa.select(api_keys).where(api_keys.c.digest == digest(token))

        def work(c: sa.Connection) -> Key | None:
            row = c.execute(query).first()
            return None if row is None else _key(row)

        return self._database.read(work)

    def note(self, read: Sequence[Read]) -> None:
        """Keep who read what, for ever."""
        if read:
            rows = [one._asdict() for one in read]
            self._database.write(lambda c: c.execute(sa.insert(reads), rows), again=False)

    def reads(self, name: str | None = None, limit: int = 1000) -> list[Read]:
        """Who read what, the latest first; of one key, or of all."""
        wanted = sa.true() if name is None else reads.c.key == name
        columns = (reads.c.at, reads.c.key, reads.c.path, reads.c.status)
        query = sa.select(*columns).where(wanted).order_by(reads.c.id.desc()).limit(limit)
        return self._database.read(lambda c: [Read(*row) for row in c.execute(query)])


def _key(row: Any) -> Key:
    return Key(row.name, tuple(row.studies), tuple(row.sites), row.created_at)

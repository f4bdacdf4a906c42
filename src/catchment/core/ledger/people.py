"""People who look at the pages: users and their roles, sessions, one-time links, the audit log."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa

from catchment.core.errors import Conflict, Corrupt, Invalid, NotFound
from catchment.core.ledger.access import SITE, check_user
from catchment.core.ledger.keys import digest
from catchment.core.ledger.ledger import Ledger
from catchment.core.ledger.schema import audit, people, sessions, site_users
from catchment.core.names import check_name, shown
from catchment.core.passwords import new_secret

STAFF = ("viewer", "steward", "operator")  # each may do what those before it may
ROLES = (*STAFF, SITE)
LINK = "link"  # a session that is still to be begun, once
FIRST = "first sign-in"  # who comes by a link that names nobody
LINK_LASTS = timedelta(hours=1)
EMPTY = "-"  # the head of an audit log without a line
_HEAD = re.compile("[0-9a-f]{64}")
STATE = "state"  # what a sign-in elsewhere is to come back with

_AUDIT_LOCK = 0x4175646974  # "Audit": writers of the chain take turns on PostgreSQL


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a name and a role here. ``site`` is empty unless the role is ``site``."""

    user: str
    role: str
    site: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Session:
    """Who is signed in: by what (``user``, ``site``, ``oidc``, ``link``), and until when."""

    kind: str
    user: str
    role: str
    site: str
    ends_at: datetime
    data: Mapping[str, Any]


class Deed(NamedTuple):
    """One line of the audit log: who did what to which, with what came of it."""

    id: int
    at: datetime
    user: str
    role: str
    action: str
    target: str
    detail: Mapping[str, Any]


class Chain(NamedTuple):
    """The audit log as a whole: its lines, and the digest of the last, which holds all others."""

    lines: int
    head: str


def check_role(role: str, site: str) -> None:
    """Invalid (kind ``bad-role``) for an unknown role, or a site without or in the wrong place."""
    if role not in ROLES:
        raise Invalid(
            f"expected a role of {', '.join(ROLES)}, got {shown(role)}",
            kind="bad-role",
            hint="catchment user add NAME --role viewer",
        )
    if (role == SITE) != bool(site):
        raise Invalid(
            "a site is given with the role site, and only then",
            kind="bad-role",
            hint="catchment user add NAME --role site --site SITE",
        )
    if site:
        check_name(site, "site")


class People:
    """The people of a workspace. Each verb that writes is one transaction, as the ledger's are."""

    def __init__(self, ledger: Ledger) -> None:
        self._database = ledger._database  # noqa: SLF001 - of one package
        self.now = ledger._now  # noqa: SLF001 - the same

    def add(self, user: str, role: str, hashed: str, site: str = "") -> Person:
        """A new user. Conflict (kind ``user-taken``) if there is one of this name already."""
        check_user(user)
        check_role(role, site)
        made = Person(user, role, site, self.now())
        row = {"user": user, "role": role, "site": site, "created_at": made.created_at}

        def work(c: sa.Connection) -> Person:
            p = people.c
            there = c.scalar(sa.select(p.hash).where(p.user == user))
            taken = c.scalar(sa.select(site_users.c.user).where(site_users.c.user == user))
            if taken is not None or there not in {None, hashed}:
                raise Conflict(
                    f"there is a user {shown(user)} already",
                    kind="user-taken",
                    hint="catchment user list, or catchment site list",
                )
            if there is None:  # it is there if an answer was lost
                c.execute(sa.insert(people), row | {"hash": hashed})
            return made

        return self._database.write(work)

    def change(
        self, user: str, *, role: str | None = None, site: str = "", hashed: str | None = None
    ) -> Person:
        """Another role or another password; the user's sessions end. NotFound (``no-person``)."""
        values: dict[str, Any] = {} if hashed is None else {"hash": hashed}
        if role is not None:
            check_role(role, site)
            values |= {"role": role, "site": site}

        def work(c: sa.Connection) -> Person:
            p = people.c
            if not c.execute(sa.update(people).where(p.user == user).values(values)).rowcount:
                raise _nobody(user)
            _end(c, user)
            return _person(c.execute(sa.select(people).where(p.user == user)).one())

        return self._database.write(work)

    def remove(self, user: str) -> None:
        """Take all rights from a user, at once. NotFound (kind ``no-person``)."""
        seen: list[str] = []  # by an attempt whose answer was lost

        def work(c: sa.Connection) -> None:
            gone = c.execute(sa.delete(people).where(people.c.user == user)).rowcount
            if not gone and not seen:
                raise _nobody(user)
            seen.append(user)
            _end(c, user)

        self._database.write(work)

    def listed(self) -> list[Person]:
        """All users, by name."""
        query = sa.select(people).order_by(people.c.user)
        return self._database.read(lambda c: [_person(row) for row in c.execute(query)])

    def find(self, user: str) -> tuple[Person, str] | None:
        """The user and the hash of the password; None if there is no such user."""
        query = sa.select(people).where(people.c.user == user)

        def work(c: sa.Connection) -> tuple[Person, str] | None:
            row = c.execute(query).first()
            return None if row is None else (_person(row), row.hash)

        return self._database.read(work)

    # Sessions

    def begin(
        self,
        token: str,
        kind: str,
        user: str,
        role: str,
        site: str = "",
        *,
        lasts: timedelta,
        data: Mapping[str, Any] | None = None,
    ) -> Session:
        """Keep a session under a random token, of which only a digest is kept.

        Sessions that are over are forgotten on the way.
        """
        at = self.now()
        made = Session(kind, user, role, site, at + lasts, dict(data or {}))
        row = {"digest": digest(token), "kind": kind, "user": user, "role": role, "site": site}

        def work(c: sa.Connection) -> Session:
            s = sessions.c
            c.execute(sa.delete(sessions).where(s.ends_at <= at))
            c.execute(sa.delete(sessions).where(s.digest == row["digest"]))
            more = {"created_at": at, "ends_at": made.ends_at, "data": made.data}
            c.execute(sa.insert(sessions), row | more)
            return made

        return self._database.write(work)

    def link(self, role: str = "operator", user: str = FIRST) -> str:
        """The token of a link that signs in once, within an hour."""
        check_role(role, "")
        token = new_secret()
        self.begin(token, LINK, user, role, lasts=LINK_LASTS)
        return token

    def session(self, token: str) -> Session | None:
        """Who is signed in by a token now, with the rights that they have now; None: nobody."""
        at = self.now()

        def work(c: sa.Connection) -> Session | None:
            found = _session(c, token, at)
            if found is None or found.kind in {LINK, STATE}:
                return None
            if found.kind == "user":
                row = c.execute(sa.select(people).where(people.c.user == found.user)).first()
                return None if row is None else _with(found, row.role, row.site)
            if found.kind == SITE:
                t = site_users.c
                site = c.scalar(sa.select(t.site).where(t.user == found.user))
                return _with(found, SITE, site) if site else None
            return found

        return self._database.read(work)

    def take(self, token: str, kind: str) -> Session | None:
        """A link or a state, which is used up by this; None if there is none."""
        at = self.now()

        def work(c: sa.Connection) -> Session | None:
            found = _session(c, token, at)
            if found is None or found.kind != kind:
                return None
            gone = c.execute(sa.delete(sessions).where(sessions.c.digest == digest(token)))
            return found if gone.rowcount else None

        return self._database.write(work, again=False)

    def peek(self, token: str, kind: str) -> bool:
        """Whether there is such a link, unused."""
        at = self.now()
        found = self._database.read(lambda c: _session(c, token, at))
        return found is not None and found.kind == kind

    def end(self, token: str) -> None:
        """Sign out."""
        query = sa.delete(sessions).where(sessions.c.digest == digest(token))
        self._database.write(lambda c: c.execute(query))

    # Audit

    def note(
        self,
        user: str,
        role: str,
        action: str,
        target: str = "",
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Add a line to the audit log; each holds the digest of the one before."""
        row: dict[str, Any] = {
            "at": self.now(),
            "user": user,
            "role": role,
            "action": action,
            "target": target,
            "detail": dict(detail or {}),
        }

        def work(c: sa.Connection) -> None:
            if c.dialect.name == "postgresql":
                c.execute(sa.select(sa.func.pg_advisory_xact_lock(_AUDIT_LOCK)))
            a = audit.c
            before = c.scalar(sa.select(a.digest).order_by(a.id.desc()).limit(1)) or ""
            c.execute(sa.insert(audit), row | {"digest": _chained(before, row)})

        self._database.write(work, again=False)

    def deeds(self, *, before: int | None = None, limit: int = 100) -> list[Deed]:
        """The audit log, the latest first; ``before`` is the id that a page goes on behind."""
        a = audit.c
        query = sa.select(*(a[name] for name in Deed._fields)).order_by(a.id.desc()).limit(limit)
        if before is not None:
            query = query.where(a.id < before)
        return self._database.read(lambda c: [Deed(*row) for row in c.execute(query)])

    def check_audit(self, head: str | None = None) -> Chain:
        """How long the audit log is, and its head: what proves later that no line went missing.

        Corrupt (kind ``audit-broken``) if a line was changed, removed or put between, and if a head
        that was told before is not in it, as when the last lines were cut off. Invalid (kind
        ``bad-head``) for what can be no head; that of an empty log is ``-``.
        """
        wanted = None if head is None else head.strip().lower()
        if wanted is not None and wanted != EMPTY and not _HEAD.fullmatch(wanted):
            raise Invalid(
                f"expected the head of an audit log, 64 hexadecimal digits or {EMPTY}, "
                f"got {shown(wanted)}",
                kind="bad-head",
                hint="catchment verify --audit tells it",
            )

        def work(c: sa.Connection) -> Chain:
            before, count, seen = "", 0, wanted in {None, EMPTY}
            for row in c.execute(sa.select(audit).order_by(audit.c.id)):
                told = {name: getattr(row, name) for name in Deed._fields if name != "id"}
                before, count = _chained(before, told), count + 1
                if before != row.digest:
                    raise _broken(f"line {row.id} of the audit log does not follow from the others")
                seen = seen or before == wanted
            if not seen:
                raise _broken(f"the audit log ends at line {count}, before the head that was given")
            return Chain(count, before)

        return self._database.read(work)


def _broken(what: str) -> Corrupt:
    return Corrupt(what, kind="audit-broken", hint="compare the ledger with a backup of it")


def _chained(before: str, row: Mapping[str, Any]) -> str:
    told = [before, row["at"].isoformat(), *(row[n] for n in ("user", "role", "action", "target"))]
    text = json.dumps([*told, row["detail"]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _session(c: sa.Connection, token: str, at: datetime) -> Session | None:
    s = sessions.c
    wanted = (s.digest == digest(token)) & (s.ends_at > at)
    columns = (s.kind, s.user, s.role, s.site, s.ends_at, s.data)
    row = c.execute(sa.select(*columns).where(wanted)).first()
    return None if row is None else Session(*row)


def _with(session: Session, role: str, site: str) -> Session:
    return Session(session.kind, session.user, role, site, session.ends_at, session.data)


def _end(c: sa.Connection, user: str) -> None:
    c.execute(sa.delete(sessions).where(sessions.c.kind == "user", sessions.c.user == user))


def _person(row: Any) -> Person:
    return Person(row.user, row.role, row.site, row.created_at)


def _nobody(user: str) -> NotFound:
    return NotFound(f"there is no user {shown(user)}", kind="no-person", hint="catchment user list")

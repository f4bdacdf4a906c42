"""Who may upload: users of sites and the hashes of their secrets, beside the ledger's rows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from catchment.core.errors import Conflict, Invalid, NotFound
from catchment.core.ledger.database import upsert
from catchment.core.ledger.ledger import Ledger
from catchment.core.ledger.schema import sessions, site_secrets, site_users
from catchment.core.names import check_name, shown

SITE = "site"  # the role, and the sessions, of who sees one site and nothing else
USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,62}")


@dataclass(frozen=True, slots=True)
class Secret:
    """What is known of a secret: never the secret, nor its hash."""

    created_at: datetime
    ends_at: datetime | None  # None: it is good until it is replaced


@dataclass(frozen=True, slots=True)
class SiteUser:
    """Somebody who uploads for one site."""

    user: str
    site: str
    created_at: datetime
    secrets: tuple[Secret, ...]  # those that are good now, the oldest first


def check_user(user: str) -> str:
    """The name itself, if a user may have it; Invalid (kind ``bad-name``) otherwise."""
    if not USER.fullmatch(user):
        raise Invalid(
            f"not a usable user: expected a letter or digit, then up to 62 of A-Z a-z 0-9 _ . @ -, "
            f"got {shown(user)}",
            kind="bad-name",
            hint="choose another user name",
        )
    return user


class Access:
    """The users of a workspace. Each verb that writes is one transaction, as the ledger's are."""

    def __init__(self, ledger: Ledger) -> None:
        self._database = ledger._database  # noqa: SLF001 - of one package
        self._now = ledger._now  # noqa: SLF001 - the same

    def add(self, site: str, user: str, hashed: str) -> SiteUser:
        """Let a user upload for a site. Conflict (kind ``user-taken``) if there is one already."""
        check_name(site, "site")
        check_user(user)
        at = self._now()

        def work(c: sa.Connection) -> SiteUser:
            row = {"user": user, "site": site, "created_at": at}
            new = c.scalar(
                upsert(c, site_users).on_conflict_do_nothing().returning(site_users.c.user), row
            )
            if new is not None:
                _insert(c, user, hashed, at)
            elif hashed not in _good(c, user, at):  # it is there if an answer was lost
                raise Conflict(
                    f"there is a user {shown(user)} already",
                    kind="user-taken",
                    hint=f"catchment site rotate {user}, or choose another name",
                )
            return _users(c, at, site_users.c.user == user)[0]

        return self._database.write(work)

    def rotate(self, user: str, hashed: str, keep: timedelta) -> SiteUser:
        """A new secret; the one before stays good for a while, those before it do not.

        Sessions in browsers end with it. NotFound (kind ``no-user``).
        """
        at = self._now()

        def work(c: sa.Connection) -> SiteUser:
            _lock(c, user)
            t = site_secrets.c
            if hashed not in _good(c, user, at):
                last = c.scalar(sa.select(sa.func.max(t.id)).where(t.user == user))
                c.execute(sa.delete(site_secrets).where(t.user == user, t.id != last))
                query = sa.update(site_secrets).where(t.id == last)
                c.execute(query.values(ends_at=at + keep))
                s = sessions.c
                theirs = (s.kind == SITE) & (s.user == user) & (s.ends_at > at + keep)
                c.execute(sa.update(sessions).where(theirs).values(ends_at=at + keep))
                _insert(c, user, hashed, at)
            return _users(c, at, site_users.c.user == user)[0]

        return self._database.write(work)

    def remove(self, user: str) -> None:
        """Take all rights from a user, at once. NotFound (kind ``no-user``)."""
        seen: list[str] = []  # by an attempt whose answer was lost

        def work(c: sa.Connection) -> None:
            if not seen:
                _lock(c, user)
            seen.append(user)
            c.execute(sa.delete(site_users).where(site_users.c.user == user))

        self._database.write(work)

    def users(self, site: str | None = None) -> list[SiteUser]:
        """The users, of one site or of all, by site and name."""
        at = self._now()
        wanted = sa.true() if site is None else site_users.c.site == site
        return self._database.read(lambda c: _users(c, at, wanted))

    def hashes(self, user: str) -> tuple[str, list[str]]:
        """The user's site, and the hashes that are good now; empty for a user who is none."""
        at = self._now()

        def work(c: sa.Connection) -> tuple[str, list[str]]:
            site = c.scalar(sa.select(site_users.c.site).where(site_users.c.user == user))
            return site or "", _good(c, user, at)

        return self._database.read(work) if USER.fullmatch(user) else ("", [])


def _lock(c: sa.Connection, user: str) -> None:
    query = sa.select(site_users.c.user).where(site_users.c.user == user).with_for_update()
    if c.scalar(query) is None:
        raise NotFound(
            f"there is no user {shown(user)}", kind="no-user", hint="catchment site list"
        )


def _insert(c: sa.Connection, user: str, hashed: str, at: datetime) -> None:
    c.execute(sa.insert(site_secrets), {"user": user, "hash": hashed, "created_at": at})


def _good(c: sa.Connection, user: str, at: datetime) -> list[str]:
    t = site_secrets.c
    alive = sa.or_(t.ends_at.is_(None), t.ends_at > at)
    return list(c.scalars(sa.select(t.hash).where(t.user == user, alive).order_by(t.id.desc())))


def _users(c: sa.Connection, at: datetime, wanted: Any) -> list[SiteUser]:
    users, t = site_users.c, site_secrets.c
    good = sa.and_(t.user == users.user, sa.or_(t.ends_at.is_(None), t.ends_at > at))
    columns = (users.user, users.site, users.created_at, t.created_at.label("made"), t.ends_at)
    query = sa.select(*columns).select_from(site_users.outerjoin(site_secrets, good)).where(wanted)
    found: dict[str, SiteUser] = {}
    for r in c.execute(query.order_by(users.site, users.user, t.id)):
        known = found.get(r.user)
        secrets = known.secrets if known else ()
        if r.made is not None:
            secrets = (*secrets, Secret(r.made, r.ends_at))
        found[r.user] = SiteUser(r.user, r.site, r.created_at, secrets)
    return list(found.values())

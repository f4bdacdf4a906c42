"""Who asks: sites by HTTP Basic, in a time that tells nothing, with a limit on failures."""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from fastapi import Request
from fastapi.security import HTTPBasic, HTTPBasicCredentials

from catchment.core import passwords
from catchment.core.errors import Invalid, Unavailable
from catchment.core.ledger.access import Access
from catchment.core.ledger.failures import FailedLogins
from catchment.core.ledger.ledger import Ledger

FAILURES = 10  # a minute, of one address with one user name
FAILURES_OF_ADDRESS = 60  # a minute, of one address with any
TURNS = 64  # logins that are looked at beside each other, of different users
REMEMBERED = 1000  # logins that need not be hashed again

log = logging.getLogger(__name__)

basic = HTTPBasic(realm="catchment", description="User and secret of a site.", auto_error=False)


class Site(NamedTuple):
    """Who asks, as the credentials say: nothing of it is taken from the request."""

    user: str
    site: str


class Unauthorized(Invalid):
    """Nobody whom we know, or not with this secret."""

    kind = "unauthorized"
    status_code = 401
    challenge = 'Basic realm="catchment", charset="UTF-8"'  # RFC 9110, section 11.6.1


class TooMany(Unavailable):
    """Too many failures: no secret is looked at for a while."""

    kind = "too-many-failures"
    status_code = 429


def address_of(request: Request) -> str:
    """Where a request comes from; of IPv6 the network, as who has one address has all of it."""
    host = request.client.host if request.client else ""
    with suppress(ValueError):
        found = ipaddress.ip_address(host)
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is None:
            return str(ipaddress.ip_network((int(found), 64), strict=False))
    return host


class Failures:
    """Counts logins that failed, by address and user: too many, and no secret is looked at.

    All processes that serve a workspace count together. The turns are of one process: of many, as
    many guesses more may be looked at as there are processes.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._failed = FailedLogins(ledger)
        self._turns = [threading.Lock() for _ in range(TURNS)]

    @contextmanager
    def turn(self, address: str, user: str) -> Iterator[None]:
        """One login of a user at a time: many at once are looked at no more than many in a row.

        TooMany, if too many failed.
        """
        with self._turns[hash((address, user)) % TURNS]:
            counted = self._failed.count(address, user)
            if counted.own >= FAILURES or counted.address >= FAILURES_OF_ADDRESS:
                raise TooMany("too many failed logins", hint="wait a minute, then try again")
            yield

    def count(self, address: str, user: str) -> None:
        """One more."""
        self._failed.note(address, user)
        log.warning("failed login from %s", address)


class Login:
    """Tells who asks. A good login costs one hash the first time, then a look into the ledger."""

    def __init__(self, ledger: Ledger, failures: Failures | None = None) -> None:
        self._access = Access(ledger)
        self._failures = failures or Failures(ledger)
        self._salt = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, str] = OrderedDict()  # login -> the hash that it matched
        self._lock = threading.Lock()

    def site(self, request: Request, credentials: HTTPBasicCredentials | None) -> Site:
        """The site whose credentials these are; Unauthorized or TooMany otherwise."""
        address = address_of(request)
        user = credentials.username[:200] if credentials else ""
        with self._failures.turn(address, user):
            site = self.check(user, credentials.password) if credentials else ""
            if not site:
                self._failures.count(address, user)
                raise Unauthorized(
                    "expected the user and the secret of a site",
                    hint="ask the coordinating center for new credentials",
                )
        return Site(user, site)

    def check(self, user: str, secret: str) -> str:
        """The site of the user, if this is one of the secrets; empty otherwise."""
        site, hashes = self._access.hashes(user)
        said = f"{user}\n{secret}".encode(errors="replace")
        login = hashlib.blake2b(said, key=self._salt).digest()
        with self._lock:
            known = self._known.get(login)
        if known is not None and known in hashes:
            return site
        if len(secret) > passwords.MAX_LENGTH:
            secret = ""
        matched = passwords.match(secret, hashes)
        if matched is None:
            return ""
        with self._lock:
            self._known[login] = matched
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return site

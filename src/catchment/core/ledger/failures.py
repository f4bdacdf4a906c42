"""Logins that failed of late: counted by all processes that serve, wherever they run.

Kept beside the sessions, for a minute each; of who tried, only a digest and the address.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa

from catchment.core.ledger.keys import digest
from catchment.core.ledger.ledger import Ledger
from catchment.core.ledger.schema import sessions
from catchment.core.passwords import new_secret

FAILED = "failed"  # the kind of such a row: it opens nothing
WINDOW = timedelta(minutes=1)

_S = sessions.c


class Counted(NamedTuple):
    """Failures of the last minute: of one address with one user, and of the address with any."""

    own: int
    address: int


class FailedLogins:
    """The failed logins of a workspace."""

    def __init__(self, ledger: Ledger) -> None:
        self._database = ledger._database  # noqa: SLF001 - of one package
        self._now = ledger._now  # noqa: SLF001 - the same

    def count(self, address: str, user: str) -> Counted:
        """How many there were in the last minute."""
        wanted = (_S.kind == FAILED, _S.ends_at > self._now(), _S.site == address)
        own = sa.func.count(1).filter(_S.user == _who(address, user))
        query = sa.select(own, sa.func.count(1)).where(*wanted)
        return self._database.read(lambda c: Counted(*c.execute(query).one()))

    def note(self, address: str, user: str) -> None:
        """One more. Those that are over are forgotten on the way."""
        at = self._now()
        row: dict[str, Any] = {"kind": FAILED, "user": _who(address, user), "site": address}
        row |= {"digest": digest(new_secret()), "role": "", "data": {}}
        row |= {"created_at": at, "ends_at": at + WINDOW}

        def work(c: sa.Connection) -> None:
            c.execute(sa.delete(sessions).where(_S.kind == FAILED, _S.ends_at <= at))
            c.execute(sa.insert(sessions), row)

        self._database.write(work, again=False)


def _who(address: str, user: str) -> str:
    return digest(f"{address}\n{user}")

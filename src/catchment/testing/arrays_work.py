"""Work with sessions for tasks of an executor: loads nothing until it runs."""

from __future__ import annotations

from catchment.core.safe_child import with_pandas


def append_session(url: str, ledger_url: str, name: str) -> int | None:
    """Append the session of that name that the tests know; its slot."""
    with_pandas()
    from catchment.arrays import api
    from catchment.arrays.stack import Stack
    from catchment.core.ledger import Ledger
    from catchment.core.store import open_store
    from catchment.testing.arrays import make_session

    with Ledger.open(ledger_url) as ledger:
        outcome = api.append(make_session(name, windows=9), Stack(open_store(url), ledger, "x"))
    return outcome.steps[0].slot

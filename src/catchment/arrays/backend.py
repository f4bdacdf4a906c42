"""What a store of sessions can do, whatever keeps it: the stacked store, or Icechunk."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, Protocol

from catchment.arrays.decide import Asked
from catchment.arrays.document import Document
from catchment.arrays.model import Entry, Outcome
from catchment.core.errors import Invalid
from catchment.core.ledger import Ledger
from catchment.core.progress import Progress, silent
from catchment.core.store import Store

if TYPE_CHECKING:
    import xarray as xr

    from catchment.arrays.union import Part
    from catchment.arrays.verify import Verdict

Backend = Literal["zarr", "icechunk"]
BACKENDS = ("zarr", "icechunk")


class Sessions(Protocol):
    """Sessions in slots. Readers see the state of one commit, whatever writers do meanwhile.

    The suite :class:`catchment.testing.arrays_contract.SessionsContract` says what that means.
    """

    store: Store
    progress: Progress

    def writing(self) -> AbstractContextManager[Any]:
        """Hold the lease of writers over many writes."""
        ...

    def append(self, asked: Asked) -> Outcome:
        """Append the sessions: all of them are visible afterwards, or none."""
        ...

    def look(self) -> tuple[Document | None, list[dict[str, Any]]]:
        """The last committed state, and what readers do not see of it yet."""
        ...

    def part(self) -> Part:
        """What readers see now. NotFound (kind ``no-store``) where there is no store."""
        ...

    def dataset(self, *, tombstones: bool = False) -> xr.Dataset:
        """The sessions, lazily, as they are now."""
        ...

    def withdraw(self, session: str) -> tuple[Entry, int]:
        """Delete a session's values and leave a tombstone; NotFound (kind ``no-session``)."""
        ...

    def verify(self, *, repair: bool = False, quick: bool = False) -> Verdict:
        """Compare every session with its digest."""
        ...


def kind_of(store: Store) -> Backend | None:
    """What keeps the sessions of a store; None where there are none."""
    from catchment.arrays import foreign, icechunk_store

    if foreign.kind_of(store):
        return "zarr"
    return "icechunk" if icechunk_store.is_there(store) else None


def open_sessions(
    store: Store,
    ledger: Ledger | None = None,
    progress: Progress = silent,
    backend: Backend | None = None,
) -> Sessions:
    """The sessions of a store, by the back end that keeps them, or shall keep them."""
    from catchment.arrays.icechunk_store import IcechunkStore
    from catchment.arrays.stack import Stack

    if backend not in (None, *BACKENDS):
        raise Invalid(
            f"expected one of {', '.join(BACKENDS)}, got {backend!r}", kind="bad-backend",
            hint="leave --backend out",
        )  # fmt: skip
    found = kind_of(store)
    if found and backend and found != backend:
        raise Invalid(
            f"{found} keeps the sessions of {store.url}, not {backend}", kind="bad-backend",
            hint="leave --backend out, or append to a new store",
        )  # fmt: skip
    if (found or backend) == "icechunk":
        return IcechunkStore(store, ledger, progress=progress)
    return Stack(store, ledger, progress=progress)

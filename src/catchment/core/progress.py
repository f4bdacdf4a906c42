"""Progress is events; somebody else shows them (a terminal, a page, Dagster)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple


class Event(NamedTuple):
    """One step of long work.

    Attributes:
        work: what is going on, a slug that stays the same over its events (``tables/uds: merge``).
        state: ``start``, ``step`` or ``done``.
        done: units finished so far.
        total: units in all; None while unknown.
        unit: what is counted (``centers``, ``bytes``, ``rows``).
        message: a few words for people; no patient's values.
    """

    work: str
    state: Literal["start", "step", "done"] = "step"
    done: int = 0
    total: int | None = None
    unit: str = ""
    message: str = ""


Progress = Callable[[Event], None]


def silent(event: Event) -> None:
    """A listener that shows nothing."""

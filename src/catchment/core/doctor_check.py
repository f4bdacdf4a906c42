"""One thing that ``catchment doctor`` looks at, and how it is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from catchment.core.errors import CatchmentError


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        what: the thing.
        well: nothing needs a person.
        found: what was found.
        hint: what to do about it.
        remedy: mends it, and tells what it did; None where there is nothing to do, or no safe way.
    """

    what: str
    well: bool
    found: str
    hint: str = ""
    remedy: Callable[[], str] | None = None

    def to_json(self) -> dict[str, object]:
        """Plain types, ready for ``json.dumps``."""
        known = {"what": self.what, "well": self.well, "found": self.found, "hint": self.hint}
        return known | {"mends": self.remedy is not None}


def looked(what: str, look: Callable[[], str]) -> Check:
    """What a look found; it raises where something is wrong."""
    try:
        return Check(what, well=True, found=look())
    except CatchmentError as error:
        return Check(what, well=False, found=error.message, hint=error.hint)

"""How numbers, times and states are spelt on pages."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_AGES = ((60, 1, "s"), (3600, 60, "min"), (86_400, 3600, "h"), (86_400 * 60, 86_400, "d"))

# A state is told by a word, a sign and a colour: never by the colour alone.
_GOOD = ("good", "●")
_CALM = ("calm", "○")
_BUSY = ("busy", "◐")
_WARN = ("warn", "▲")
_BAD = ("bad", "■")
_STATES = {
    **dict.fromkeys(
        ("published", "latest", "last_valid", "ingested", "present", "merged", "success", "good"),
        _GOOD,
    ),
    **dict.fromkeys(("running", "processing", "received", "finished", "open", "busy"), _BUSY),
    **dict.fromkeys(("failed", "error", "quarantined", "refused", "abandoned", "bad"), _BAD),
    **dict.fromkeys(("warning", "cancelled", "conflict", "warn"), _WARN),
}


class State(NamedTuple):
    """How a state looks."""

    tone: str
    sign: str


def state(name: str) -> State:
    """The look of a state of a run, a contribution or a finding."""
    return State(*_STATES.get(name, _CALM))


def instant(value: Any) -> datetime | None:
    """A time, of text or as it is; None for nothing."""
    if not value:
        return None
    found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def ago(value: Any, now: datetime | None = None) -> str:
    """How long ago, in one number: ``5 min``, ``3 d``."""
    at = instant(value)
    if at is None:
        return "never"
    seconds = max(0, int(((now or datetime.now(UTC)) - at).total_seconds()))
    for below, unit, name in _AGES:
        if seconds < below:
            return f"{seconds // unit} {name}"
    months = seconds // (86_400 * 30)
    return f"{months} mo" if months < 24 else f"{months // 12} y"


def when(value: Any) -> str:
    """A time to the minute, in UTC."""
    at = instant(value)
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"


def day(value: Any) -> str:
    """The day of a time."""
    return when(value)[:10]


def size(value: float | None) -> str:
    """Bytes, in the unit that needs few digits."""
    if value is None:
        return ""
    left = float(value)
    for unit in _UNITS[:-1]:
        if left < 1000:
            return f"{left:.0f} {unit}" if unit == "B" or left >= 100 else f"{left:.1f} {unit}"
        left /= 1000
    return f"{left:.1f} {_UNITS[-1]}"


def number(value: float | None) -> str:
    """Thousands set apart by thin spaces."""
    if value is None:
        return ""
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
    return text.replace(",", "\u202f")


def share(part: float, whole: float) -> str:
    """A percentage; what is not all of it never reads as all of it."""
    if not whole:
        return "—"
    percent = 100 * part / whole
    if part < whole and percent > 99.9:
        return ">99.9 %"
    return f"{percent:.0f} %" if percent in {0, 100} else f"{percent:.1f} %"


def seconds(start: Any, end: Any) -> str:
    """How long something took."""
    begun, ended = instant(start), instant(end)
    if begun is None or ended is None:
        return ""
    took = (ended - begun).total_seconds()
    if took < 10:
        return f"{took:.1f} s"
    return f"{took:.0f} s" if took < 120 else f"{took / 60:.0f} min"


def bar(part: float, whole: float, width: int = 100) -> float:
    """The length of a bar; what is there at all can be seen."""
    if not whole or not part:
        return 0
    return round(max(width * part / whole, width / 100), 2)

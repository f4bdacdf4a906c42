"""What sites are told: counts by reason, never a name or a value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from catchment.core.account import Account, Line
from catchment.core.finding import Finding, Severity
from catchment.core.names import counted
from catchment.imaging.model import State
from catchment.imaging.plan import Came, Fate

if TYPE_CHECKING:
    import pyarrow as pa

HINT = "catchment imaging quarantine lists them; with --seen they are told no more"
CONFLICT = "conflict"
type Standing = dict[str, dict[str, int]]  # files by site and reason

REJECTED = "conflict-rejected"  # by a person, in favour of another file


def tell(
    account: Account,
    reasons: Counter[tuple[str, str]],
    came: Sequence[Came],
    fates: Sequence[Fate],
) -> None:
    """Enter the files of a batch into the account, and count why they were not taken."""
    for one, fate in zip(came, fates, strict=True):
        balance = account[Line(one.site, "files", "files")]
        balance.received += 1
        match fate.state:
            case State.INGESTED:
                balance.kept += 1
            case State.DUPLICATE:
                balance.dropped["duplicate"] += 1
            case State.CONFLICT:
                balance.quarantined[CONFLICT] += 1
                reasons[one.site, CONFLICT] += 1
            case State.QUARANTINED:
                reason = fate.reason or ""
                balance.quarantined[reason] += 1
                reasons[one.site, reason] += 1


def count_odd(odd: Counter[tuple[str, str]], read: pa.Table) -> None:
    """Count values that their columns could not hold, by site and column."""
    import msgspec

    for site, text in zip(read["site"].to_pylist(), read["odd_values"].to_pylist(), strict=True):
        for name in msgspec.json.decode(text) if text else ():
            odd[site, name] += 1


def standing(files: pa.Table) -> Standing:
    """How many files are not published; but for what a person decided, or has seen."""
    import pyarrow.compute as pc

    counts: Standing = {}
    rows = files.filter(pc.is_null(files["seen"])).select(["site", "state", "reason"])
    for row in rows.group_by(rows.column_names).aggregate([([], "count_all")]).to_pylist():
        reason = CONFLICT if row["state"] == State.CONFLICT else row["reason"]
        if row["state"] in (State.CONFLICT, State.QUARANTINED) and reason != REJECTED:
            counts.setdefault(row["site"], {})[reason] = row["count_all"]
    return counts


def summed(parts: Mapping[str, Standing]) -> Counter[tuple[str, str]]:
    """The same of all parts, by site and reason."""
    counts: Counter[tuple[str, str]] = Counter()
    for one in parts.values():
        for site, reasons in one.items():
            for reason, count in reasons.items():
                counts[site, reason] += count
    return counts


def findings(
    reasons: Mapping[tuple[str, str], int],
    standing: Mapping[tuple[str, str], int],
    odd: Mapping[tuple[str, str], int],
) -> Iterator[Finding]:
    """One finding for each site and reason, and for each site and column.

    Args:
        reasons: why files of this run were not published.
        standing: the same, of all files.
        odd: values of this run that their columns could not hold.
    """
    for (site, reason), count in sorted(standing.items()):
        if reason == CONFLICT:
            message = f"{counted(count, 'files')} with a SOPInstanceUID that other bytes claim too"
            hint = "catchment imaging resolve"
        else:
            message = f"{counted(count, 'files')} kept and not published"
            hint = HINT
        new = reasons.get((site, reason), 0)
        told = message if new == count else f"{message}; {new} of them new"
        yield Finding(site, Severity.WARNING, reason, "files", told, hint)
    for (site, name), count in sorted(odd.items()):
        yield Finding(
            site,
            Severity.NOTE,
            "value-odd",
            name,
            f"{counted(count, 'values')} not in the form of their attribute; the column "
            "odd_values has them as they are",
        )

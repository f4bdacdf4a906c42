"""What sites are told: counts by reason, never a name or a value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from catchment.core.account import Account, Line
from catchment.core.finding import Finding, Severity
from catchment.imaging.model import State
from catchment.imaging.plan import Came, Fate

if TYPE_CHECKING:
    import pyarrow as pa

HINT = "catchment imaging quarantine lists them"
CONFLICT = "conflict"
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


def standing(files: Iterable[pa.Table]) -> Counter[tuple[str, str]]:
    """How many files are not published, by site and reason; but for what a person decided."""
    counts: Counter[tuple[str, str]] = Counter()
    for rows in files:
        grouped = rows.group_by(["site", "state", "reason"]).aggregate([([], "count_all")])
        for row in grouped.to_pylist():
            match row["state"]:
                case State.CONFLICT:
                    counts[row["site"], CONFLICT] += row["count_all"]
                case State.QUARANTINED if row["reason"] != REJECTED:
                    counts[row["site"], row["reason"]] += row["count_all"]
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
            message = f"{count} files claim a SOPInstanceUID that other bytes claim too"
            hint = "catchment imaging resolve"
        else:
            message = f"{count} files were kept and not published"
            hint = HINT
        new = reasons.get((site, reason), 0)
        told = message if new == count else f"{message}; {new} of them are new"
        yield Finding(site, Severity.WARNING, reason, "files", told, hint)
    for (site, name), count in sorted(odd.items()):
        yield Finding(
            site,
            Severity.NOTE,
            "value-odd",
            name,
            f"{count} values do not have the form of their attribute; the column odd_values "
            "has them as they are",
        )

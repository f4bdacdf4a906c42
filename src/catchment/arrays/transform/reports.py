"""What a run tells sites of their recordings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from catchment.arrays.transform.model import Session
from catchment.core.errors import CatchmentError, NotFound
from catchment.core.finding import Finding, Severity
from catchment.core.names import counted, shown


def ignored(site: str, count: int, suffixes: Sequence[str]) -> Finding:
    """Files that no transform was asked about."""
    return Finding(
        site,
        Severity.NOTE,
        "files-ignored",
        "source",
        f"{counted(count, 'files')} in no known format of recordings",
        f"recordings end in {', '.join(suffixes)}",
    )


def repeated(session: Session) -> Finding:
    """Names of files may be alike once their folders are spelt with a dash."""
    return Finding(
        session.site,
        Severity.ERROR,
        "session-repeated",
        session.id,
        "another recording has this id, and comes first",
        "rename the file, or let sessions have pseudonyms",
    )


def check_found(asked: Iterable[str], found: Mapping[str, str]) -> None:
    """NotFound (kind ``no-session``) where somebody asked for a recording that there is none of.

    Args:
        asked: ids or keys.
        found: keys of the recordings, by id.
    """
    missing = sorted(set(asked) - found.keys() - set(found.values()))
    if missing:
        raise NotFound(
            f"no recording has the id or key {shown(missing[0])}",
            kind="no-session",
            hint="catchment arrays transform --dry-run --include-processed lists them",
        )


def other_options(name: str, counts: Mapping[str, int]) -> Iterator[Finding]:
    """Sessions, by site, that were done before the options were what they are."""
    for site, count in sorted(counts.items()):
        if count:
            yield Finding(
                site,
                Severity.WARNING,
                "options-differ",
                "options",
                f"{counted(count, 'sessions')} done under other options, left as they are",
                f"catchment arrays transform {name} --reset does all of them again",
            )


def of_error(session: Session, severity: Severity, error: CatchmentError) -> Finding:
    """Why a recording was not taken."""
    return Finding(session.site, severity, error.kind, session.id, error.message, error.hint)

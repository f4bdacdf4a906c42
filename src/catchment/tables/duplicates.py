"""Duplicate rules: which rows of a table's files do not reach the table, and why. Pure decisions.

Two steps, so that the identifiers service is asked once for all tables of a run: :func:`find` reads
the kept keys of a table's files (:mod:`catchment.tables.keys`) and returns the rows that may go,
:func:`decide` settles their fate with the current centers of their participants.

Both rules are one: rows of the same key that stand at more than one center. For a transfer rule the
key is the participant. Rows at the participant's current center stay, the others go. Memory is
bounded by the rows that share a key with another, not by the rows of the table.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Buffer, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from catchment.core.errors import Invalid
from catchment.core.finding import Finding, Severity
from catchment.core.names import counted
from catchment.tables import fill
from catchment.tables.keys import Pairs, read_hashes, read_pairs, read_rows
from catchment.tables.model import (
    Center,
    CriteriaRule,
    Fate,
    OnDuplicate,
    Removal,
    Rule,
    TransferRule,
)
from catchment.tables.repeated import places, repeated

PREFIXES = {"prod": "NACC", "dev": "TEST"}  # of a NACCID, by mode of the identifiers service


class Reason(NamedTuple):
    """Why a row does not reach the table, and what its site is told where it is quarantined."""

    slug: str
    fate: Fate
    says: str = ""
    hint: str = ""


TRANSFERRED = Reason("transferred", Fate.DROPPED)
DUPLICATE = Reason("duplicate", Fate.DROPPED)
NO_CURRENT = Reason(
    "no-current-center",
    Fate.QUARANTINED,
    "of participants that no center has now",
    "settle with the identifiers service which center the participants belong to",
)
SEVERAL_CURRENT = Reason(
    "several-current-centers",
    Fate.QUARANTINED,
    "of participants that several centers have now",
    "settle with the identifiers service which center the participants belong to",
)
ABSENT = Reason(
    "current-center-absent",
    Fate.QUARANTINED,
    "of participants whose current center is another and did not send the rows",
    "ask the current centers to send these participants",
)
MALFORMED = Reason(
    "malformed-naccid",
    Fate.QUARANTINED,
    "whose participant is no NACCID of the run's mode",
    "expected NACC (mode prod) or TEST (mode dev), then 6 digits",
)
MISSING = Reason(
    "missing-naccid",
    Fate.QUARANTINED,
    "without a participant, so that no center is the current one",
    "fill in the NACCIDs",
)
REASONS = (TRANSFERRED, DUPLICATE, NO_CURRENT, SEVERAL_CURRENT, ABSENT, MALFORMED, MISSING)
_KEPT = 0  # a row's verdict; others count in REASONS from 1
_NONE = np.empty(0, np.int64)
_VERDICT = {reason: number for number, reason in enumerate(REASONS, 1)}


class Rows(NamedTuple):
    """Rows that share their key with another, in order of file and row: arrays of one length."""

    file: NDArray[np.int64]
    row: NDArray[np.int64]  # number within the file, from 0
    key: NDArray[np.int64]  # equal numbers, equal keys
    name: NDArray[np.int64]  # number of the participant
    center: NDArray[np.int64]  # ADCID


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Rows of one table that may go.

    Attributes:
        centers: who sent each file.
        names: of the participants, None where there is none; :attr:`Rows.name` counts in it.
        mode: of the identifiers service.
        participants: those whose current centers decide.
    """

    table: str
    rule: Rule
    centers: tuple[Center, ...]
    names: Sequence[str | None]
    rows: Rows
    mode: str
    participants: frozenset[str]


class Decision(NamedTuple):
    """What becomes of a table's rows.

    Attributes:
        removals: of each file; a row is in one of them at most.
        findings: for each site, what was quarantined, and what it sent twice; counts only.
        counts: rows removed, by the reason's slug.
    """

    removals: tuple[tuple[Removal, ...], ...]
    findings: tuple[Finding, ...]
    counts: Mapping[str, int]


def is_naccid(text: str, mode: str) -> bool:
    """Whether it is a NACCID that the identifiers service of a mode can know."""
    return re.fullmatch(f"{PREFIXES[mode]}[0-9]{{6}}", text) is not None


def find(
    table: str,
    rule: Rule,
    centers: Sequence[Center],
    blob: Callable[[int], Buffer],
    *,
    mode: str = "prod",
) -> Candidates:
    """The rows of a table that may go, and the participants to ask for.

    Args:
        table: its name, for findings.
        rule: of the table, the one that the blobs were made for.
        centers: who sent each file, in the table's order of files.
        blob: the kept keys of a file, by its place in ``centers``; called two or three times for
            each, one after the other, and never kept.
        mode: of the identifiers service, ``prod`` or ``dev``.

    Raises Corrupt for a blob that cannot be read, Unavailable (kind ``no-scratch-space``).
    """
    rows, names = Rows(*[_NONE] * 5), list[str | None]()
    if centers and isinstance(rule, TransferRule):
        rows, names = _find_transferred(centers, blob)
    elif centers and isinstance(rule, CriteriaRule) and rule.criteria:
        rows, names = _find_repeated(centers, blob)
    deciding = np.unique(rows.name[_apart(rows) & _by_current(rule)])
    participants = frozenset(n for i in deciding if (n := names[i]) and is_naccid(n, mode))
    return Candidates(table, rule, tuple(centers), names, rows, mode, participants)


def decide(candidates: Candidates, current: Mapping[str, frozenset[int]]) -> Decision:
    """The fate of the candidates.

    Args:
        candidates: of one table.
        current: the active ADCIDs of its participants; it may hold more, of other tables.

    Raises Invalid (kind ``unknown-naccid``) for a participant that ``current`` does not have.
    """
    rows, rule, sites = candidates.rows, candidates.rule, [c.id for c in candidates.centers]
    if _by_current(rule):
        verdicts = _judge(candidates, current)
    else:
        drops = isinstance(rule, CriteriaRule) and rule.on_duplicate is OnDuplicate.DROP_ALL
        verdicts = _apart(rows) * (_VERDICT[DUPLICATE] if drops else _KEPT)
    counts: Counter[tuple[str, Reason]] = Counter()
    removals = []
    bounds = np.searchsorted(rows.file, range(len(sites) + 1))
    for site, (start, end) in zip(sites, pairwise(bounds), strict=True):
        found = verdicts[start:end]
        of_file = []
        for number, reason in enumerate(REASONS, 1):
            numbers = rows.row[start:end][found == number]
            if len(numbers):
                of_file.append(Removal(tuple(numbers.tolist()), reason.fate, reason.slug))
                counts[site, reason] += len(numbers)
        removals.append(tuple(of_file))
    findings = [
        Finding(
            site,
            Severity.WARNING,
            reason.slug,
            candidates.table,
            f"{counted(count, 'rows')} {reason.says}: their key is at several centers, so they are "
            "quarantined",
            reason.hint,
        )
        for (site, reason), count in counts.items()
        if reason.fate is Fate.QUARANTINED
    ]
    if isinstance(rule, CriteriaRule):
        findings += _note_repeats(candidates, verdicts == _KEPT)
    totals: Counter[str] = Counter()
    for (_, reason), count in counts.items():
        totals[reason.slug] += count
    return Decision(tuple(removals), tuple(sorted(findings)), totals)


def _by_current(rule: Rule) -> bool:
    return isinstance(rule, TransferRule) or rule.on_duplicate is OnDuplicate.ACTIVE_ONLY


def _apart(rows: Rows) -> NDArray[np.bool_]:
    """Whether a row's key stands at more than one center."""
    return _differs(rows.key, rows.center)


def _differs(key: NDArray[np.int64], center: NDArray[np.int64]) -> NDArray[np.bool_]:
    one = np.empty(key.max(initial=-1) + 1, np.int64)  # any center of each key
    one[key] = center
    apart = np.zeros(len(one), np.bool_)
    apart[key[one[key] != center]] = True
    return apart[key]


def _judge(candidates: Candidates, current: Mapping[str, frozenset[int]]) -> NDArray[np.int8]:
    """Verdicts by the current center of each row's participant."""
    rows, rule = candidates.rows, candidates.rule
    apart = _apart(rows)
    homes = np.full(len(candidates.names), -1)
    fates = np.zeros(len(homes), np.int8)
    unknown = np.zeros(len(homes), np.bool_)
    for i in np.unique(rows.name[apart]):
        name = candidates.names[i]
        if name is None:
            fates[i] = _VERDICT[MISSING]
        elif name not in candidates.participants:
            fates[i] = _VERDICT[MALFORMED]
        elif name not in current:
            unknown[i] = True
        elif len(current[name]) == 1:
            (homes[i],) = current[name]
        else:
            fates[i] = _VERDICT[SEVERAL_CURRENT if current[name] else NO_CURRENT]
    if unknown.any():
        raise _unknown(candidates, apart & unknown[rows.name])
    stays = rows.center == homes[rows.name]
    # Some copy of the key stays in the table: only then is a copy at another center superfluous.
    remains = np.zeros(rows.key.max(initial=-1) + 1, np.bool_)
    remains[rows.key[stays]] = True
    gone = TRANSFERRED if isinstance(rule, TransferRule) else DUPLICATE
    leaves = np.where(remains[rows.key], _VERDICT[gone], _VERDICT[ABSENT])
    verdicts = np.where(fates[rows.name] > 0, fates[rows.name], leaves * ~stays)
    return (verdicts * apart).astype(np.int8)


def _unknown(candidates: Candidates, rows: NDArray[np.bool_]) -> Invalid:
    sites = np.array([c.id for c in candidates.centers])[candidates.rows.file[rows]]
    names = candidates.rows.name[rows]
    counts = {site: len(np.unique(names[sites == site])) for site in np.unique(sites)}
    unknown, asked = len(np.unique(names)), len(candidates.participants)
    return Invalid(
        f"table {candidates.table}: the identifiers service ({candidates.mode}) does not know "
        f"{unknown} of {asked} participants, expected all; "
        "by site: " + ", ".join(f"{site} {count}" for site, count in counts.items()),
        kind="unknown-naccid",
        hint="check the URL, the file and the mode: it knows nobody"
        if unknown == asked
        else "register them, or have the sites mend or leave them out; --transfers none keeps all",
    )


def _note_repeats(candidates: Candidates, kept: NDArray[np.bool_]) -> Iterator[Finding]:
    """A note for each site about kept rows whose key is at their own center more than once."""
    rows = candidates.rows
    group = _groups(rows.key[kept], rows.center[kept])
    again = _counts(group) > 1
    file = rows.file[kept]
    sites = [c.id for c in candidates.centers]
    for site in dict.fromkeys(sites):
        own = again & np.isin(file, [i for i, s in enumerate(sites) if s == site])
        if own.any():
            message = (
                f"{own.sum()} rows share "
                f"{counted(len(np.unique(group[own])), 'keys')} with other rows of the "
                "same center, expected each key once; they are kept"
            )
            hint = "send each visit once, or ask for a key with more columns"
            yield Finding(
                site, Severity.NOTE, "same-center-duplicates", candidates.table, message, hint
            )


def _groups(*columns: NDArray[Any]) -> NDArray[np.int64]:
    """The number of each row's group; rows are in one group where they are equal in all columns."""
    order = np.lexsort(columns)
    starts = np.zeros(len(order), np.bool_)
    for column in columns:
        starts[1:] |= column[order[1:]] != column[order[:-1]]
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.cumsum(starts)
    return numbers


def _counts(group: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many rows each row's group has."""
    return np.bincount(group)[group]


def _find_transferred(
    centers: Sequence[Center], blob: Callable[[int], Buffer]
) -> tuple[Rows, list[str | None]]:
    files = range(len(centers))
    if not len(shared := repeated(read_hashes(blob(i)) for i in files)):
        return Rows(*[_NONE] * 5), []
    chosen, numbers, texts = [], [], []
    for i in files:
        pairs = read_pairs(blob(i))
        at = places(pairs.hashes, shared)
        chosen.append(at)
        numbers.append(_center_numbers(pairs, at, centers[i]))
        texts.append(pairs.participants.take(fill.numbers(at)))
    names = pa.chunked_array(texts).combine_chunks().dictionary_encode()
    name, center = fill.values(names.indices).astype(np.int64), np.concatenate(numbers)
    apart = _differs(name, center)
    parts, start = [(_NONE,) * 5], 0
    for i in files:
        mine = np.arange(start, start := start + len(chosen[i]))
        kept = apart[mine]
        if kept.any():
            pair = read_rows(blob(i), "pair")
            place = np.full(pair.max() + 1, -1)
            place[chosen[i][kept]] = mine[kept]
            of_row = place[pair]
            row = np.flatnonzero(of_row >= 0)
            at = of_row[row]
            parts.append((np.full(len(row), i), row, name[at], name[at], center[at]))
    rows = Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    return rows, names.dictionary.to_pylist()


def _find_repeated(
    centers: Sequence[Center], blob: Callable[[int], Buffer]
) -> tuple[Rows, list[str | None]]:
    files = range(len(centers))
    shared = repeated(read_rows(blob(i), "low") for i in files)
    parts, texts = [], []
    for i in files:
        kept = blob(i)
        at = places(read_rows(kept, "low"), shared)
        low, high, row, pair = (read_rows(kept, n)[at] for n in ("low", "high", "row", "pair"))
        pairs = read_pairs(kept)
        center = _center_numbers(pairs, pair, centers[i])
        parts.append((np.full(len(at), i), row.astype(np.int64), low, high, center))
        texts.append(pairs.participants.take(fill.numbers(pair)))
    file, row, low, high, center = (np.concatenate(column) for column in zip(*parts, strict=True))
    names = pa.chunked_array(texts).combine_chunks().dictionary_encode()
    name = fill.values(names.indices.fill_null(len(names.dictionary)))
    key = _groups(low, high)
    order = np.lexsort((row, file))
    order = order[_counts(key)[order] > 1]  # not those that only met by half of the hash
    rows = Rows(*(column[order] for column in (file, row, key, name, center)))
    return rows, [*names.dictionary.to_pylist(), None]


def _center_numbers(pairs: Pairs, at: NDArray[Any], sender: Center) -> NDArray[np.int64]:
    """ADCIDs of some pairs; the sender's where a row gives none."""
    (own,) = fill.numbers(np.array([sender.adcid], np.int64))
    return fill.values(pairs.centers.take(fill.numbers(at)).fill_null(own))

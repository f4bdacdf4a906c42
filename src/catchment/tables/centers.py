"""The center mapping: who may contribute, and which of them a run takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from catchment.core.errors import Invalid
from catchment.core.finding import Finding, Severity
from catchment.core.names import check_name, shown
from catchment.core.strictjson import Repeated, described, loads
from catchment.tables.model import Center, Options

ID = ("center_id", "center-id", "group")
ACTIVE = ("active", "is-active", "is_active")
HINT = 'expected {"centers": {"42": {"adcid": 42, "name": "Alpha", "center-id": "alpha"}}}'


def read_centers(
    data: bytes | str | Mapping[str, Any], name: str
) -> tuple[list[Center], list[Finding]]:
    """The centers of a mapping, in order of ADCID, and a finding for each entry that is not one.

    Args:
        data: JSON text, or the same as a mapping (a table of ``catchment.toml``).
        name: of the file, for messages.

    An entry that is malformed, or claims the id of another, is left out; the others stand. Raises
    Invalid (kind ``bad-center-mapping``) where the whole is not a center mapping.
    """
    entries = _entries(data, name)
    claims = Counter(_claimed(entry) for entry in entries.values())
    twice = entries.names if isinstance(entries, Repeated) else frozenset()
    centers, findings = [], []
    for key, entry in entries.items():
        claimed = _claimed(entry)
        try:
            if key in twice:
                raise Invalid("the key is given more than once in the mapping")
            center = _center(key, entry)
            if claims[center.id] > 1:
                raise Invalid(f"{claims[center.id]} entries have this center id, expected 1")
            centers.append(center)
        except Invalid as error:
            site = claimed or shown(key)
            where = f"{name}: centers.{shown(key)}"
            hint = "mend the entry in the center mapping; the center is left out until then"
            findings.append(
                Finding(site, Severity.ERROR, "center-malformed", where, error.message, hint)
            )
    return sorted(centers, key=lambda center: center.adcid), findings


def select_centers(
    centers: Sequence[Center], options: Options, refused: Iterable[Finding] = ()
) -> tuple[list[Center], list[Finding]]:
    """The centers that a run takes, in their order, and a finding for each that it does not.

    Args:
        centers: of the mapping.
        options: ``include_centers`` or ``exclude_centers``, and ``exclude_studies``: a group id
            ``alpha-leads`` is center alpha's study ``leads``.
        refused: findings of :func:`read_centers`; their sites are known, though malformed.

    Raises Invalid: kind ``unknown-center`` or ``unknown-study`` for a name that nothing in the
    mapping has (a slip of the pen would publish what was to be left out), kind
    ``include-and-exclude`` where both lists are given.
    """
    include, exclude = options.include_centers, options.exclude_centers
    if include is not None and exclude:
        raise Invalid(
            "centers are both included and excluded, expected one of the two lists",
            kind="include-and-exclude",
            hint="give include_centers (--include-centers) or exclude_centers, not both",
        )
    known = {center.id for center in centers} | {finding.site for finding in refused}
    studies = {study for name in known for study in _studies(name)}
    _check_known("center", exclude | (include or frozenset()), known)
    _check_known("study", options.exclude_studies, studies)
    taken, findings = [], []
    for center in centers:
        if not center.active:
            reason = "center-inactive", "the mapping says that it is not active"
        elif include is not None and center.id not in include:
            reason = "center-not-included", "the run includes other centers only"
        elif center.id in exclude:
            reason = "center-excluded", "the run excludes it"
        elif not options.exclude_studies.isdisjoint(_studies(center.id)):
            reason = "study-excluded", "the run excludes its study"
        else:
            taken.append(center)
            continue
        findings.append(Finding(center.id, Severity.NOTE, reason[0], "centers", reason[1]))
    return taken, findings


def _entries(data: bytes | str | Mapping[str, Any], name: str) -> Mapping[str, Any]:
    problem = f"expected an object with {shown('centers')}"
    try:
        whole = data if isinstance(data, Mapping) else loads(data)
    except ValueError as error:
        raise _bad(name, f"expected JSON ({error})") from None
    if not isinstance(whole, Mapping):
        raise _bad(name, f"{problem}, got {described(whole)}")
    if isinstance(whole, Repeated):
        raise _bad(name, f"{problem}, got {', '.join(map(shown, sorted(whole.names)))} twice")
    if "centers" not in whole:
        got = ", ".join(map(shown, sorted(whole)[:5])) or "none"
        raise _bad(name, f"{problem}, got the names: {got}")
    entries = whole["centers"]
    if not isinstance(entries, Mapping):
        raise _bad(name, f"{shown('centers')}: expected an object, got {described(entries)}")
    return entries


def _bad(name: str, problem: str) -> Invalid:
    return Invalid(f"{name}: {problem}", kind="bad-center-mapping", hint=HINT)


def _center(key: str, entry: object) -> Center:
    if not isinstance(entry, Mapping):
        raise Invalid(f"expected an object, got {described(entry)}")
    if isinstance(entry, Repeated):
        raise Invalid(f"a field is given twice: {', '.join(map(shown, sorted(entry.names)))}")
    adcid = entry.get("adcid")
    # type() and not isinstance: True is an int to Python, and no center's number.
    if type(adcid) is not int or not 0 <= adcid < 2**31:
        raise Invalid(f"adcid: expected an integer from 0 to 2147483647, got {described(adcid)}")
    if key != str(adcid):
        raise Invalid(f"expected the adcid as the entry's key, got {shown(key)} for {adcid}")
    name = entry.get("name")
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise Invalid("name: expected a string of printable characters")
    active = _alias(entry, ACTIVE, default=True)
    if not isinstance(active, bool):
        raise Invalid(f"active: expected true or false, got {described(active)}")
    center = _alias(entry, ID)
    if not isinstance(center, str):
        raise Invalid(f"center-id: expected a string, got {described(center)}")
    return Center(
        check_name(center, "center id"), adcid, name.strip(), active, _tags(entry.get("tags"))
    )


def _tags(value: object) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value or []
    if not isinstance(parts, list) or not all(isinstance(p, str) for p in parts):
        raise Invalid("tags: expected an array of strings, or one string with commas")
    return tuple(tag for part in parts if (tag := part.strip()))


def _alias(entry: Mapping[str, Any], names: Sequence[str], default: object = None) -> object:
    given = [entry[name] for name in names if name in entry]
    if any(value != given[0] for value in given):
        raise Invalid(
            f"{' and '.join(n for n in names if n in entry)} differ, expected one of them"
        )
    return given[0] if given else default


def _claimed(entry: object) -> str | None:
    """The center id that an entry lays claim to, malformed in other ways or not."""
    try:
        value = _alias(entry, ID) if isinstance(entry, Mapping) else None
        return check_name(value) if isinstance(value, str) else None
    except Invalid:
        return None


def _studies(name: str) -> set[str]:
    """What a group id may call its study: all that follows one of its dashes."""
    parts = name.split("-")
    return {"-".join(parts[i:]) for i in range(1, len(parts))}


def _check_known(what: str, names: Iterable[str], known: set[str]) -> None:
    problems = []
    for name in sorted(set(names) - known):
        near = get_close_matches(name, sorted(known), n=3)
        problems.append(shown(name) + (f" (did you mean {', '.join(near)}?)" if near else ""))
    if problems:
        raise Invalid(
            f"not in the center mapping, expected the id of a {what}: {', '.join(problems)}",
            kind=f"unknown-{what}",
            hint=f"known: {', '.join(sorted(known)) or 'none'}",
        )

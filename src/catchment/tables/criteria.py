"""The criteria of duplicates, as a JSON file gives them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from catchment.core.errors import Invalid
from catchment.core.names import shown
from catchment.core.strictjson import Repeated, described, loads
from catchment.tables.model import CriteriaRule, OnDuplicate, Rule


def read_criteria(data: bytes | str, name: str) -> dict[str, CriteriaRule]:
    """The criteria rules of a JSON text, by table.

    ``{"uds": {"criteria": ["naccid", "visitdate"], "on_duplicate": "active_only"}}``. A table whose
    ``criteria`` are null or missing has a rule without criteria: all its rows are kept.
    ``on_duplicate`` is ``drop_all`` where it is null or missing.

    Args:
        data: the text.
        name: of the file, for messages.

    Raises Invalid (kind ``bad-criteria``) that names table and field.
    """
    try:
        whole = loads(data)
    except ValueError as error:
        raise _bad_criteria(f"{name}: expected JSON ({error})") from None
    tables = _object(whole, name)
    return {table: _rule(entry, f"{name}: {shown(table)}") for table, entry in tables.items()}


def check_criteria(table: str, rule: Rule, columns: Collection[str]) -> None:
    """Raise Invalid (kind ``unknown-criteria``) unless the table has each column of the criteria.

    A slip of the pen would otherwise make every key null, and keep every duplicate.
    """
    criteria = rule.criteria if isinstance(rule, CriteriaRule) else ()
    missing = [name for name in criteria if name not in columns]
    if missing:
        raise Invalid(
            f"criteria of table {table}: no site sends column {_near(missing[0], columns)}",
            kind="unknown-criteria",
            hint="mend the table's criteria",
        )


def check_tables(criteria: Collection[str], tables: Collection[str]) -> None:
    """Raise Invalid (kind ``unknown-criteria``) unless each table with criteria is there.

    Criteria take the place of the rule for transfers, so a slip of the pen would keep all rows.
    """
    missing = sorted(set(criteria) - set(tables))
    if missing:
        raise Invalid(
            f"criteria: no site sends table {_near(missing[0], tables)}",
            kind="unknown-criteria",
            hint="mend the name in the criteria",
        )


def _rule(entry: object, where: str) -> CriteriaRule:
    fields = _object(entry, where)
    known = ("criteria", "on_duplicate")
    for name in fields:
        if name not in known:
            raise _bad_criteria(f"{where}: nothing is called {_near(name, known)}")
    criteria = fields.get("criteria")
    if criteria == []:  # as likely a slip as a wish; null says that it is one
        raise _bad_criteria(
            f"{where}.criteria: expected column names, got none; null keeps all rows of the table"
        )
    criteria = [] if criteria is None else criteria
    if not isinstance(criteria, list) or not all(isinstance(c, str) and c for c in criteria):
        got = described(criteria)
        raise _bad_criteria(f"{where}.criteria: expected an array of column names, got {got}")
    if len(set(criteria)) < len(criteria):
        raise _bad_criteria(f"{where}.criteria: expected each column once")
    mode = fields.get("on_duplicate")
    if mode is None:
        mode = OnDuplicate.DROP_ALL
    elif mode not in list(OnDuplicate):
        got = _near(mode, list(OnDuplicate)) if isinstance(mode, str) else described(mode)
        modes = ", ".join(OnDuplicate)
        raise _bad_criteria(f"{where}.on_duplicate: expected one of {modes}, got {got}")
    return CriteriaRule(tuple(criteria), OnDuplicate(mode))


def _object(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _bad_criteria(f"{where}: expected an object, got {described(value)}")
    if isinstance(value, Repeated):
        raise _bad_criteria(f"{where}: {', '.join(map(shown, sorted(value.names)))} is there twice")
    return value


def _near(name: str, known: Collection[str]) -> str:
    near = get_close_matches(name, sorted(known), n=1)
    return shown(name) + (f" (did you mean {near[0]}?)" if near else "")


def _bad_criteria(problem: str) -> Invalid:
    return Invalid(
        problem,
        kind="bad-criteria",
        hint='expected {"uds": {"criteria": ["naccid", "visitdate"], "on_duplicate": "drop_all"}}',
    )

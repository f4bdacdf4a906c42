"""Filters of charts: 54 operators, as text or JSON, and what they are in SQL with parameters."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import unquote

from catchment.core.errors import Invalid
from catchment.studies.model import NONE

_MOST = 100  # conditions in one request
_LONGEST = 1000  # characters of a value
DEEPEST = 20  # groups within one another

_SHAPE = (
    'expected {"any": [...]} or {"all": [...]}, with conditions [column, operator, value] or such '
    "groups in it"
)
type Word = Literal["any", "all"]
_WORDS: tuple[Word, ...] = ("any", "all")

_TEXT = {
    "strEq": "{c} = {v}",
    "strContains": "contains({c}, {v})",
    "strStartsWith": "starts_with({c}, {v})",
    "strEndsWith": "ends_with({c}, {v})",
}
_NUMBERS = {"eq": "=", "ne": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_DAYS = ("Day", "Week", "Month", "Year")
_DATES = {
    "same{}": "=",
    "same{}OrBefore": "<=",
    "same{}OrAfter": ">=",
    "before{}": "<",
    "after{}": ">",
}
# A year or a month alone is its first day, in a column and in a value.
_DATE = (
    "TRY_CAST({c} || CASE length({c}) WHEN 4 THEN '-01-01' WHEN 7 THEN '-01' ELSE '' END "
    "AS TIMESTAMP)"
)
_REST = {4: "-01-01", 7: "-01"}
_TRUTHS = {
    "isTrue": "IS TRUE",
    "isNotTrue": "IS NOT TRUE",
    "isFalse": "IS FALSE",
    "isNotFalse": "IS NOT FALSE",
}


def _operators() -> dict[str, tuple[str, str]]:
    """Of each operator: what its value is (empty: it takes none), and its SQL."""
    made: dict[str, tuple[str, str]] = {}
    for name, sql in _TEXT.items():
        denied = name.replace("str", "strNot")
        lower = sql.format(c="lower({c})", v="lower({v})")
        for told, text in ((name, sql), (f"{name}CI", lower)):
            made[told] = ("text", text)
            made[told.replace(name, denied)] = ("text", f"NOT {text}")
    for ending, sql in (
        ("", "regexp_matches({c}, {v})"),
        ("CI", "regexp_matches({c}, {v}, 'i')"),
    ):
        made[f"matches{ending}"] = ("pattern", sql)
        made[f"notMatches{ending}"] = ("pattern", f"NOT {sql}")
    for day in _DAYS:
        cut = f"date_trunc('{day.lower()}', "
        for name, sign in _DATES.items():
            sql = f"{cut}{_DATE}) {sign} {cut}{{v}}::TIMESTAMP)"
            made[name.format(day)] = ("date", sql)
    for name, sign in _NUMBERS.items():
        made[name] = ("number", f"TRY_CAST({{c}} AS DOUBLE) {sign} {{v}}")
    for name, words in _TRUTHS.items():
        made[name] = ("", f"TRY_CAST({{c}} AS BOOLEAN) {words}")
    made["isNull"] = ("", "TRUE")  # rolled up over the column: everybody
    made["isNotNull"] = ("", "{c} IS NOT NULL")
    made["isNone"] = ("", f"{{c}} = '{NONE}'")
    made["isNotNone"] = ("", f"{{c}} <> '{NONE}'")
    return made


OPERATORS = _operators()


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition on a column. ``value`` is of the operator's kind; None where it takes none."""

    column: str
    operator: str
    value: str | float | datetime | None = None

    @property
    def uses(self) -> bool:
        """Whether it looks at single values of the column."""
        return self.operator != "isNull"

    def sql(self) -> tuple[str, list[Any]]:
        """As an expression with ``?`` for its parameters."""
        text = OPERATORS[self.operator][1]
        column = f"{quoted(self.column)}::VARCHAR"
        return text.format(c=column, v="?"), [] if self.value is None else [self.value]


@dataclass(frozen=True, slots=True)
class Group:
    """Conditions and groups of which all must hold, or any. An empty one always holds."""

    word: Word = "all"
    parts: tuple[Condition | Group, ...] = ()

    def conditions(self) -> Iterator[Condition]:
        """Every condition, at any depth."""
        for part in self.parts:
            yield from [part] if isinstance(part, Condition) else part.conditions()

    def sql(self) -> tuple[str, list[Any]]:
        """As an expression with ``?`` for its parameters."""
        told = [part.sql() for part in self.parts]
        between = " AND " if self.word == "all" else " OR "
        text = between.join(f"({text})" for text, _ in told) or "TRUE"
        return text, [value for _, some in told for value in some]


def condition(column: str, operator: str, value: object = None) -> Condition:
    """A condition, checked. Invalid (kind ``bad-filter``)."""
    if operator not in OPERATORS:
        raise _bad(
            f"unknown operator {operator[:40]!r}",
            "Ask for charts, in the documentation, lists the operators",
        )
    kind = OPERATORS[operator][0]
    if not kind:
        if value is not None and value != "":
            raise _bad(f"{operator} takes no value, got one")
        return Condition(column, operator)
    if value is None or isinstance(value, (dict, list)):
        raise _bad(f"{operator} needs a value")
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if len(text) > _LONGEST or "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise _bad(f"{operator}: expected at most {_LONGEST} characters of text as a value")
    return Condition(column, operator, _value(kind, operator, text))


def _value(kind: str, operator: str, text: str) -> str | float | datetime:
    if kind == "number":
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise _bad(f"{operator}: expected a number")
        return number
    if kind == "date":
        try:
            date = datetime.fromisoformat(text + _REST.get(len(text), ""))
            return date.astimezone(UTC).replace(tzinfo=None) if date.tzinfo else date
        except (ValueError, OverflowError):
            raise _bad(f"{operator}: expected a date or time, as 2024-02-29") from None
    return text


def parse(filters: Iterable[str], where: str | None = None) -> Group:
    """The filters of a request: each text is ANDs between commas, several are ORed.

    Args:
        filters: ``column:operator[:value]``, with ``,`` between conditions. What is still
            percent-encoded in a part is decoded, so that a value may hold ``,``.
        where: JSON: ``{"any": [...]}`` or ``{"all": [...]}``, whose entries are conditions
            ``[column, operator, value]`` or such groups again. Where both are given, both hold.

    Raises:
        Invalid: kind ``bad-filter``.
    """
    texts = [Group("all", tuple(_text(one) for one in text.split(","))) for text in filters if text]
    asked: list[Condition | Group] = [Group("any", tuple(texts))] if texts else []
    if where:
        try:
            tree = json.loads(where)
        except (ValueError, RecursionError):
            raise _bad(_SHAPE) from None
        asked.append(_part(tree, DEEPEST))
    made = Group("all", tuple(asked))
    count = sum(1 for _ in made.conditions())
    if count > _MOST:
        raise _bad(f"expected at most {_MOST} conditions, got {count}")
    return made


def _text(text: str) -> Condition:
    parts = [unquote(part) for part in text.split(":", 2)]
    if len(parts) < 2 or not parts[0]:
        raise _bad("expected column:operator or column:operator:value between commas")
    return condition(parts[0], parts[1], parts[2] if len(parts) > 2 else None)


def _part(tree: object, deep: int) -> Condition | Group:
    """A group or a condition of the JSON form."""
    if isinstance(tree, Mapping):
        for word in _WORDS:
            if isinstance(parts := tree.get(word), list) and len(tree) == 1:
                if not deep:
                    raise _bad(f"expected at most {DEEPEST} groups within one another")
                return Group(word, tuple(_part(one, deep - 1) for one in parts))
        tree = [tree.get(key) for key in ("column", "op", "value")]
    if not isinstance(tree, list) or not 2 <= len(tree) <= 3:
        raise _bad(_SHAPE)
    column, operator, *value = tree
    if not isinstance(column, str) or not isinstance(operator, str):
        raise _bad(_SHAPE)
    return condition(column, operator, *value)


def quoted(name: str) -> str:
    """A column's name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def _bad(message: str, hint: str = "") -> Invalid:
    return Invalid(message, kind="bad-filter", hint=hint)

"""References between the tables of a snapshot, as SQL can ask them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from catchment.imaging.entities import KEYS

REFERENCES = (
    ("studies", "patient_key", "patients", "patient_key"),
    ("series", "StudyInstanceUID", "studies", "StudyInstanceUID"),
    ("series", "device_key", "devices", "device_key"),
    ("images", "SeriesInstanceUID", "series", "SeriesInstanceUID"),
    ("images", "StudyInstanceUID", "studies", "StudyInstanceUID"),
)


def broken_references(query: Callable[[str], list[tuple[Any, ...]]]) -> list[str]:
    """Keys that are not unique, and references that lead nowhere, of tables that SQL can ask."""
    wrong = []
    for table, key in KEYS.items():
        ((twice,),) = query(
            f'SELECT count(*) - count(DISTINCT "{key}") FROM "{table}"'  # noqa: S608
        )
        if twice:
            wrong.append(f"{table}: {twice} rows share a {key}, or have none")
    for table, column, other, key in REFERENCES:
        ((lost,),) = query(
            f'SELECT count(*) FROM "{table}" t WHERE t."{column}" IS NOT NULL AND NOT EXISTS '  # noqa: S608
            f'(SELECT 1 FROM "{other}" o WHERE o."{key}" = t."{column}")'
        )
        if lost:
            wrong.append(f"{table}: {lost} rows refer to {other} that are not there")
    return wrong

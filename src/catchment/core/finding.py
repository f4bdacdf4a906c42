"""Findings: facts about a contribution that its site should know. Data, never exceptions."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

WAY = "provider"  # where: about reaching a site, which each run tries anew


class Severity(enum.StrEnum):
    """How much a finding matters: a note, a warning, or an error that stopped the contribution."""

    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One fact, with what to do about it. Holds names and counts, never a patient's values.

    Attributes:
        site: who contributed.
        code: stable slug, listed in ``docs/reference/findings.md``.
        where: table, file, column or line that it is about.
        message: what was found, and what was expected.
        hint: what the site can do about it.
    """

    site: str
    severity: Severity
    code: str
    where: str
    message: str
    hint: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain types, ready for ``json.dumps``."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of :meth:`to_json`."""
        return cls(**{**data, "severity": Severity(data["severity"])})


def worst(findings: Iterable[Finding]) -> Severity | None:
    """The gravest severity among the findings; None where there are none."""
    order = list(Severity)
    return max((f.severity for f in findings), key=order.index, default=None)

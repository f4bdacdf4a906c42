"""The account of a run: every record that came in is kept, dropped or quarantined, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from catchment.core.errors import Corrupt


class Line(NamedTuple):
    """What one balance is about: a site, a part of the aggregate (a table), a unit (``rows``)."""

    site: str
    part: str
    unit: str


@dataclass(slots=True)
class Balance:
    """``received = kept + dropped (by reason) + quarantined (by reason)``, all counts >= 0."""

    received: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    quarantined: Counter[str] = field(default_factory=Counter)

    @property
    def missing(self) -> int:
        """Records received and not accounted for (negative: accounted for twice)."""
        return self.received - self.kept - self.dropped.total() - self.quarantined.total()

    def add(self, other: Balance) -> None:
        """Add the other balance to this one."""
        self.received += other.received
        self.kept += other.kept
        self.dropped.update(other.dropped)
        self.quarantined.update(other.quarantined)

    def to_json(self) -> dict[str, Any]:
        """Plain types; reasons in order of name."""
        return {
            "received": self.received,
            "kept": self.kept,
            "dropped": dict(sorted(self.dropped.items())),
            "quarantined": dict(sorted(self.quarantined.items())),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_json`."""
        return cls(
            data["received"], data["kept"], Counter(data["dropped"]), Counter(data["quarantined"])
        )


class Account:
    """Balances of one run, by line."""

    def __init__(self, balances: Mapping[Line, Balance] | None = None) -> None:
        self._balances: dict[Line, Balance] = dict(balances or {})

    def __iter__(self) -> Iterator[tuple[Line, Balance]]:
        return iter(sorted(self._balances.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Account) and self._balances == other._balances

    def __hash__(self) -> int:
        raise TypeError("an Account grows; it has no hash")

    def __getitem__(self, line: Line) -> Balance:
        return self._balances.setdefault(line, Balance())

    def total(self, unit: str, *, site: str | None = None, part: str | None = None) -> Balance:
        """The sum of all balances of one unit, of one site or part where given."""
        total = Balance()
        for line, balance in self._balances.items():
            if line.unit == unit and site in (None, line.site) and part in (None, line.part):
                total.add(balance)
        return total

    def check(self) -> None:
        """Raise :class:`Corrupt` (kind ``account-unbalanced``) unless every line balances."""
        wrong = [
            f"{line.site}/{line.part}: {b.missing} {line.unit}" for line, b in self if b.missing
        ]
        if wrong:
            raise Corrupt(
                "records are not accounted for: " + "; ".join(wrong[:10]),
                kind="account-unbalanced",
                hint="nothing was published; report this with the run's id (catchment status)",
            )

    def to_json(self) -> list[dict[str, Any]]:
        """One object a line, in order of site, part and unit."""
        return [line._asdict() | balance.to_json() for line, balance in self]

    @classmethod
    def from_json(cls, data: Iterable[Mapping[str, Any]]) -> Self:
        """The inverse of :meth:`to_json`."""
        return cls({Line(d["site"], d["part"], d["unit"]): Balance.from_json(d) for d in data})

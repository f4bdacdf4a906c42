"""The look at one dataset that shall be appended: what was found, and who its sessions are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from catchment.arrays.content import text_of
from catchment.core.finding import Finding, Severity
from catchment.core.names import shown

if TYPE_CHECKING:
    import xarray as xr

MAX_SESSION = 255  # bytes of a session's id


@dataclass(frozen=True, slots=True)
class Facts:
    """What the caller knows of a session beside its dataset; None: the dataset says it."""

    session: str | None = None
    site: str | None = None
    source: str | None = None
    transform: str | None = None
    start: float | None = None


@dataclass
class Look:
    """What goes on while one dataset is looked at."""

    dataset: xr.Dataset
    append_dim: str
    ragged: tuple[str, ...]
    facts: Facts
    findings: list[Finding] = field(default_factory=list)

    def error(self, code: str, where: str, message: str, hint: str = "") -> None:
        """Note what keeps the dataset out."""
        self._find(Severity.ERROR, code, where, message, hint)

    def warning(self, code: str, where: str, message: str, hint: str = "") -> None:
        """Note what its site should know."""
        self._find(Severity.WARNING, code, where, message, hint)

    def odd(self, name: str, size: int, missing: int, infinite: int) -> None:
        """Note which of a variable's values are no numbers."""
        if infinite:
            self.error("values-infinite", name, f"{infinite} of {size} are infinite",
                       "mend the recording, or replace them by NaN")  # fmt: skip
        if missing == size:
            self.error("values-missing-all", name, f"all {missing} values are missing",
                       "leave the variable out, or mend the recording")  # fmt: skip
        elif missing:
            self.warning("values-missing", name, f"{missing} of {size} are missing (NaN)",
                         "nothing, if the recording has gaps there")  # fmt: skip

    def _find(self, severity: Severity, code: str, where: str, message: str, hint: str) -> None:
        self.findings.append(Finding(self.facts.site or "", severity, code, where, message, hint))

    def failed(self) -> bool:
        """An error was found."""
        return any(f.severity is Severity.ERROR for f in self.findings)


def session_ids(look: Look, dataset: xr.Dataset) -> list[str]:
    """The ids along the append dimension."""
    dim = look.append_dim
    if look.facts.session is not None and dataset.sizes[dim] == 1:
        labels = [look.facts.session]
    elif dim in dataset.coords and dataset[dim].dims == (dim,):
        labels = [text_of(label) for label in dataset[dim].values]
    elif dataset.sizes[dim] == 1:
        one = single_id(look, dataset)
        labels = [] if one is None else [one]
    else:
        look.error(
            "session-missing", dim, f"{dataset.sizes[dim]} sessions have no ids",
            f"give the dataset a coordinate {dim} with an id for each",
        )  # fmt: skip
        return []
    for position, label in enumerate(labels):
        if not is_tombstone(dataset, dim, position):
            check_id(look, label)
    return labels


def is_tombstone(dataset: xr.Dataset, dim: str, position: int) -> bool:
    """The dataset is a store's, and this is where a session was."""
    status = dataset.get("status")
    return status is not None and status.dims == (dim,) and bool(status.values[position])


def single_id(look: Look, dataset: xr.Dataset) -> str | None:
    """The id of the only session."""
    found: Any = look.facts.session
    if found is None and look.append_dim in dataset.coords:
        found = dataset[look.append_dim].values.reshape(-1)
        found = found[0] if found.size else None
    if found is None:
        found = dataset.attrs.get("session_id")
        if isinstance(found, list | tuple):
            found = found[0] if found else None
    if found is None:
        look.error(
            "session-missing", "", "the session has no id",
            "set the attribute session_id, or give --session",
        )  # fmt: skip
        return None
    return label if check_id(look, label := text_of(found)) else None


def check_id(look: Look, label: str) -> bool:
    """Whether an id can be used; notes an error if not."""
    well = (
        0 < len(label.encode(errors="replace")) <= MAX_SESSION
        and label.isprintable()
        and not label.startswith("~")  # tombstones do
        and label == label.strip()
    )
    if not well:
        look.error(
            "bad-session", shown(label),
            f"not a usable id: expected 1 to {MAX_SESSION} bytes of printable text that does not "
            "begin with ~",
            "give the session another id",
        )  # fmt: skip
    return well

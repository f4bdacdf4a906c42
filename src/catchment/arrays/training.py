"""Windows of sessions by number: a map dataset, as PyTorch's loaders want one, without PyTorch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from catchment.arrays.document import Document
from catchment.arrays.model import Entry, Status
from catchment.core.errors import NotFound
from catchment.core.names import shown

if TYPE_CHECKING:
    import xarray as xr

    from catchment.arrays.union import Part

CACHED = 64 << 20  # bytes of chunks that are kept
VALID = "_valid"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A session, and which of its windows are meant.

    Attributes:
        part: number of its store.
        windows: positions within the session.
        received: windows that the session has.
    """

    part: int
    entry: Entry
    windows: np.ndarray
    received: int


class Windows:
    """``len(windows)`` windows; ``windows[i]`` is a dict of the arrays of one.

    A window has ``session``, ``site`` and ``window`` (its position within the session), and each
    variable's values without the dimensions of session and time. Chunks that were read last are
    kept, so reading in order, or in :meth:`order`, reads each chunk once. It can be pickled, and
    used by the workers of a loader.

    Attributes:
        variables: what a window has.
        chosen: sessions, in order.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        variables: Sequence[str] | None = None,
        sessions: Sequence[str] | None = None,
        valid: bool = False,
    ) -> None:
        self.parts = list(parts)
        self._kept: OrderedDict[tuple[int, str, int], np.ndarray] = OrderedDict()
        document = self.parts[0].document
        self.dim = document.schema.ragged[0] if document.schema.ragged else ""
        known = _windowed(document, self.dim)
        for name in variables or ():
            if name not in known:
                raise NotFound(
                    f"no variable {shown(name)} has windows; those that have: {', '.join(known)}",
                    kind="no-variable",
                )
        self.variables = list(variables) if variables is not None else known
        self.valid = valid
        self.chosen = list(self._choose(sessions, known))
        ends = np.cumsum([len(one.windows) for one in self.chosen], dtype="int64")
        self._starts = np.concatenate([np.zeros(1, "int64"), ends])

    def __getstate__(self) -> dict[str, Any]:
        kept = {**vars(self), "_kept": OrderedDict()}
        kept.pop("_opened", None)
        return kept

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, number: int) -> dict[str, Any]:
        which, window = self._place(number)
        one = self.chosen[which]
        row = one.entry.row
        found: dict[str, Any] = {"session": row.session, "site": row.site, "window": window}
        for name in self.variables:
            found[name] = self._value(which, name, window)
        return found

    def __getitems__(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Several windows; each chunk is read once."""
        made: dict[int, dict[str, Any]] = {}
        for number in sorted({int(number) for number in numbers}):
            made[number] = self[number]
        return [made[int(number)] for number in numbers]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[number] for number in range(len(self)))

    @property
    def sessions(self) -> list[str]:
        """Ids, in order."""
        return [one.entry.row.session for one in self.chosen]

    @cached_property
    def index(self) -> np.ndarray:
        """For each window the number of its session, and its position there: int64, (n, 2)."""
        made = np.empty((len(self), 2), dtype="int64")
        for number, one in enumerate(self.chosen):
            place = slice(self._starts[number], self._starts[number + 1])
            made[place, 0], made[place, 1] = number, one.windows
        return made

    def number(self, session: str, window: int) -> int:
        """The number of a window of a session; NotFound (kind ``no-window``) if it is not here."""
        for which, one in enumerate(self.chosen):
            if one.entry.row.session == session:
                place = int(np.searchsorted(one.windows, window))
                if place < len(one.windows) and one.windows[place] == window:
                    return int(self._starts[which]) + place
        raise NotFound(f"there is no window {window} of {shown(session)}", kind="no-window")

    def order(self, seed: int) -> np.ndarray:
        """All numbers in a random order that keeps the windows of a chunk together."""
        random = np.random.default_rng(seed)
        blocks = []
        for which, one in enumerate(self.chosen):
            numbers = self._starts[which] + np.arange(len(one.windows))
            size = self._rows(one.part)
            cuts = np.flatnonzero(np.diff(one.windows // size)) + 1
            blocks += [block for block in np.split(numbers, cuts) if len(block)]
        for block in blocks:
            random.shuffle(block)
        random.shuffle(blocks)
        return np.concatenate(blocks) if blocks else np.empty(0, "int64")

    def read(self, which: int, name: str, start: int, stop: int) -> np.ndarray:
        """Values of a chosen session between two of its positions."""
        one = self.chosen[which]
        variable = self._opened[one.part][name]
        document = self.parts[one.part].document
        keys = {document.append_dim: one.entry.slot, self.dim: slice(start, stop)}
        return np.asarray(variable.isel(keys).values)

    # How

    def _choose(self, sessions: Sequence[str] | None, known: Sequence[str]) -> Iterator[Chosen]:
        wanted = set(sessions or ())
        for number, part in enumerate(self.parts):
            for entry in part.entries:
                if entry.status is not Status.PRESENT:
                    continue
                name, count = entry.row.session, entry.row.n_windows
                windows = np.arange(count)
                if sessions is not None and name not in wanted:
                    windows = windows[:0]
                elif self.valid:
                    windows = windows[self._valid(number, entry, known)]
                wanted.discard(name)
                yield Chosen(number, entry, windows, count)
        if wanted:
            raise NotFound(
                f"there is no session {min(wanted)!r}", kind="no-session",
                hint="catchment arrays list STORE",
            )  # fmt: skip

    def _valid(self, number: int, entry: Entry, known: Sequence[str]) -> np.ndarray:
        document = self.parts[number].document
        good = np.ones(entry.row.n_windows, dtype=bool)
        keys = {document.append_dim: entry.slot, self.dim: slice(entry.row.n_windows)}
        for name in known:
            variable = self._opened[number][name]
            if name.endswith(VALID) and variable.dtype.kind == "b" and variable.ndim == 2:
                good &= variable.isel(keys).values
        return good

    @cached_property
    def _opened(self) -> list[dict[str, xr.Variable]]:
        """The variables of each store, lazily."""
        import xarray as xr

        opened = [xr.decode_cf(part.opened()) for part in self.parts]
        return [{str(n): v for n, v in one.variables.items()} for one in opened]

    def _place(self, number: int) -> tuple[int, int]:
        total = len(self)
        number = int(number)
        if not -total <= number < total:
            raise IndexError(f"there are {total} windows, got {number}")
        number %= total
        which = int(np.searchsorted(self._starts, number, side="right")) - 1
        return which, int(self.chosen[which].windows[number - self._starts[which]])

    def _rows(self, part: int) -> int:
        """Windows in a chunk of a store."""
        return int(self.parts[part].document.chunks.get(self.dim, 1))

    def _value(self, which: int, name: str, window: int) -> Any:
        size = self._rows(self.chosen[which].part)
        block = window // size
        key = (which, name, block)
        values = self._kept.get(key)
        if values is None:
            length = self.chosen[which].entry.row.n_windows
            values = self.read(which, name, block * size, min(length, (block + 1) * size))
            self._kept[key] = values
            while len(self._kept) > 1 and sum(v.nbytes for v in self._kept.values()) > CACHED:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(key)
        value = values[window - block * size]
        return value.copy() if isinstance(value, np.ndarray) else value


def _windowed(document: Document, dim: str) -> list[str]:
    """Variables of (session, time, ...)."""
    return sorted(
        name
        for name in document.slotted()
        if document.arrays[name]["dimension_names"][1:2] == [dim]
    )

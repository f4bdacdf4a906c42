"""A dataset becomes sessions that can be appended, or findings that say why it cannot.

Nothing is written here. Values are read once, block by block, for the digest and for the count of
what is missing or infinite, so a dataset may be larger than memory.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from catchment.arrays import layout
from catchment.arrays.model import Row
from catchment.arrays.schema import IDENTITY, Schema
from catchment.core.finding import Finding, Severity
from catchment.core.names import shown

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

RAGGED = ("time",)
BLOCK = 16 << 20  # bytes that are looked at together
MAX_ATTRIBUTES = 64 << 10  # bytes of a session's attributes as JSON
MAX_LABELS = 65_536
MAX_VARIABLES = 256
MAX_SESSION = 255  # bytes of a session's id
CLOCK = "timestamp"  # float64, ms since 1970 UTC; ``time`` itself is an integer position
# Not in the words of CF, so that readers get the numbers: a recording's clock has microseconds.
CLOCK_ATTRIBUTES = {"units": "ms", "epoch": "1970-01-01T00:00:00Z"}
EPOCH_UNITS = "milliseconds since 1970-01-01"
FACTS = ("n_windows", "site", "start", "content_hash", "schema", "source", "transform", "status")


@dataclass(frozen=True)
class Prepared:
    """One session, ready to be appended.

    Attributes:
        variables: without the append dimension; only values of this session, no padding.
        row: what the store will remember; its schema is that of :attr:`schema`.
        raw_bytes: of all values.
    """

    row: Row
    schema: Schema
    variables: Mapping[str, xr.Variable]
    labels: Mapping[str, xr.Variable]
    raw_bytes: int

    @property
    def ragged_sizes(self) -> dict[str, int]:
        """Positions along each ragged dimension."""
        return {
            str(dim): size
            for variable in self.variables.values()
            for dim, size in zip(variable.dims, variable.shape, strict=True)
            if dim in self.schema.ragged
        }


@dataclass(frozen=True, slots=True)
class Facts:
    """What the caller knows of a session beside its dataset; None: the dataset says it."""

    session: str | None = None
    site: str | None = None
    source: str | None = None
    transform: str | None = None
    start: float | None = None


@dataclass
class _Look:
    """What goes on while one dataset is looked at."""

    dataset: xr.Dataset
    append_dim: str
    ragged: tuple[str, ...]
    facts: Facts
    findings: list[Finding] = field(default_factory=list)

    def error(self, code: str, where: str, message: str, hint: str = "") -> None:
        self._find(Severity.ERROR, code, where, message, hint)

    def warning(self, code: str, where: str, message: str, hint: str = "") -> None:
        self._find(Severity.WARNING, code, where, message, hint)

    def _find(self, severity: Severity, code: str, where: str, message: str, hint: str) -> None:
        self.findings.append(Finding(self.facts.site or "", severity, code, where, message, hint))

    def failed(self) -> bool:
        """An error was found."""
        return any(f.severity is Severity.ERROR for f in self.findings)


def prepare(
    dataset: xr.Dataset,
    *,
    append_dim: str = "session",
    ragged: Sequence[str] = RAGGED,
    facts: Facts | None = None,
) -> tuple[list[Prepared], list[Finding]]:
    """The sessions of a dataset, and what is to be known of them.

    With an error among the findings there are no sessions. A dataset without the append dimension
    is one session: its id is that of ``facts``, of a scalar coordinate, or of the attribute
    ``session_id``.
    """
    own = tuple(dim for dim in ragged if dim != append_dim)
    look = _Look(dataset, append_dim, own, facts or Facts())
    _check_names(look)
    if look.failed():
        return [], look.findings
    dataset = _clock(look, dataset)
    attributes = _attributes(look)
    sessions = list(_sessions(look, dataset)) if not look.failed() else []
    labels = _labels(look, dataset)
    made = []
    for number, (session, variables, values) in enumerate(sessions):
        if look.failed():
            break
        one = _prepare(look, session, variables, values, labels, attributes)
        made.append(one)
        if one.row.session in {earlier.row.session for earlier in made[:number]}:
            look.error(
                "session-repeated", session, "the dataset holds this session twice",
                "give every session an id of its own",
            )  # fmt: skip
    return ([] if look.failed() else made), look.findings


def blocks(variable: xr.Variable, rows: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """Offset along the first dimension and values, of at most :data:`BLOCK` bytes each or so."""
    import numpy as np

    if not variable.ndim:
        yield 0, np.asarray(variable.values)
        return
    length = variable.shape[0]
    each = max(1, math.prod(variable.shape[1:]) * variable.dtype.itemsize)
    step = rows or max(1, BLOCK // each)
    for start in range(0, length, step):
        yield start, np.asarray(variable[start : start + step].values)


def trimmed(session: xr.Dataset, ragged: Sequence[str]) -> xr.Dataset:
    """One session of a store without its padding."""
    for number, dim in enumerate(ragged):
        name = length_name(number, dim)
        if dim in session.dims and name in session.variables:
            session = session.isel({dim: slice(int(session[name]))})
    return session


def length_name(number: int, dim: str) -> str:
    """The array that says how long sessions are along a ragged dimension, by its number."""
    return f"n_{dim}" if number else "n_windows"


def _check_names(look: _Look) -> None:
    dataset = look.dataset
    if not dataset.data_vars:
        look.error("no-variables", "", "the dataset has no variables", "send one that has")
    if len(dataset.variables) > MAX_VARIABLES:
        found = len(dataset.variables)
        look.error("too-many-variables", "", f"expected at most {MAX_VARIABLES}, got {found}")
    for name in [*dataset.variables, *dataset.dims]:
        if not layout.is_variable(name):
            look.error(
                "bad-variable", shown(str(name)), "not a usable name of a variable or dimension",
                "use a letter, then up to 62 of A-Z a-z 0-9 _ . -",
            )  # fmt: skip


def _clock(look: _Look, dataset: xr.Dataset) -> xr.Dataset:
    """``time`` becomes a position; what it said becomes ``timestamp``, in ms since 1970 UTC."""
    import numpy as np

    for dim in look.ragged:
        if dim not in dataset.coords or dataset[dim].dims != (dim,):
            continue
        values = dataset[dim].variable
        dataset = dataset.drop_vars(dim)
        position = values.dtype.kind in "iu" and np.array_equal(
            values.values, np.arange(values.size)
        )
        if position:
            continue
        name = CLOCK if dim == "time" else f"{dim}_value"
        if name in dataset.variables:
            look.error(
                "clock-twice", dim, f"there are both values of {dim} and a variable {name}",
                f"drop one of the two: {dim} is a position in the store",
            )  # fmt: skip
            continue
        dataset = dataset.assign({name: _milliseconds(values) if dim == "time" else values})
    return dataset


def _milliseconds(values: xr.Variable) -> xr.Variable:
    import numpy as np
    import xarray as xr

    if values.dtype.kind != "M":
        attrs = {**CLOCK_ATTRIBUTES, **values.attrs}
        return xr.Variable(values.dims, values.values.astype("float64"), attrs)
    moments = values.values.astype("datetime64[us]")
    numbers = moments.astype("int64") / 1000
    numbers[np.isnat(moments)] = np.nan
    return xr.Variable(values.dims, numbers, dict(CLOCK_ATTRIBUTES))


def _attributes(look: _Look) -> dict[str, Any]:
    """The dataset's attributes as plain JSON."""
    plain: dict[str, Any] = {}
    for name, value in look.dataset.attrs.items():
        if name == "catchment":  # of the store that it was read from
            continue
        try:
            plain[str(name)] = json.loads(json.dumps(value, default=_plain, allow_nan=False))
        except (TypeError, ValueError):
            look.warning(
                "attribute-dropped", shown(str(name)), "not a number, text or list of them",
                "convert it, if readers shall see it",
            )  # fmt: skip
    size = len(json.dumps(plain))
    if size > MAX_ATTRIBUTES:
        look.error(
            "attributes-too-large", "", f"expected at most {MAX_ATTRIBUTES} bytes, got {size}",
            "keep what is long in a variable, or in a file beside the store",
        )  # fmt: skip
    return plain


def _plain(value: Any) -> Any:
    import numpy as np

    if isinstance(value, np.generic | np.ndarray):
        if value.dtype.kind in "Mm":
            return np.asarray(value).astype(str).tolist()
        return value.tolist()
    raise TypeError


def _sessions(
    look: _Look, dataset: xr.Dataset
) -> Iterator[tuple[str, dict[str, xr.Variable], dict[str, Any]]]:
    """Id, variables and scalar values of each session of the dataset."""
    dim = look.append_dim
    if dim not in dataset.dims:
        single = _id(look, dataset)
        if single is None:
            return
        if dim in dataset.coords:
            dataset = dataset.drop_vars(dim)
        named = {
            str(name): variable
            for name, variable in dataset.variables.items()
            if name in dataset.data_vars or set(variable.dims) & set(look.ragged)
        }
        yield single, *_split(look, named)
        return
    if dim == "session" or dim in dataset.coords:
        labels = _session_ids(look, dataset)
    else:
        labels = [str(position) for position in range(dataset.sizes[dim])]
    if look.failed():
        return
    for position, label in enumerate(labels):
        chosen = dataset.isel({dim: position})
        if _is_tombstone(dataset, dim, position):
            continue
        chosen = trimmed(chosen, look.ragged)
        named = {
            str(name): chosen[name].variable
            for name, variable in dataset.variables.items()
            if (dim in variable.dims or set(variable.dims) & set(look.ragged)) and name != dim
        }
        yield label, *_split(look, named)


def _is_tombstone(dataset: xr.Dataset, dim: str, position: int) -> bool:
    """The dataset is a store's, and this is where a session was."""
    status = dataset.get("status")
    return status is not None and status.dims == (dim,) and bool(status.values[position])


def _session_ids(look: _Look, dataset: xr.Dataset) -> list[str]:
    dim = look.append_dim
    if look.facts.session is not None and dataset.sizes[dim] == 1:
        labels = [look.facts.session]
    elif dim in dataset.coords and dataset[dim].dims == (dim,):
        labels = [_text(label) for label in dataset[dim].values]
    elif dataset.sizes[dim] == 1:
        one = _id(look, dataset)
        labels = [] if one is None else [one]
    else:
        look.error(
            "session-missing", dim, f"{dataset.sizes[dim]} sessions have no ids",
            f"give the dataset a coordinate {dim} with an id for each",
        )  # fmt: skip
        return []
    for position, label in enumerate(labels):
        if not _is_tombstone(dataset, dim, position):
            _check_id(look, label)
    return labels


def _id(look: _Look, dataset: xr.Dataset) -> str | None:
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
    return label if _check_id(look, label := _text(found)) else None


def _check_id(look: _Look, label: str) -> bool:
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


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _split(
    look: _Look, named: Mapping[str, xr.Variable]
) -> tuple[dict[str, xr.Variable], dict[str, Any]]:
    """Variables with dimensions of their own, and scalars."""
    arrays = {name: variable for name, variable in named.items() if variable.ndim}
    scalars = {
        name: _simple(variable.values[()]) for name, variable in named.items() if not variable.ndim
    }
    for name in FACTS:
        if name in arrays:
            look.error("reserved-variable", name, "the store keeps an array of this name itself",
                       "rename the variable")  # fmt: skip
    return arrays, scalars


def _labels(look: _Look, dataset: xr.Dataset) -> dict[str, xr.Variable]:
    """Variables that are the same for all sessions: names of channels and the like."""
    found: dict[str, xr.Variable] = {}
    for name, variable in dataset.variables.items():
        own = set(variable.dims)
        per_session = look.append_dim in own or own & set(look.ragged)
        if per_session or name == look.append_dim:
            continue
        if name in dataset.data_vars and look.append_dim not in dataset.dims:
            continue  # gets the append dimension
        if variable.size > MAX_LABELS:
            look.error("labels-too-many", str(name),
                       f"expected at most {MAX_LABELS} labels, got {variable.size}")  # fmt: skip
        elif variable.ndim != 1:
            look.warning("label-dropped", str(name), "neither labels of a dimension nor a variable",
                         f"make it a variable of the dimension {look.append_dim}")  # fmt: skip
        else:
            found[str(name)] = variable
            texts = [str(value) for value in variable.values]
            if name in variable.dims and len(set(texts)) < len(texts):
                look.error("labels-repeated", str(name), "a label occurs twice",
                           "give every channel a name of its own")  # fmt: skip
    return found


def _prepare(  # noqa: PLR0917 - all that makes a session
    look: _Look,
    session: str,
    variables: dict[str, xr.Variable],
    values: dict[str, Any],
    labels: Mapping[str, xr.Variable],
    attributes: dict[str, Any],
) -> Prepared:
    variables = {name: _typed(look, name, v) for name, v in sorted(variables.items())}
    windows = _windows(look, variables)
    facts = look.facts
    for number, dim in enumerate(look.ragged):
        lengths = [v.sizes[dim] for v in variables.values() if dim in v.dims]
        if number and lengths:
            values[length_name(number, dim)] = lengths[0]
    row = Row(
        session,
        windows,
        "",
        site=str(values.pop("site", "") if facts.site is None else facts.site),
        start=_start(facts, values, variables),
        source=str(values.pop("source", "") if facts.source is None else facts.source),
        transform=str(values.pop("transform", "") if facts.transform is None else facts.transform),
        values={name: value for name, value in sorted(values.items()) if name not in FACTS},
        attributes=attributes,
    )
    schema = _schema(look, variables, row.values, labels)
    digest, raw = _digest(look, variables, row) if not look.failed() else ("", 0)
    row = replace(row, content_hash=digest, schema=schema.fingerprint)
    return Prepared(row, schema, variables, labels, raw)


def _typed(look: _Look, name: str, variable: xr.Variable) -> xr.Variable:
    """The variable in a type that a store keeps: moments as ms, text as text."""
    import numpy as np
    import xarray as xr

    kind = variable.dtype.kind
    if kind == "M":
        moments = variable.values.astype("datetime64[ms]").astype("int64")
        attrs = {**variable.attrs, "units": EPOCH_UNITS, "calendar": "proleptic_gregorian"}
        return xr.Variable(variable.dims, moments, attrs)
    if kind in "OUST":
        values = variable.values
        if all(isinstance(value, str | bytes) for value in values.reshape(-1)):
            texts = np.array([_text(v) for v in values.reshape(-1)], dtype=object)
            return xr.Variable(variable.dims, texts.reshape(values.shape), variable.attrs)
    elif (kind in "fiub" and variable.dtype.itemsize <= 8) or kind == "c":
        return variable.astype(variable.dtype.newbyteorder("<"), copy=False)
    look.error("dtype-unsupported", name, f"values of type {variable.dtype} cannot be kept",
               "convert them to numbers or text")  # fmt: skip
    return variable


def _windows(look: _Look, variables: Mapping[str, xr.Variable]) -> int:
    lengths: dict[str, set[int]] = {}
    for variable in variables.values():
        for dim, size in zip(variable.dims, variable.shape, strict=True):
            if dim in look.ragged:
                lengths.setdefault(str(dim), set()).add(size)
    windows = next((max(lengths[dim]) for dim in look.ragged if dim in lengths), 1)
    if not windows:
        look.error("no-windows", look.ragged[0], "the session has no windows",
                   "send a longer recording")  # fmt: skip
    return windows


def _start(facts: Facts, values: dict[str, Any], variables: Mapping[str, xr.Variable]) -> float:
    import numpy as np

    told = values.pop("start", None)
    if facts.start is not None:
        return facts.start
    if isinstance(told, int | float):
        return float(told)
    clock = variables.get(CLOCK)
    if clock is None or clock.dtype.kind != "f" or not clock.size:
        return math.nan
    known = clock.values[np.isfinite(clock.values)]
    return float(known.min()) if known.size else math.nan


def _schema(
    look: _Look,
    variables: Mapping[str, xr.Variable],
    values: Mapping[str, Any],
    labels: Mapping[str, xr.Variable],
) -> Schema:
    described: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    for name, variable in variables.items():
        described[name] = {"dims": list(variable.dims), "dtype": _type(variable)}
        for attribute in IDENTITY:
            value = {**variable.encoding, **variable.attrs}.get(attribute)
            if value is not None:
                described[name][attribute] = _simple(value)
        sizes |= {
            str(dim): size
            for dim, size in zip(variable.dims, variable.shape, strict=True)
            if dim not in look.ragged
        }
    for name, value in values.items():
        described[name] = {"dims": [], "dtype": _scalar_type(value)}
    same = {
        name: {
            "dims": list(variable.dims),
            "dtype": "string" if variable.dtype.kind in "OUST" else str(variable.dtype),
            "values": [_simple(v) for v in variable.values],
        }
        for name, variable in labels.items()
    }
    return Schema(look.append_dim, list(look.ragged), described, same, sizes)


def _type(variable: xr.Variable) -> str:
    return "string" if variable.dtype.kind in "OUT" else variable.dtype.name


def _scalar_type(value: object) -> str:
    return {bool: "bool", int: "int64", float: "float64"}.get(type(value), "string")


def _simple(value: Any) -> Any:
    moment = getattr(value, "dtype", None) is not None and value.dtype.kind in "Mm"
    value = value.item() if hasattr(value, "item") and not moment else value
    return value if isinstance(value, bool | int | float) else _text(value)


def digest(
    variables: Mapping[str, xr.Variable], values: Mapping[str, Any]
) -> tuple[str, int, dict[str, tuple[int, int]]]:
    """SHA-256 over all values, their bytes, and how many of each variable are NaN and infinite."""
    import numpy as np

    total, parts, odd = 0, [], {}
    for name, variable in sorted(variables.items()):
        hashed = hashlib.sha256()
        missing = infinite = 0
        for _, block in blocks(variable):
            if block.dtype.kind in "OT":
                data = json.dumps([str(text) for text in block.reshape(-1)]).encode()
                hashed.update(data)
                total += len(data)
                continue
            block = np.ascontiguousarray(block)  # noqa: PLW2901 - the same values
            hashed.update(block.reshape(-1).view("u1"))
            total += block.nbytes
            if block.dtype.kind in "fc" and not np.isfinite(block).all():
                missing += int(np.isnan(block).sum())
                infinite += int(np.isinf(block).sum())
        shape = list(variable.shape)
        parts.append([name, list(variable.dims), _type(variable), shape, hashed.hexdigest()])
        if missing or infinite:
            odd[name] = missing, infinite
    text = json.dumps([parts, dict(sorted(values.items()))])
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}", total, odd


def _digest(look: _Look, variables: Mapping[str, xr.Variable], row: Row) -> tuple[str, int]:
    """The digest and the bytes of a session; tells of what is missing or infinite."""
    hashed, total, odd = digest(variables, row.values)
    for name, (missing, infinite) in odd.items():
        size = variables[name].size
        if infinite:
            look.error("values-infinite", name, f"{infinite} of {size} are infinite",
                       "mend the recording, or replace them by NaN")  # fmt: skip
        if missing == size:
            look.error("values-missing-all", name, f"all {missing} values are missing",
                       "leave the variable out, or mend the recording")  # fmt: skip
        elif missing:
            look.warning("values-missing", name, f"{missing} of {size} are missing (NaN)",
                         "nothing, if the recording has gaps there")  # fmt: skip
    return hashed, total

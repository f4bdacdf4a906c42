"""A dataset becomes sessions that can be appended, or findings that say why it cannot.

Nothing is written here. Values are read once, block by block, for the digest and for the count of
what is missing or infinite, so a dataset may be larger than memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from catchment.arrays import layout, openable
from catchment.arrays.content import (
    CLOCK,
    digest,
    json_value,
    length_name,
    scalar_type,
    simple,
    stable,
    strictly,
    text_of,
    trimmed,
    type_of,
)
from catchment.arrays.look import Facts, Look, is_tombstone, session_ids, single_id
from catchment.arrays.model import Row
from catchment.arrays.schema import IDENTITY, Schema
from catchment.core.finding import Finding
from catchment.core.names import shown

if TYPE_CHECKING:
    import xarray as xr

RAGGED = ("time",)
MAX_LABELS = 65_536
MAX_VARIABLES = 256
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
    look = Look(dataset, append_dim, tuple(ragged), facts or Facts())
    if append_dim in ragged:
        look.error(
            "append-dim-positions", append_dim, "the store grows by sessions, not by positions",
            "leave --append-dim out, or append to a new store",
        )  # fmt: skip
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


def _check_names(look: Look) -> None:
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


def _clock(look: Look, dataset: xr.Dataset) -> xr.Dataset:
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
        if dim != "time":
            dataset = dataset.assign({name: values})
        elif (clock := openable.clock(look, values)) is not None:
            dataset = dataset.assign({name: clock})
    return dataset


def _attributes(look: Look) -> dict[str, Any]:
    """The dataset's attributes as plain JSON."""
    plain: dict[str, Any] = {}
    for name, value in look.dataset.attrs.items():
        if name == "catchment":  # of the store that it was read from
            continue
        try:
            plain[str(name)] = json_value(value)
        except (TypeError, ValueError):
            look.warning(
                "attribute-dropped", shown(str(name)), "not a number, text or list of them",
                "convert it, if readers shall see it",
            )  # fmt: skip
    size = len(json.dumps(plain))
    if size > openable.MAX_ATTRIBUTES:
        look.error(
            "attributes-too-large", "",
            f"expected at most {openable.MAX_ATTRIBUTES} bytes, got {size}",
            "keep what is long in a variable, or in a file beside the store",
        )  # fmt: skip
    openable.check_attributes(look)
    return plain


def _sessions(
    look: Look, dataset: xr.Dataset
) -> Iterator[tuple[str, dict[str, xr.Variable], dict[str, Any]]]:
    """Id, variables and scalar values of each session of the dataset."""
    dim = look.append_dim
    if dim not in dataset.dims:
        single = single_id(look, dataset)
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
    labels = session_ids(look, dataset)
    if look.failed():
        return
    for position, label in enumerate(labels):
        chosen = dataset.isel({dim: position})
        if is_tombstone(dataset, dim, position):
            continue
        chosen = trimmed(chosen, look.ragged)
        named = {
            str(name): chosen[name].variable
            for name, variable in dataset.variables.items()
            if (dim in variable.dims or set(variable.dims) & set(look.ragged)) and name != dim
        }
        yield label, *_split(look, named)


def _split(
    look: Look, named: Mapping[str, xr.Variable]
) -> tuple[dict[str, xr.Variable], dict[str, Any]]:
    """Variables with dimensions of their own, and scalars."""
    arrays = {name: variable for name, variable in named.items() if variable.ndim}
    scalars = {
        name: simple(variable.values[()]) for name, variable in named.items() if not variable.ndim
    }
    for name in FACTS:
        if name in arrays:
            look.error("reserved-variable", name, "the store keeps an array of this name itself",
                       "rename the variable")  # fmt: skip
    return arrays, scalars


def _labels(look: Look, dataset: xr.Dataset) -> dict[str, xr.Variable]:
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
            openable.check_labels(look, str(name), variable, texts)
            if name in variable.dims and len(set(texts)) < len(texts):
                look.error("labels-repeated", str(name), "a label occurs twice",
                           "give every channel a name of its own")  # fmt: skip
    return found


def _prepare(  # noqa: PLR0917 - all that makes a session
    look: Look,
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
    openable.check_row(look, row)
    schema = _schema(look, variables, row.values, labels)
    digest, raw = _digest(look, variables, row) if not look.failed() else ("", 0)
    row = replace(row, content_hash=digest, schema=schema.fingerprint)
    return Prepared(row, schema, variables, labels, raw)


def _typed(look: Look, name: str, variable: xr.Variable) -> xr.Variable:
    """The variable in a type that a store keeps: moments as ms, text as text."""
    import numpy as np
    import xarray as xr

    kind = variable.dtype.kind
    if not variable.size and variable.sizes.keys() - set(look.ragged):
        look.error("variable-empty", name, f"it has no values: its shape is {variable.shape}",
                   "leave it out")  # fmt: skip
    if kind == "M":
        return openable.moments(look, name, variable)
    if kind in "OUST":
        values = variable.values
        if all(isinstance(value, str | bytes) for value in values.reshape(-1)):
            if not openable.check_texts(look, name, map(strictly, values.reshape(-1))):
                return variable
            texts = np.array([text_of(v) for v in values.reshape(-1)], dtype=object)
            return xr.Variable(variable.dims, texts.reshape(values.shape), variable.attrs)
    elif (kind in "fiub" and variable.dtype.itemsize <= 8) or kind == "c":
        openable.check_values(look, name, variable)
        return variable.astype(variable.dtype.newbyteorder("<"), copy=False)
    look.error("dtype-unsupported", name, f"values of type {variable.dtype} cannot be kept",
               "convert them to numbers or text")  # fmt: skip
    return variable


def _windows(look: Look, variables: Mapping[str, xr.Variable]) -> int:
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
    look: Look,
    variables: Mapping[str, xr.Variable],
    values: Mapping[str, Any],
    labels: Mapping[str, xr.Variable],
) -> Schema:
    described: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    for name, variable in variables.items():
        described[name] = {"dims": list(variable.dims), "dtype": type_of(variable)}
        for attribute in IDENTITY:
            value = {**variable.encoding, **variable.attrs}.get(attribute)
            if value is not None:
                described[name][attribute] = stable(value)
        sizes |= {
            str(dim): size
            for dim, size in zip(variable.dims, variable.shape, strict=True)
            if dim not in look.ragged
        }
    for name, value in values.items():
        described[name] = {"dims": [], "dtype": scalar_type(value)}
    same = {
        name: {
            "dims": list(variable.dims),
            "dtype": "string" if variable.dtype.kind in "OUST" else str(variable.dtype),
            "values": [stable(v) for v in variable.values],
        }
        for name, variable in labels.items()
    }
    return Schema(look.append_dim, list(look.ragged), described, same, sizes)


def _digest(look: Look, variables: Mapping[str, xr.Variable], row: Row) -> tuple[str, int]:
    """The digest and the bytes of a session; tells of what is missing or infinite."""
    hashed, total, odd = digest(variables, row.values)
    for name, (missing, infinite) in odd.items():
        look.odd(name, variables[name].size, missing, infinite)
    return hashed, total

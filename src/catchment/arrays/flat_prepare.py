"""What comes to a store that grows by positions: looked at before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from catchment.arrays import layout
from catchment.arrays.content import digest, simple, text_of, type_of
from catchment.arrays.foreign import Group
from catchment.arrays.look import Look, check_id
from catchment.arrays.schema import IDENTITY, Schema, differences
from catchment.core.errors import Invalid
from catchment.core.names import shown

if TYPE_CHECKING:
    import xarray as xr

TARGET = 4 << 20  # bytes of a chunk of a new store


def grows(dataset: xr.Dataset, dim: str) -> bool:
    """Whether a new store for the dataset grows by positions, and not by sessions."""
    if dim == "session" or dim not in dataset.dims:
        return False
    labels = dataset.coords.get(dim)
    return labels is None or labels.dtype.kind not in "OUST"


@dataclass(frozen=True)
class Sent:
    """What came, ready to be written.

    Attributes:
        session: its id, or its digest where it has none.
        labels: along the dimension, where they are text.
    """

    dataset: xr.Dataset
    session: str
    content_hash: str
    raw_bytes: int
    labels: Sequence[str]


def with_dim(look: Look, existing: xr.Dataset | None) -> xr.Dataset:
    """The dataset with the dimension that grows, and its label where the store has labels."""
    dataset, dim = look.dataset, look.append_dim
    labelled = (
        existing is not None and dim in existing.coords and existing[dim].dtype.kind in "OUST"
    )
    name = look.facts.session or dataset.attrs.get("session_id")
    if isinstance(name, list | tuple):
        name = name[0] if name else None
    if dim not in dataset.dims:
        dataset = dataset.drop_vars(dim, errors="ignore").expand_dims(dim)
    if labelled and dim not in dataset.coords and dataset.sizes[dim] == 1:
        if name is None:
            look.error(
                "session-missing", "", "the session has no id",
                "set the attribute session_id, or give --session",
            )  # fmt: skip
        elif check_id(look, text_of(name)):
            dataset = dataset.assign_coords({dim: [text_of(name)]})
    return dataset


def along(dataset: xr.Dataset, dim: str) -> dict[str, xr.Variable]:
    """Variables that grow."""
    return {str(n): v for n, v in dataset.variables.items() if dim in v.dims}


def digest_of(variables: Mapping[str, xr.Variable]) -> tuple[str, int, dict[str, tuple[int, int]]]:
    """As :func:`digest`, of values as they are decoded, whatever keeps them."""
    return digest({name: _plain(variable) for name, variable in variables.items()}, {})


def _plain(variable: xr.Variable) -> xr.Variable:
    import numpy as np
    import xarray as xr

    if variable.dtype.kind == "M":
        moments = variable.values.astype("datetime64[ns]").astype("int64")
        return xr.Variable(variable.dims, moments)
    if variable.dtype.kind in "OUST":
        texts = np.array([text_of(v) for v in variable.values.reshape(-1)], dtype=object)
        return xr.Variable(variable.dims, texts.reshape(variable.shape))
    if variable.dtype.kind in "fiubc":
        return variable.astype(variable.dtype.newbyteorder("<"), copy=False)
    return variable


def check(look: Look, dataset: xr.Dataset, existing: xr.Dataset | None, dim: str) -> None:
    """Findings about what does not go with the store."""
    variables = along(dataset, dim)
    if not any(name in dataset.data_vars for name in variables):
        look.error(
            "no-variables", "", f"the dataset has no variables along {dim}", "send one that has"
        )
    for name, variable in variables.items():
        if not layout.is_variable(name):
            look.error("bad-variable", shown(name), "not a usable name of a variable or dimension",
                       "use a letter, then up to 62 of A-Z a-z 0-9 _ . -")  # fmt: skip
        if variable.dtype.kind not in "fiubcMOUST":
            look.error("dtype-unsupported", name, f"values of type {variable.dtype} cannot be kept",
                       "convert them to numbers or text")  # fmt: skip
    if not dataset.sizes[dim]:
        look.error("no-windows", dim, "there are no positions", "send a longer recording")
    if existing is None:
        return
    for code, where, message in differences(_schema(existing, dim), _schema(dataset, dim)):
        look.error(code, where, message,
                   "bring it into line, or move to a store of sessions, which may differ in "
                   "length: catchment arrays append OLD NEW")  # fmt: skip


def _schema(dataset: xr.Dataset, dim: str) -> Schema:
    described: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    for name, variable in along(dataset, dim).items():
        kind = "datetime" if variable.dtype.kind == "M" else type_of(_first(variable))
        described[name] = {"dims": [str(d) for d in variable.dims], "dtype": kind}
        for attribute in IDENTITY:
            if attribute in variable.attrs:
                described[name][attribute] = simple(variable.attrs[attribute])
        sizes |= {str(d): n for d, n in variable.sizes.items() if d != dim}
    labels = {
        str(name): {
            "dims": [str(d) for d in variable.dims],
            "dtype": type_of(_first(variable)),
            "values": [simple(v) for v in variable.values],
        }
        for name, variable in dataset.variables.items()
        if dim not in variable.dims and variable.ndim == 1 and name in variable.dims
    }
    return Schema(dim, [], described, labels, sizes)


def _first(variable: xr.Variable) -> xr.Variable:
    """A variable of text as one of objects, that types can be compared."""
    return variable.astype(object) if variable.dtype.kind in "UST" else variable


def sent_of(look: Look, dataset: xr.Dataset, dim: str) -> Sent:
    """The digest of what came, and whose it is; notes what is infinite or missing."""
    variables = along(dataset, dim)
    hashed, raw, odd = digest_of(variables)
    for name, (missing, infinite) in odd.items():
        look.odd(name, variables[name].size, missing, infinite)
    labels = []
    if dim in dataset.coords and dataset[dim].dtype.kind in "OUST":
        labels = [text_of(label) for label in dataset[dim].values]
        for label in labels:
            check_id(look, label)
        if len(set(labels)) < len(labels):
            look.error("session-repeated", dim, "the dataset holds a session twice",
                       "give every session an id of its own")  # fmt: skip
    name = look.facts.session or dataset.attrs.get("session_id") or "\n".join(labels) or hashed
    if isinstance(name, list | tuple):
        name = name[0]
    return Sent(dataset, text_of(name), hashed, raw, labels)


def check_chunks(group: Group, chunks: Mapping[str, int] | None) -> None:
    """Invalid (kind ``chunks-fixed``) if other chunks are asked for than the store has."""
    for name, sizes in group.chunks().items():
        for dim, size in (chunks or {}).items():
            if sizes.get(dim, size) != size:
                raise Invalid(
                    f"the store has chunks of {sizes[dim]} along {dim} of {name}, got {size}",
                    kind="chunks-fixed",
                    hint="leave it out",
                )


def new_chunks(
    variables: Mapping[str, xr.Variable], dim: str, chunks: Mapping[str, int]
) -> Iterator[tuple[str, dict[str, int]]]:
    """Sizes of chunks of a new store."""
    known = {str(d): n for v in variables.values() for d, n in v.sizes.items()}
    for wanted, size in chunks.items():
        if wanted not in known or size < 1:
            raise Invalid(
                f"chunks: expected positive sizes for {', '.join(sorted(known))},"
                f" got {wanted}={size}",
                kind="bad-chunks",
            )
    for name, variable in variables.items():
        each = max(1, variable.nbytes // max(1, variable.sizes[dim]))
        yield (
            name,
            {
                str(d): chunks.get(
                    str(d), max(1, min(TARGET // each, 1 << 16)) if d == dim else max(1, n)
                )
                for d, n in variable.sizes.items()
            },
        )


def texts(dataset: xr.Dataset) -> xr.Dataset:
    """Text as objects, which may have any length; coarse moments in microseconds.

    Xarray makes NaT of moments in ms that a store keeps in microseconds.
    """
    made = dataset.copy()
    for name, variable in dataset.variables.items():
        if variable.dtype.kind in "UST":
            made[name] = variable.astype(object)
        elif variable.dtype in ("datetime64[s]", "datetime64[ms]"):
            made[name] = variable.astype("datetime64[us]")
    return made


def encodable(dataset: xr.Dataset) -> xr.Dataset:
    """Types that later appends can go on with: text of any length, moments in fine units."""
    made = texts(dataset)
    for name, variable in made.variables.items():
        made[name].encoding = {}
        if variable.dtype.kind == "M":
            fine = (variable.values != variable.values.astype("datetime64[us]")).any()
            unit = "nanoseconds" if fine else "microseconds"
            made[name].encoding = {"units": f"{unit} since 1970-01-01", "dtype": "int64"}
    return made

"""What can be written down, and what plain readers can open: both are looked at before a write.

Xarray decodes attributes and moments by itself, the first and the last of the moments as it opens a
store: one that it cannot say would keep readers from all sessions.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from catchment.arrays import layout
from catchment.arrays.content import blocks, json_value, milliseconds, speakable
from catchment.core.errors import Invalid
from catchment.core.names import shown

if TYPE_CHECKING:
    import xarray as xr

    from catchment.arrays.document import Document
    from catchment.arrays.look import Look
    from catchment.arrays.model import Row

MAX_ATTRIBUTES = 64 << 10  # bytes of a session's attributes as JSON, or of its single values
MAX_DESCRIBED = 1 << 20  # of the attributes of all variables
MAX_LABELS = 2 << 20  # characters of the labels of a variable
EPOCH_UNITS = "milliseconds since 1970-01-01"
_DECODED = frozenset({"scale_factor", "add_offset", "_FillValue", "missing_value"})
_SPANS = frozenset(
    ["days", "hours", "minutes", "seconds", "milliseconds", "microseconds", "nanoseconds"]
)


def moments(look: Look, name: str, variable: xr.Variable) -> xr.Variable:
    """Moments as whole ms since 1970 UTC; tells where they had more than that."""
    import numpy as np
    import xarray as xr

    values = variable.values
    attrs = {**variable.attrs, "units": EPOCH_UNITS, "calendar": "proleptic_gregorian"}
    try:
        made = values.astype("datetime64[ms]")
    except OverflowError:  # of what is counted in years, or seconds
        unreadable(look, name)
        return xr.Variable(variable.dims, np.zeros(values.shape, "int64"), attrs)
    known = ~np.isnat(made)
    if (made[known].astype(values.dtype) != values[known]).any():
        look.warning(
            "moments-rounded", name, "its moments are kept in whole milliseconds",
            "send what is finer as a number",
        )  # fmt: skip
    told = xr.Variable(variable.dims, made.astype("int64"), attrs)
    check_values(look, name, told)
    return told


def clock(look: Look, values: xr.Variable) -> xr.Variable | None:
    """A coordinate ``time`` in ms; None, with an error, where it is none."""
    try:
        if values.dtype.kind in "iufbMm":
            return milliseconds(values)
    except OverflowError:
        unreadable(look, "time")
        return None
    look.error("dtype-unsupported", "time", f"a clock of type {values.dtype} cannot be kept",
               "convert it to moments, or to ms")  # fmt: skip
    return None


def unreadable(look: Look, name: str) -> None:
    """Note that readers could not decode values."""
    look.error(
        "moments-unreadable", name, "plain readers cannot say these values in their units",
        "moments lie between the years 1678 and 2261; or send numbers without units",
    )  # fmt: skip


def check_values(look: Look, name: str, variable: xr.Variable) -> None:
    """Note an error if readers could not decode the least or the greatest of the values."""
    import numpy as np
    import xarray as xr

    units = variable.attrs.get("units")
    timed = isinstance(units, str) and (" since " in units or units in _SPANS)
    if variable.dtype.kind not in "iuf" or not (timed or _DECODED & variable.attrs.keys()):
        return
    ends: list[Any] = []
    for _, block in blocks(variable):
        known = block[np.isfinite(block)] if block.dtype.kind == "f" else _told(block)
        if known.size:
            ends += [known.min(), known.max()]
    sample = np.array([min(ends), max(ends)] if ends else [0, 0], variable.dtype)
    one = xr.Variable(("x",), sample, dict(variable.attrs))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it cannot decode exactly
            xr.decode_cf(xr.Dataset({"value": one})).load()
    except Exception:  # noqa: BLE001 - whatever a decoder raises
        unreadable(look, name)


def _told(block: Any) -> Any:
    """Whole numbers but for the one that stands for no moment."""
    import numpy as np

    return block[block != np.iinfo("int64").min] if block.dtype == "int64" else block


def check_attributes(look: Look) -> None:
    """What variables' attributes come to: a store keeps them in the object that is its root."""
    size = 0
    for name, variable in look.dataset.variables.items():
        for attribute, value in variable.attrs.items():
            try:
                size += len(json.dumps(json_value(value)))
            except (TypeError, ValueError):
                look.warning(
                    "attribute-dropped", shown(f"{name}.{attribute}"),
                    "not a number, text or list of them", "convert it, if readers shall see it",
                )  # fmt: skip
    if size > MAX_DESCRIBED:
        look.error(
            "attributes-too-large", "",
            f"expected at most {MAX_DESCRIBED} bytes of variables' attributes, got {size}",
            "keep what is long in a variable, or in a file beside the store",
        )  # fmt: skip


def check_labels(look: Look, name: str, variable: xr.Variable, texts: list[str]) -> None:
    """Note an error if labels cannot stand in the metadata of a store."""
    if variable.dtype.kind not in "fiubcOUST":
        look.error("dtype-unsupported", name, f"labels of type {variable.dtype} cannot be kept",
                   "convert them to numbers or text")  # fmt: skip
    check_texts(look, name, texts)
    size = sum(map(len, texts))
    if size > MAX_LABELS:
        look.error("labels-too-many", name,
                   f"expected at most {MAX_LABELS} characters of labels, got {size}",
                   "give channels short names")  # fmt: skip


def check_texts(look: Look, name: str, texts: Iterable[str]) -> bool:
    """Whether texts can be written down; notes an error if not."""
    well = speakable(texts)
    if not well:
        look.error("text-unusable", name, "text that is no Unicode, or bytes that are no UTF-8",
                   "read the file with its own encoding")  # fmt: skip
    return well


def check_row(look: Look, row: Row) -> None:
    """What a commit says of a session can be written down, and shown in the arrays of rows."""
    for name, value in row.values.items():
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            look.error("dtype-unsupported", name, "a whole number of more than 64 bits with a sign",
                       "send it as a number with a point, or as text")  # fmt: skip
    told = [row.site, row.source, row.transform]
    texts = [*told, *(value for value in row.values.values() if isinstance(value, str))]
    check_texts(look, row.session, texts)
    size = sum(map(len, texts))
    if size > MAX_ATTRIBUTES:
        look.error("attributes-too-large", row.session,
                   f"expected at most {MAX_ATTRIBUTES} characters of single values, got {size}",
                   "keep what is long in a file beside the store")  # fmt: skip


def check_document(document: Document, objects: Mapping[str, bytes]) -> None:
    """Invalid (kind ``not-openable``) if xarray could not open a store that begins so."""
    import xarray as xr

    from catchment.arrays.zarr_store import CoreStore

    ragged = dict.fromkeys(document.schema.ragged, 1)
    begun = document.grown(commit=0, size=1, ragged=ragged)
    view = CoreStore(None, {layout.ROOT: begun.dumps(), **objects})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = xr.open_zarr(view, consolidated=True, zarr_format=3, chunks=None)
            found.isel(dict.fromkeys(found.dims, 0)).load()
    except Exception as error:  # noqa: BLE001 - whatever a reader raises
        raise Invalid(
            f"xarray could not open a store with these variables ({type(error).__name__})",
            kind="not-openable",
            hint="look at their attributes: units, _FillValue, scale_factor, dtype and the like",
        ) from None

"""Values of sessions: read block by block, told apart by a digest."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

BLOCK = 16 << 20  # bytes that are looked at together
DEEPEST = 20  # lists within one another in an attribute
CLOCK = "timestamp"  # float64, ms since 1970 UTC; ``time`` itself is an integer position
# Not in the words of CF, so that readers get the numbers: a recording's clock has microseconds.
CLOCK_ATTRIBUTES = {"units": "ms", "epoch": "1970-01-01T00:00:00Z"}


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
        parts.append([name, list(variable.dims), type_of(variable), shape, hashed.hexdigest()])
        if missing or infinite:
            odd[name] = missing, infinite
    text = json.dumps([parts, dict(sorted(values.items()))])
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}", total, odd


def type_of(variable: xr.Variable) -> str:
    """The type of a variable's values, as a schema names it."""
    return "string" if variable.dtype.kind in "OUT" else variable.dtype.name


def scalar_type(value: object) -> str:
    """The same of a single value."""
    return {bool: "bool", int: "int64", float: "float64"}.get(type(value), "string")


def json_value(value: Any) -> Any:
    """What an attribute is in JSON; TypeError or ValueError where JSON cannot say it."""
    try:
        text = json.dumps(value, default=_plain, allow_nan=False, ensure_ascii=False)
        text.encode()
        found = json.loads(text)
    except RecursionError:
        raise ValueError from None
    if not _shallow(found, DEEPEST):
        raise ValueError
    return found


def _plain(value: Any) -> Any:
    import numpy as np

    if isinstance(value, np.generic | np.ndarray):
        if value.dtype.kind in "Mm":
            return np.asarray(value).astype(str).tolist()
        return value.tolist()
    raise TypeError


def _shallow(value: Any, most: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not inner or (most > 0 and all(_shallow(one, most - 1) for one in inner))


def speakable(texts: Iterable[str]) -> bool:
    """Whether all of the texts are Unicode that can be written down."""
    try:
        "\n".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True


def stable(value: Any) -> Any:
    """A value that is equal to itself in JSON, too: numbers that are none are text."""
    found = simple(value)
    return str(found) if isinstance(found, float) and not math.isfinite(found) else found


def simple(value: Any) -> Any:
    """A value as JSON can say it."""
    if getattr(value, "size", 1) != 1:
        return text_of(value.tolist())
    moment = getattr(value, "dtype", None) is not None and value.dtype.kind in "Mm"
    value = value.item() if hasattr(value, "item") and not moment else value
    return value if isinstance(value, bool | int | float) else text_of(value)


def text_of(value: Any) -> str:
    """A value as text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def strictly(value: str | bytes) -> str:
    """A value as text, which cannot be written down where its bytes are no UTF-8."""
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else value


def milliseconds(values: xr.Variable) -> xr.Variable:
    """A clock in numbers: ms since 1970 UTC where it has moments, else ms, or as it is."""
    import numpy as np
    import xarray as xr

    if values.dtype.kind == "m":  # from whenever it was begun
        spans = values.values.astype("timedelta64[us]")
        numbers = spans.astype("int64") / 1000
        numbers[np.isnat(spans)] = np.nan
        return xr.Variable(values.dims, numbers, {"units": CLOCK_ATTRIBUTES["units"]})
    if values.dtype.kind != "M":
        attrs = {**CLOCK_ATTRIBUTES, **values.attrs}
        return xr.Variable(values.dims, values.values.astype("float64"), attrs)
    moments = values.values.astype("datetime64[us]")
    numbers = moments.astype("int64") / 1000
    numbers[np.isnat(moments)] = np.nan
    return xr.Variable(values.dims, numbers, dict(CLOCK_ATTRIBUTES))

"""The schema of a store: what every session must have in common, and how two of them differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self

from catchment.core.names import shown

# Attributes that change what numbers mean: sessions that differ in one do not go together.
IDENTITY = (
    "units",
    "sampling_rate",
    "sampling_rate_hz",
    "sampling_frequency",
    "sfreq",
    "reference",
    "window_ms",
    "highpass_hz",
    "lowpass_hz",
)
_SHOWN = 6  # labels in a message


@dataclass(frozen=True)
class Schema:
    """What makes sessions go together.

    Attributes:
        append_dim: the dimension that grows.
        ragged: dimensions whose length may differ between sessions.
        variables: by name: ``dims`` (without the append dimension), ``dtype``, and those of
            :data:`IDENTITY` that it has.
        labels: variables that are the same for all sessions: ``dims``, ``dtype``, ``values``.
        sizes: of the dimensions that are neither appended to nor ragged.
    """

    append_dim: str
    ragged: Sequence[str]
    variables: Mapping[str, Mapping[str, Any]]
    labels: Mapping[str, Mapping[str, Any]]
    sizes: Mapping[str, int]

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits; equal schemas, and only they, have the same."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Plain types, ready for ``json.dumps``."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_json`."""
        return cls(**data)


def differences(store: Schema, new: Schema) -> Iterator[tuple[str, str, str]]:
    """Code, place and message of each way in which the new schema is not the store's."""
    if store.append_dim != new.append_dim:
        yield "append-dim-differs", "", _said(store.append_dim, new.append_dim)
    for name in sorted(store.variables.keys() - new.variables.keys()):
        yield "variable-missing", name, "the store has this variable, and the session has not"
    for name in sorted(new.variables.keys() - store.variables.keys()):
        yield "variable-extra", name, "the store has no such variable"
    for name in sorted(store.variables.keys() & new.variables.keys()):
        yield from _variable(name, store.variables[name], new.variables[name])
    for name in sorted(store.labels.keys() | new.labels.keys()):
        if message := _labels(store.labels.get(name), new.labels.get(name)):
            yield "labels-differ", name, message
    for dim in sorted(store.sizes.keys() & new.sizes.keys()):
        if store.sizes[dim] != new.sizes[dim]:
            yield "size-differs", dim, _said(store.sizes[dim], new.sizes[dim])


def _variable(
    name: str, store: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[tuple[str, str, str]]:
    if list(store["dims"]) != list(new["dims"]):
        yield "dims-differ", name, _said(" x ".join(store["dims"]), " x ".join(new["dims"]))
    if store["dtype"] != new["dtype"]:
        yield "dtype-differs", name, _said(store["dtype"], new["dtype"])
    for attribute in IDENTITY:
        if store.get(attribute) != new.get(attribute):
            code = {"units": "units-differ", "reference": "reference-differs"}.get(
                attribute, "sampling-differs"
            )
            message = _said(store.get(attribute), new.get(attribute))
            yield code, name, f"{attribute}: {message}"


def _labels(store: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> str:
    if store is None or new is None:
        return "the store has no such labels" if store is None else "the session lacks them"
    old, now = list(store["values"]), list(new["values"])
    if (store["dtype"], list(store["dims"])) != (new["dtype"], list(new["dims"])):
        return _said(f"{store['dtype']} {store['dims']}", f"{new['dtype']} {new['dims']}")
    if old == now:
        return ""
    if sorted(map(str, old)) == sorted(map(str, now)):
        return f"the same {len(old)} labels in another order"
    missing = [label for label in old if label not in now]
    extra = [label for label in now if label not in old]
    counts = f"expected {len(old)} labels, got {len(now)}"
    return f"{counts}; missing: {_few(missing)}; extra: {_few(extra)}"


def _few(labels: Sequence[Any]) -> str:
    some = ", ".join(shown(str(label)) for label in labels[:_SHOWN])
    return (some + (", ..." if len(labels) > _SHOWN else "")) or "none"


def _said(expected: object, got: object) -> str:
    return f"expected {shown(str(expected))}, got {shown(str(got))}"

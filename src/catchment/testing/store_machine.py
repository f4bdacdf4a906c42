"""A store and a dictionary take the same steps: nothing may tell them apart."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from catchment.core.errors import Conflict, NotFound
from catchment.core.store import Mode, Range, Segment, Store

# No key is the folder of another. "-", "." and "0" around "/" are where walks of a tree go wrong,
# and the last two where UTF-16 does.
MODEL_KEYS = (
    "a-b",
    "a.b",
    "a/b",
    "a/c-d",
    "a/c/e",
    "a/c/f/g",
    "a0",
    "b!",
    "b/a",
    "z/é",
    "z/\uffee",
    "z/😀",
)

_runs = count()


def run_as_dictionary(store: Store, examples: int) -> None:
    """That many runs of some steps, each below a prefix of its own."""

    class Machine(_AsDictionary):
        def __init__(self) -> None:
            super().__init__(store)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=15,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


class _AsDictionary(RuleBasedStateMachine):
    keys = st.sampled_from(MODEL_KEYS)
    modes = st.sampled_from(["create", "overwrite"])

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.root = f"run-{next(_runs)}/"
        self.model: dict[str, bytes] = {}

    @rule(key=keys, data=st.binary(max_size=5), mode=modes)
    def put(self, key: str, data: bytes, mode: Mode) -> None:
        self._write(key, data, mode, lambda: self.store.put(self.root + key, data, mode=mode))

    @rule(source=keys, key=keys, mode=modes)
    def copy(self, source: str, key: str, mode: Mode) -> None:
        copy = partial(self.store.copy, self.root + source, self.root + key, mode=mode)
        self._write(key, self.model.get(source), mode, copy)

    @rule(source=keys, key=keys, mode=modes)
    def append(self, source: str, key: str, mode: Mode) -> None:
        data = self.model.get(source)
        length = len(data) if data else 0
        segments: list[Segment] = [Range(self.store, self.root + source, 0, length), b"+"]
        compose = partial(self.store.compose, self.root + key, segments, mode=mode)
        self._write(key, None if data is None else data + b"+", mode, compose)

    @rule(key=keys)
    def delete(self, key: str) -> None:
        self.store.delete(self.root + key)
        self.model.pop(key, None)

    @rule(key=keys)
    def read(self, key: str) -> None:
        if key in self.model:
            assert self.store.read(self.root + key) == self.model[key]
        else:
            with pytest.raises(NotFound):
                self.store.read(self.root + key)

    @rule(prefix=st.sampled_from(["a/", "a/c/", "b/", "z/"]))
    def look(self, prefix: str) -> None:
        self._compare(prefix)

    @invariant()
    def alike(self) -> None:
        self._compare("")

    def _write(self, key: str, data: bytes | None, mode: Mode, write: Callable[[], object]) -> None:
        """A write of the data, whose source is missing where they are None."""
        taken = mode == "create" and key in self.model
        if data is None or taken:
            with pytest.raises((NotFound, Conflict) if data is None else Conflict):
                write()
        else:
            write()
            self.model[key] = data

    def _compare(self, prefix: str) -> None:
        keys = sorted((key for key in self.model if key.startswith(prefix)), key=str.encode)
        listed = [(s.key, s.size) for s in self.store.list(self.root + prefix)]
        assert listed == [(self.root + key, len(self.model[key])) for key in keys]
        parts = {key[len(prefix) :].split("/")[0] for key in keys if "/" in key[len(prefix) :]}
        assert list(self.store.folders(self.root + prefix)) == sorted(parts, key=str.encode)

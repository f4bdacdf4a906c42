"""A store beside a dictionary: whatever is done to both, readers see the same."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import catchment.arrays
from catchment.arrays import api, journal, read
from catchment.arrays.generations import drop_former, rechunk
from catchment.arrays.model import Row
from catchment.arrays.stack import Stack, withdraw
from catchment.arrays.verify import verify
from catchment.core.errors import Conflict, NotFound
from catchment.core.store import open_store
from catchment.testing.arrays import make_session, same

NAMES = st.sampled_from("abc")
STEPS = st.one_of(
    st.tuples(
        st.just("append"), NAMES, st.integers(0, 1), st.sampled_from(["error", "skip", "replace"])
    ),
    st.tuples(st.just("withdraw"), NAMES),
    st.tuples(st.just("rechunk"), st.sampled_from([2, 3, 64])),
)
_numbers = itertools.count()


def made(name, seed):
    return make_session(name, windows=3 + seed * 4 + ord(name) % 3, samples=2, seed=seed)


class Both:
    """A store and a dictionary: sessions by name, with the seed of their content."""

    def __init__(self, store):
        self.store = store
        self.model: dict[str, int] = {}

    @property
    def there(self):
        document, _ = Stack(self.store).look()
        return document is not None and document.commit > 0

    def append(self, name, seed, choice):
        differs = name in self.model and self.model[name] != seed
        if differs and choice == "error":
            with pytest.raises(Conflict):
                api.append(made(name, seed), Stack(self.store), on_conflict=choice)
            return
        api.append(made(name, seed), Stack(self.store), on_conflict=choice)
        if not (differs and choice == "skip"):
            self.model[name] = seed

    def withdraw(self, name):
        if self.model.pop(name, None) is None:
            with pytest.raises(NotFound):
                withdraw(Stack(self.store), name)
        else:
            withdraw(Stack(self.store), name)

    def rechunk(self, size):
        if self.there:
            rechunk(Stack(self.store), {"time": size})
            drop_former(Stack(self.store))

    def compare(self):
        if not self.there:
            assert not self.model
            return
        found = catchment.arrays.open(self.store)
        assert sorted(found["session"].values.tolist()) == sorted(self.model)
        for name, seed in self.model.items():
            assert same(read.session(found, name), made(name, seed))
        assert verify(Stack(self.store)).wrong == []
        lengths = [made(name, seed).sizes["time"] for name, seed in self.model.items()]
        assert len(catchment.arrays.windows(self.store)) == sum(lengths)


@settings(max_examples=25, deadline=None)
@given(st.lists(STEPS, min_size=3, max_size=9))
def test_a_store_and_a_dictionary(steps):
    both = Both(open_store(f"memory://model-{next(_numbers)}"))
    for verb, *arguments in steps:
        getattr(both, verb)(*arguments)
        both.compare()


def test_a_row_without_a_claim_stays_as_it_is(tmp_path):
    """Of a store whose claims somebody removed: what is known of a session is shown."""
    row = Row("a", 3, "sha256:1")
    assert journal.row_of(open_store(tmp_path.as_uri()), 0, row) is row

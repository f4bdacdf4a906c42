"""One tree of errors: each survives pickling, and says what to do next."""

from __future__ import annotations

import copy
import importlib
import pickle
import pkgutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

import catchment
from catchment.core.errors import (
    CatchmentError,
    Conflict,
    Corrupt,
    Invalid,
    NotFound,
    Unavailable,
)
from catchment.core.safe import SafePool

CATEGORIES = (NotFound, Conflict, Invalid, Unavailable, Corrupt)


def tree(cls: type[CatchmentError] = CatchmentError) -> set[type[CatchmentError]]:
    return {cls}.union(*(tree(below) for below in cls.__subclasses__()))


@pytest.fixture(scope="module")
def classes() -> set[type[CatchmentError]]:
    """The whole tree, of every module that can be imported here."""
    for module in pkgutil.walk_packages(catchment.__path__, "catchment."):
        if "migrations" not in module.name and "safe_child" not in module.name:
            try:
                importlib.import_module(module.name)
            except ImportError:
                continue  # an extra that is not installed
    return tree()


def test_the_tree_has_five_branches(classes):
    assert set(CatchmentError.__subclasses__()) == set(CATEGORIES)
    assert all(issubclass(cls, CATEGORIES) for cls in classes - {CatchmentError})


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_each_survives_pickling_and_copying(classes, protocol):
    """Also those whose constructor takes other arguments, and with attributes of their own."""
    for cls in classes:
        error = cls.__new__(cls)
        CatchmentError.__init__(error, "expected a, got b", kind="a-kind", hint="do c")
        error.extra = {"index": 3}
        for again in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error)):
            assert type(again) is cls
            assert vars(again) == vars(error)
            assert (str(again), again.args) == ("expected a, got b", ("expected a, got b",))


text = st.text(max_size=20)


@given(st.sampled_from(CATEGORIES), text, st.none() | text, text)
def test_nothing_is_lost_on_the_way(cls, message, kind, hint):
    error = cls(message, kind=kind, hint=hint)
    again = pickle.loads(pickle.dumps(error))
    assert (again.message, again.kind, again.hint) == (message, kind or cls.kind, hint)
    assert str(again) == message


def test_the_caller_can_tell_them_apart():
    assert len({cls.kind for cls in CATEGORIES}) == len(CATEGORIES)
    assert len({cls.exit_code for cls in CATEGORIES}) == len(CATEGORIES)
    assert {cls.exit_code for cls in CATEGORIES}.isdisjoint({0, 1})
    assert all(400 <= cls.status_code < 600 for cls in CATEGORIES)


def fail(kind: str) -> None:
    raise Conflict("taken", kind=kind, hint="retry")


def test_it_comes_back_from_a_child_process():
    with SafePool(1) as pool:
        error = pool.submit(fail, "key-taken").exception()
    assert (type(error), error.kind, error.hint) == (Conflict, "key-taken", "retry")

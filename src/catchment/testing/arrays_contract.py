"""What every back end of sessions must do; subclass it with a fixture ``sessions``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from catchment.arrays.backend import Sessions
from catchment.arrays.decide import Asked
from catchment.arrays.look import Facts
from catchment.arrays.model import Decision, Outcome, Status
from catchment.arrays.prepare import prepare
from catchment.arrays.read import session
from catchment.core.errors import Conflict, Invalid, NotFound
from catchment.testing.arrays import make_session, same

Make = Callable[[], Sessions]


def append(sessions: Sessions, *datasets: Any, site: str = "lab", **options: Any) -> Outcome:
    """Append datasets in one commit."""
    prepared, findings = [], []
    for dataset in datasets:
        some, found = prepare(dataset, facts=Facts(site=site))
        prepared += some
        findings += found
    return sessions.append(Asked(prepared, findings=findings, **options))


class SessionsContract:
    """A fixture ``sessions`` gives a function: each call opens the same store as another writer."""

    def test_sessions_stand_behind_each_other(self, sessions: Make) -> None:
        sizes = {"a": 12, "b": 70, "c": 3}
        for name, size in sizes.items():
            outcome = append(sessions(), make_session(name, windows=size))
        assert (outcome.commit, outcome.steps[0].slot) == (3, 2)
        found = sessions().dataset()
        assert found["session"].values.tolist() == ["a", "b", "c"]
        assert found["n_windows"].values.tolist() == [12, 70, 3]
        for name, size in sizes.items():
            assert same(session(found, name), make_session(name, windows=size))
        part = sessions().part()
        assert [(e.slot, e.row.site, e.status) for e in part.entries] == [
            (n, "lab", Status.PRESENT) for n in range(3)
        ]
        assert same(session(part.opened(), "b")[["eeg"]], make_session("b", windows=70)[["eeg"]])
        assert sessions().verify().wrong == []

    def test_many_at_once_are_one_commit(self, sessions: Make) -> None:
        outcome = append(sessions(), *(make_session(name) for name in "abc"))
        assert (outcome.commit, [s.slot for s in outcome.steps]) == (1, [0, 1, 2])
        assert sessions().verify().sessions == 3

    def test_the_same_again_changes_nothing(self, sessions: Make) -> None:
        append(sessions(), make_session("a"))
        again = append(sessions(), make_session("a"))
        assert [s.decision for s in again.steps] == [Decision.UNCHANGED]
        assert (again.commit, again.steps[0].slot) == (1, 0)

    def test_other_content_under_the_same_id(self, sessions: Make) -> None:
        append(sessions(), make_session("a"))
        other = make_session("a", seed=1, windows=30)
        with pytest.raises(Conflict) as caught:
            append(sessions(), other)
        assert caught.value.kind == "session-differs"
        assert append(sessions(), other, on_conflict="skip").steps[0].decision is Decision.SKIP
        assert same(session(sessions().dataset(), "a"), make_session("a"))
        replaced = append(sessions(), other, on_conflict="replace").steps[0]
        assert (replaced.slot, replaced.earlier) == (1, 0)
        assert same(session(sessions().dataset(), "a"), other)
        assert sessions().dataset(tombstones=True)["session"].values.tolist() == ["~0", "a"]
        some = append(sessions(), make_session("a"), make_session("z"), on_conflict="skip")
        assert [s.decision for s in some.steps] == [Decision.SKIP, Decision.APPEND]
        assert sessions().dataset()["session"].values.tolist() == ["a", "z"]
        assert sessions().verify().wrong == []

    def test_a_withdrawn_session_leaves_a_tombstone(self, sessions: Make) -> None:
        append(sessions(), *(make_session(name) for name in "ab"))
        entry, _ = sessions().withdraw("a")
        assert entry.slot == 0
        assert sessions().dataset()["session"].values.tolist() == ["b"]
        whole = sessions().dataset(tombstones=True)
        assert whole["session"].values.tolist() == ["~0", "b"]
        assert bool(whole["eeg"][0].isnull().all())
        with pytest.raises(NotFound) as caught:
            sessions().withdraw("a")
        assert caught.value.kind == "no-session"
        assert append(sessions(), make_session("a")).steps[0].slot == 2
        assert sessions().verify().sessions == 2

    def test_what_does_not_go_with_the_store_is_refused(self, sessions: Make) -> None:
        append(sessions(), make_session("a"))
        outcome = append(sessions(), make_session("b").isel(channel=[1, 0, 2]))
        assert outcome.refused
        assert {s.decision for s in outcome.steps} == {Decision.REFUSE}
        assert sessions().dataset()["session"].values.tolist() == ["a"]

    def test_chunks_are_fixed(self, sessions: Make) -> None:
        append(sessions(), make_session("a"), chunks={"time": 8})
        assert sessions().dataset()["eeg"].encoding["chunks"][1] == 8
        with pytest.raises(Invalid) as caught:
            append(sessions(), make_session("b"), chunks={"time": 9})
        assert caught.value.kind == "chunks-fixed"

    def test_a_dry_run_writes_nothing(self, sessions: Make) -> None:
        planned = append(sessions(), make_session("a"), dry_run=True)
        assert (planned.dry_run, planned.steps[0].slot, planned.commit) == (True, 0, None)
        assert sessions().look() == (None, [])
        with pytest.raises(NotFound) as caught:
            sessions().part()
        assert caught.value.kind == "no-store"
        append(sessions(), make_session("a"))
        planned = append(sessions(), make_session("a", seed=2), dry_run=True)
        assert (planned.steps[0].decision, planned.commit) == (Decision.CONFLICT, 1)

    def test_readers_keep_the_state_that_they_opened(self, sessions: Make) -> None:
        append(sessions(), make_session("a", windows=5))
        before = sessions().dataset()
        append(sessions(), make_session("b", windows=50))
        append(sessions(), make_session("a", seed=3), on_conflict="replace")
        assert before["session"].values.tolist() == ["a"]
        assert same(session(before, "a"), make_session("a", windows=5))

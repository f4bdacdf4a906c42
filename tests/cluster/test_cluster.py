"""Tables, exports, imaging and arrays on a real dask cluster: the same bytes, whoever dies."""

from __future__ import annotations

import pytest

from catchment.core import executor as executors
from catchment.core.errors import Unavailable
from catchment.core.executor import open_executor
from catchment.core.safe import Limits
from catchment.core.workspace import Workspace
from catchment.testing.cluster import cluster
from catchment.testing.workspaces import (
    AGGREGATES,
    Killing,
    contents,
    kill_a_worker,
    make_inputs,
    make_workspace,
    run,
)

pytest.importorskip("distributed", reason="the extra cluster is not installed")
LIMITS = Limits(memory=1 << 30, cpu=60, wall=120)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs") / "in"
    make_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def wanted(tmp_path_factory, inputs):
    """What undisturbed runs here come to."""
    folder = make_workspace(tmp_path_factory.mktemp("here"), inputs)
    with Workspace.open(folder) as workspace:
        for aggregate in AGGREGATES:
            run(workspace, aggregate)
        return {aggregate: contents(workspace, aggregate) for aggregate in AGGREGATES}


@pytest.fixture(scope="module")
def dask(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"):
            patch.delenv(name, raising=False)  # a child that is killed has no coverage to tell
        with cluster(tmp_path_factory.mktemp("dask"), 2) as found:
            yield found


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_a_worker_that_dies_in_the_middle_changes_nothing(
    aggregate, wanted, inputs, dask, tmp_path, monkeypatch
):
    """And no data pass through the scheduler: tasks are descriptions, and so is what comes back."""
    sent, got = [], []
    pack, take = executors.pack, executors.take
    monkeypatch.setattr(executors, "pack", lambda *a: sent.append(len(d := pack(*a))) or d)
    monkeypatch.setattr(executors, "take", lambda d, n: got.append(len(d)) or take(d, n))
    with (
        open_executor(dask.address, limits=LIMITS) as executor,
        Workspace.open(make_workspace(tmp_path, inputs)) as workspace,
    ):
        killing = Killing(executor, lambda: kill_a_worker(dask.nanny.pid))
        vars(workspace)["executor"] = killing
        assert run(workspace, aggregate) == "published"
        assert killing.killed
        assert contents(workspace, aggregate) == wanted[aggregate]
        assert len(sent) == len(got) == killing.submitted > 2
        # A few kilobytes each; rows of headers come back with a schema of some hundred columns.
        assert max(*sent, *got) < 64_000
        if not aggregate.startswith("exports/"):  # each run of an export is a job of its own
            assert run(workspace, aggregate) == "unchanged"


def test_a_scheduler_that_is_not_there_is_told(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "_CONNECT_SECONDS", 0.5)
    more = {"executor.kind": "tcp://127.0.0.1:9"}
    with Workspace.open(make_workspace(tmp_path, inputs), more) as workspace:
        for aggregate in AGGREGATES:
            with pytest.raises(Unavailable) as caught:
                run(workspace, aggregate)
            assert caught.value.kind == "cluster-unreachable"
            assert "dask scheduler" in caught.value.hint
            assert workspace.ledger.latest(aggregate) is None

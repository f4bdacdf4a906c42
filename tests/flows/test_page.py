"""Dagster's own page, as ``catchment flows dev`` starts it: a run is launched over its GraphQL."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from catchment.core.workspace import Workspace

PATIENCE = 240  # seconds
LOCATION = """
{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }
"""
LAUNCH = """
mutation ($selector: JobOrPipelineSelector!) {
  launchRun(executionParams: {selector: $selector, mode: "default"}) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}
"""
STATUS = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"


@contextmanager
def page(workspace):
    """The address of Dagster's page for a workspace."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("catchment")
    arguments = [program, "-w", workspace, "flows", "dev", "--port", str(port)]
    environment = {k: v for k, v in os.environ.items() if k != "DAGSTER_HOME"}
    with (workspace / "page.log").open("wb") as log:
        process = subprocess.Popen(
            arguments, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def until(look, log):
    """What the look gives, once it gives something."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if found := look():
                return found
        except httpx.TransportError:
            pass
        time.sleep(0.3)
    raise AssertionError(log.read_text()[-3000:])


@pytest.mark.timeout(600)
def test_a_run_launched_over_graphql_succeeds(workspace):
    with page(workspace) as address, httpx.Client(base_url=address, timeout=60) as client:

        def ask(query, **variables):
            answer = client.post("/graphql", json={"query": query, "variables": variables})
            answer.raise_for_status()
            return answer.json()["data"]

        log = workspace / "page.log"
        nodes = until(lambda: ask(LOCATION)["repositoriesOrError"].get("nodes"), log)
        selector = {
            "repositoryName": nodes[0]["name"],
            "repositoryLocationName": nodes[0]["location"]["name"],
            "pipelineName": "tables",
        }
        launched = ask(LAUNCH, selector=selector)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched

        def ended():
            status = ask(STATUS, id=launched["run"]["runId"])["runOrError"]["status"]
            return status if status in {"SUCCESS", "FAILURE", "CANCELED"} else None

        assert until(ended, log) == "SUCCESS"
    with Workspace.open(workspace) as opened:
        assert opened.ledger.latest("tables/main").number == 1


def test_without_dagster_the_command_says_what_to_install(workspace, capsys, monkeypatch):
    from catchment.cli.main import run

    monkeypatch.setitem(sys.modules, "dagster", None)
    assert run(["-w", str(workspace), "flows", "dev"]) == 2
    assert "catchment[flows]" in capsys.readouterr().err


@pytest.fixture(autouse=True)
def _no_home(monkeypatch):
    monkeypatch.delenv("DAGSTER_HOME", raising=False)

"""Jobs from end to end: a source, an executor, a store and a ledger, all of them real."""

from __future__ import annotations

import json
from collections import Counter

from catchment.core.account import Line
from catchment.exports.fhir import FhirSource
from catchment.exports.job import Job
from catchment.exports.model import Rules
from catchment.exports.run import run
from catchment.testing.fhir import FhirServer

EOB = "ExplanationOfBenefit"


def files(house, snapshot):
    return {
        stat.key.removeprefix(snapshot.location): house.store.read(stat.key)
        for stat in house.store.list(snapshot.location)
    }


def test_the_sample_from_a_server_that_fails_in_every_usual_way(claims, house, monkeypatch):
    monkeypatch.setattr("catchment.exports.fhir.FIRST_PAUSE", 0.01)
    lines, members = claims
    with FhirServer(members, page=40, token="secret") as server:
        server.plan.extend([(429, {"Retry-After": "0"}, b""), (500, {}, b""), (503, {}, b"")])
        server.broken["-1"] = (500, {}, b"")
        source = FhirSource(server.url, EOB, token="secret")
        job = Job(
            "eob", "Z9000", source, (*members, "-1"), rules=Rules(1_000_000), batch=2, threshold=0.2
        )
        snapshot = run(job, house)
    made = files(house, snapshot)
    data = {
        name: text
        for name, text in made.items()
        if name[-11:] in [f"{n:04}.ndjson" for n in range(9)]
    }
    out = Counter(line for text in data.values() for line in text.splitlines())
    assert out == Counter(lines)
    assert all(len(text) <= 1_000_000 and text.endswith(b"\n") for text in data.values())
    assert sorted(data) == [f"Z9000_{n:04}.ndjson" for n in range(1, 6)]
    (error,) = made["Z9000_0001_error.ndjson"].splitlines()
    assert json.loads(error)["resourceType"] == "OperationOutcome"
    assert server.requests["-1"] == 7
    account = house.ledger.account(snapshot.run)
    account.check()
    assert account[Line("Z9000", EOB, "lines")].to_json() == {
        "received": 500, "kept": 500, "dropped": {}, "quarantined": {},
    }  # fmt: skip
    assert account[Line("Z9000", EOB, "members")].quarantined == {"source-down": 1}
    assert not list(house.store.list("_staging/"))

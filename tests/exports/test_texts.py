"""Files as people's programs write them: marks before the text, bytes that are none, odd endings."""

from __future__ import annotations

import json
from collections import Counter

from catchment.core.account import Line
from catchment.core.errors import Invalid
from catchment.core.store import open_store
from catchment.exports import jobs
from catchment.exports.batch import Task, fetch
from catchment.exports.job import Job
from catchment.exports.lines import LineFile
from catchment.exports.model import MIB, Kind, Rules
from catchment.exports.ndjson import FileSource
from catchment.exports.run import run
from catchment.testing.fhir import bundle

EOB = "ExplanationOfBenefit"
MARK = b"\xef\xbb\xbf"


def exported(folder, house, **files):
    """The lines of each kind, the account, and the job."""
    for name, data in files.items():
        (folder / name.replace("_", ".")).write_bytes(data)
    source = FileSource(open_store(folder.as_uri()), EOB)
    job = Job("eob", "Z1", source, tuple(source.members()), rules=Rules(MIB), threshold=1)
    snapshot = run(job, house)
    status = jobs.status(house.ledger, snapshot.run)
    assert jobs.verify(house.store, house.ledger, status) == []
    found = {
        kind: [
            line
            for output in status.outputs
            if output.kind is kind
            for line in house.store.read(snapshot.location + output.name).splitlines()
        ]
        for kind in Kind
    }
    return found, house.ledger.account(snapshot.run)


def told(lines):
    return [json.loads(line)["issue"][0]["diagnostics"] for line in lines]


def test_a_mark_before_a_text_is_no_record_and_costs_none(tmp_path, house):
    one = b'{"resourceType":"ExplanationOfBenefit"}'
    found, account = exported(
        tmp_path,
        house,
        a_ndjson=MARK + b'{"a":1}\n{"a":2}\n' + MARK + b'{"a":3}\n',
        b_ndjson=MARK,
        c_json=MARK + bundle([one], [], ""),
    )
    assert sorted(found[Kind.DATA]) == sorted([b'{"a":1}', b'{"a":2}', one])
    assert told(found[Kind.ERROR]) == ["a.ndjson: line 3 is not a JSON object"]
    assert account.total("members").kept == 3


def test_a_record_that_is_no_text_stays_out_alone_and_it_is_told_where_it_is(tmp_path, house):
    strange = [b'{"a":"\xff"}', b'{"a":"\xed\xa0\x80"}', b'{"\xff":1}']
    found, account = exported(
        tmp_path,
        house,
        a_ndjson=b'{"a":1}\n' + b"\n".join(strange) + b'\nnone\n{"a":2}',
        b_ndjson=b"[]\n",
        c_json=b'{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"OperationOutcome",'
        b'"id":"\xff"}},{"resource":{"resourceType":"Patient"}}]}',
    )
    assert sorted(found[Kind.DATA]) == [b'{"a":1}', b'{"a":2}']
    assert sorted(told(found[Kind.ERROR])) == [
        "a.ndjson: line 5 is not a JSON object",
        *(f"a.ndjson: record {n} is not UTF-8" for n in (2, 3, 4)),
        "b.ndjson: line 1 is not a JSON object",
        "c.json: a resource is not of type ExplanationOfBenefit",
        "c.json: record 1 is not UTF-8",
    ]
    balance = account[Line("Z1", EOB, "lines")]
    assert (balance.received, balance.kept) == (9, 2)
    assert balance.quarantined == Counter({"not-utf8": 4, "not-json": 2, "other-type": 1})
    assert account.total("members").quarantined == Counter()


def test_the_case_of_a_file_name_loses_no_file(tmp_path, house):
    found, _ = exported(tmp_path, house, A_NDJSON=b'{"a":1}\n', b_Json=bundle([b"[]"], [], ""))
    assert found[Kind.DATA] == [b'{"a":1}']
    assert told(found[Kind.ERROR]) == [
        "b.Json: a resource is not an object, or its type is not a text"
    ]


def test_a_record_that_cannot_be_written_is_no_fault_of_its_text(tmp_path, house, monkeypatch):
    write = LineFile.write

    def forbidden(self, record):
        if b"3" in (record if isinstance(record, bytes) else record.encode()):
            raise Invalid("no permission", kind="permission-denied")
        write(self, record)

    monkeypatch.setattr(LineFile, "write", forbidden)
    (tmp_path / "a.ndjson").write_bytes(b'{"a":1}\n{"a":3}\n')
    (tmp_path / "b.ndjson").write_bytes(b'{"a":2}\n')
    source = FileSource(open_store(tmp_path.as_uri()), EOB)
    batch = fetch(Task(0, ("a.ndjson", "b.ndjson"), source, house.store, "x/", MIB))
    assert (batch.failed, batch.refused) == ({"permission-denied": 1}, {"member-failed": 2})

"""Values of patients and secrets are planted in all that sites send; then they are searched for.

They may stand in the data itself. They must not stand in logs, on terminals, in the ledger, in keys,
in documents that describe data, on pages, in metrics or in what is told to those outside.
"""

from __future__ import annotations

import logging
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catchment.core.ledger.access import Access
from catchment.core.workspace import Workspace
from catchment.studies import library
from catchment.testing.studies import archive, parquet
from catchment.testing.workspaces import make_inputs, make_workspace
from tests.web.looking import add_people, signed_in
from tests.web.serving import HASH, SECRET

CANARY = "XQCANARY"  # what is searched for, in any case
STUDY = "core"
SECRETS = {
    "CATCHMENT_IMAGING__CT__KEY": f"{CANARY}-key-of-pseudonyms",
    "CATCHMENT_ARRAYS__EEG__PSEUDONYM_KEY": f"{CANARY}-key-of-sessions-of-32-bytes-or-more",
    "CATCHMENT_FLYWHEEL__API_KEY": f"host:{CANARY}",
    "CATCHMENT_IDENTIFIERS__TOKEN": f"{CANARY}-token",
    "CATCHMENT_EXPORTS__SERVER__TOKEN": f"{CANARY}-token",
    "CATCHMENT_LINEAGE__TOKEN": f"{CANARY}-token",
    "CATCHMENT_OIDC__CLIENT_SECRET": f"{CANARY}-secret",
    "CATCHMENT_WAREHOUSE__PASSWORD": f"{CANARY}-password",
}
# Objects that are data, by their ending; the others describe it.
DATA = (".parquet", ".dcm", ".ndjson", ".gz", ".arrow", ".csv", ".zip", ".jph", ".htj2k", ".jpg")
# Bytes of a site as they came, in places that are not served; and chunks of arrays.
KEPT = re.compile(r"studies/[a-z]+/kept/|imaging/ct/(raw|quarantine)/|arrays/.*/c/")
MORE = """
[lineage]
file = "lineage.ndjson"
[studies.core]
min_cell = 5
[exports.server]
contract = "Z2"
fhir = "http://127.0.0.1:9/fhir"
members = "{inputs}/members.txt"
retries = 0
"""


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A workspace of inputs that are full of canaries, and of good ones beside them."""
    folder = tmp_path_factory.mktemp("canaries")
    inputs = folder / "inputs"
    make_inputs(inputs)
    _tables(inputs / "sites" / "datasets")
    _claims(inputs)
    _images(inputs / "north")
    _recordings(inputs / "recordings")
    made = make_workspace(folder / "house", inputs, more=MORE.format(inputs=inputs))
    text = (made / "catchment.toml").read_text()
    text = re.sub(r"^(key|pseudonym_key) = .*\n", "", text, flags=re.MULTILINE)
    (made / "catchment.toml").write_text(text)
    return made


def _tables(folder):
    """A text in a column of numbers; a file that is cut off behind its first values."""
    files = sorted(folder.rglob("*.parquet"))
    table = pq.read_table(files[0])
    place = table.num_columns - 1
    words = pa.array([f"{CANARY}-{n}" for n in range(table.num_rows)])
    pq.write_table(table.set_column(place, table.column_names[place], words), files[0])
    data = parquet(pa.table({"naccid": [CANARY] * 9, "visitdate": [CANARY] * 9}))
    files[-1].write_bytes(data[: len(data) // 2] + b"PAR1")


def _claims(inputs):
    (inputs / "members.txt").write_text("-1234567\n")
    (inputs / "claims" / "x.ndjson").write_text(
        f'{{"resourceType":"ExplanationOfBenefit","id":"{CANARY}"}}\n'
        f'{{"resourceType":"ExplanationOfBenefit","id":"{CANARY}"\n{CANARY}\n{{"id":"{CANARY}"}}\n'
    )


def _images(folder):
    from catchment.testing.dicom import make_file

    good = make_file(
        "1.2.9.1", patient=CANARY, PatientName=f"{CANARY}^A", AccessionNumber=CANARY,
        PatientComments=CANARY, StudyID=CANARY, OtherPatientNames=CANARY,
    )  # fmt: skip
    (folder / "good.dcm").write_bytes(good)
    (folder / "odd.dcm").write_bytes(
        make_file("1.2.9.2", patient=CANARY).replace(b"20260102", CANARY.encode())
    )
    (folder / "twin.dcm").write_bytes(make_file("1.2.9.1", patient=f"{CANARY}2"))
    (folder / "cut.dcm").write_bytes(good[:700])
    (folder / "none.dcm").write_bytes(CANARY.encode() * 99)


def _recordings(folder):
    good = min(folder.glob("*.edf"))
    data = bytearray(good.read_bytes())
    data[8:88] = f"{CANARY} F 02-AUG-1951 {CANARY}".encode().ljust(80)
    (folder / "site_planted.edf").write_bytes(data)
    (folder / "site_broken.edf").write_bytes(data[:300])
    (folder / "site_none.edf").write_bytes(b"0       " + CANARY.encode() * 99)


def _uploads(workspace):
    lines = {f"{STUDY}__p.archive.parquet": CANARY.encode() * 9}
    bad = pa.table({"cnt": [CANARY, None], "sex": ["f", CANARY]})
    small = pa.table({"cnt": pa.array([40, 38, 2], pa.int64()), "sex": [None, "f", "m"]})
    for n, data in enumerate([
        archive(lines),
        archive({f"{STUDY}__count_bad.cube.parquet": parquet(bad)}),
        archive({f"{STUDY}__count_x.cube.parquet": parquet(small)}),
        parquet(bad)[:-9] + CANARY.encode(),
        CANARY.encode() * 99,
    ]):  # fmt: skip
        key = f"upload_staging/{STUDY}/boston/000/u_{n}.zip"
        workspace.store.put(key, data)
        library.submit(workspace, "boston", STUDY, 0, f"u_{n}.zip", key, "anna", f"tx-{n}")


def _seen_on_pages(app, user):
    """All that somebody who follows every link is shown."""
    looker, seen, to_see = signed_in(app, user), {}, ["/ui/", "/api/runs", "/api/overview"]
    while to_see and len(seen) < 250:
        path = to_see.pop(0)
        if path in seen or "sign-out" in path:
            continue
        answer = looker.get(path)
        assert answer.status_code < 500, path
        kind = answer.headers.get("content-type", "")
        seen[path] = answer.text if kind.startswith(("text", "application/json")) else ""
        links = re.findall(r'(?:href|src|hx-get)="(/(?:ui|api)/[^"#]*)"', answer.text)
        to_see += [link.replace("&amp;", "&") for link in links]
    return seen


def test_no_canary_leaves_its_cage(planted, monkeypatch, capfd, caplog):
    from catchment.cli.main import run
    from catchment.web.app import create_app

    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    caplog.set_level(logging.DEBUG)
    handlers, level = logging.root.handlers[:], logging.root.level
    house = ["-w", str(planted)]
    with Workspace.open(planted) as workspace:
        _uploads(workspace)
    codes = [
        run([*command, *house])
        for command in (
            ["run", "-vv"], ["run", "--json"], ["status", "-vv"], ["status", "--json"],
            ["config", "--show"], ["config", "--json"], ["doctor", "-vv"], ["gc", "--dry-run"],
            ["lineage"], ["verify"], ["imaging", "quarantine"], ["imaging", "resolve"],
        )
    ]  # fmt: skip
    assert codes[4] == codes[5] == 0
    logging.root.handlers[:], logging.root.level = handlers, level
    shown = "".join(capfd.readouterr())
    assert "imaging/ct" in shown
    assert _found(shown) == [], "on a terminal"

    with Workspace.open(planted) as workspace:
        add_people(workspace)
        Access(workspace.ledger).add("boston", "anna", HASH)
        app = create_app(workspace, process=False)
        pages = _seen_on_pages(app, "operator") | _seen_on_pages(app, "anna")
        assert len(pages) > 40
        for path, text in pages.items():
            # What sites report, and is released, is shown: that is what cubes are for.
            assert _found(text) == [], path
        from starlette.testclient import TestClient

        client = TestClient(app, client=("127.0.0.1", 1))
        assert _found(client.get("/metrics").text) == []
        findings = workspace.ledger.findings()
        assert len({finding.code for finding in findings}) > 5
        assert _found(str(findings)) == [], "in a finding"
        keys = [stat.key for stat in workspace.store.list()]
        assert _found("\n".join(keys)) == [], "in a key"
        for key in keys:
            if not (key.endswith(DATA) or KEPT.match(key)):
                assert _found(workspace.store.read(key).decode("latin-1")) == [], key
        assert any(CANARY.encode() in workspace.store.read(key) for key in keys), "none was kept"
    ours = [one.getMessage() for one in caplog.records if one.name.startswith("catchment")]
    assert _found("\n".join(ours)) == [], "in a log"
    for path in [*(planted / ".catchment").iterdir(), planted / "lineage.ndjson"]:
        if path.is_file():
            assert _found(path.read_bytes().decode("latin-1")) == [], path.name
    shutil.rmtree(planted / "data")


def _found(text):
    """Canaries and secrets, with what stands before them."""
    hidden = f"(?i).{{0,60}}{CANARY}.{{0,20}}|{re.escape(SECRET)}"
    return re.findall(hidden, text, re.DOTALL)[:3]

"""The site API over HTTP: what the reference says, and what must not happen."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import anyio
import httpx
import pytest
from fastapi.security import HTTPBasicCredentials
from starlette.requests import Request
from starlette.testclient import TestClient

from catchment.core import passwords
from catchment.core.errors import Conflict, Corrupt, Invalid, NotFound, Unavailable
from catchment.core.ledger.access import Access
from catchment.core.ledger.uploads import FileState, Uploads
from catchment.studies import arrivals, forms, layout, library, scan
from catchment.testing.web import serving
from catchment.web import login
from catchment.web import sites as routes
from catchment.web.app import create_app
from catchment.web.multipart import Form
from tests.web.serving import (
    SECRET,
    Sites,
    cube,
    make_workspace,
    parquet,
    published,
    study,
    zipped,
)

LOCKED = "Currently processing a previous upload of flu. Please try again later."


# --- asking for a form ----------------------------------------------------------------------


def test_a_form_is_as_the_reference_says(quiet):
    answer = quiet.ask(version=3, filename="anna_flu.zip")
    assert answer.status_code == 200
    assert list(answer.json()) == ["url", "fields"]
    fields = answer.json()["fields"]
    assert fields["key"] == "upload_staging/flu/boston/003/anna_flu.zip"
    assert {"policy", "signature"} < set(fields)
    assert str(uuid.UUID(answer.headers["transaction-id"])) == answer.headers["transaction-id"]
    assert uuid.UUID(answer.headers["transaction-id"]).version == 4
    policy = json.loads(base64.b64decode(fields["policy"]))
    assert policy["transaction"] == answer.headers["transaction-id"]


@pytest.mark.parametrize(
    ("version", "folder"),
    [
        (None, "000"),
        (0, "000"),
        ("7", "007"),
        (12, "012"),
        ("99.0", "099"),
        (1234, "1234"),
        (1.0, "001"),
    ],
)
def test_versions(quiet, version, folder):
    answer = quiet.ask(body={"data_package_version": version})
    assert answer.json()["fields"]["key"] == f"upload_staging/flu/boston/{folder}/flu.zip"


@pytest.mark.parametrize(
    "body",
    [
        {"study": "flu"},
        {"filename": "flu.zip"},
        {"study": None, "filename": "flu.zip"},
        {"study": "flu", "filename": ""},
        {"study": ["flu"], "filename": "flu.zip"},
        {"study": "../boston", "filename": "flu.zip"},
        {"study": "flu/chicago/000", "filename": "flu.zip"},
        {"study": "flu__x", "filename": "flu.zip"},
        {"study": "FLU", "filename": "flu.zip"},
        {"study": "flu\u202e", "filename": "flu.zip"},
        {"study": "flu", "filename": "../../../latest/x"},
        {"study": "flu", "filename": "a/b.zip"},
        {"study": "flu", "filename": "${filename}"},
        {"study": "flu", "filename": "x" * 300},
        {"study": "flu", "filename": "flu.zip", "data_package_version": "x"},
        {"study": "flu", "filename": "flu.zip", "data_package_version": -1},
        {"study": "flu", "filename": "flu.zip", "data_package_version": True},
        {"study": "flu", "filename": "flu.zip", "data_package_version": 10**6},
        {"study": "flu", "filename": "flu.zip", "data_package_version": {"a": 1}},
        [],
        "flu",
        None,
    ],
)
def test_requests_that_are_none_are_400_with_a_sentence(quiet, body):
    answer = quiet.client.post("/", json=body, auth=quiet.auth())
    assert answer.status_code == 400
    assert isinstance(answer.json(), str)
    assert answer.json()
    assert quiet.workspace.ledger.aggregates() == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"study": NaN}',
        b"[" * 50_000,
        b'{"study": "flu", "filename": "flu.zip", "study": "rsv"}',
    ],
)
def test_what_is_no_json_is_400(quiet, data):
    assert quiet.client.post("/", content=data, auth=quiet.auth()).status_code == 400


def test_a_network_and_a_transaction_are_names_too(quiet):
    assert quiet.ask(path="/north").status_code == 200
    assert quiet.ask(path="/NORTH!").status_code == 400
    assert quiet.ask(headers={"transaction-id": "a/b"}).status_code == 400
    assert quiet.ask(headers={"transaction-id": "x" * 70}).status_code == 400


def test_the_site_is_that_of_the_credentials(quiet):
    body = {"site": "chicago", "user": "carl", "path": "chicago"}
    assert "/boston/" in quiet.ask("ben", body=body).json()["fields"]["key"]
    assert "/chicago/" in quiet.ask("carl", body=body).json()["fields"]["key"]


def test_one_upload_of_a_study_at_a_time(quiet):
    first = quiet.ask()
    for user in ("anna", "ben"):
        answer = quiet.ask(user)
        assert (answer.status_code, answer.json()) == (412, LOCKED)
    again = quiet.ask(headers={"transaction-id": first.headers["transaction-id"]})
    assert again.status_code == 200
    assert again.headers["transaction-id"] == first.headers["transaction-id"]
    assert quiet.ask("carl").status_code == 200
    assert quiet.ask(study="flu-b").status_code == 200
    stranger = quiet.ask("carl", headers={"transaction-id": first.headers["transaction-id"]})
    assert stranger.status_code == 412
    assert "flu-b" not in stranger.text


# --- from the form to the merge -------------------------------------------------------------


def test_an_upload_is_merged_and_told(sites):
    told = sites.upload(study(3, 4))
    assert (told["state"], told["accepted"], told["study"]) == ("done", True, "flu")
    (part,) = told["uploads"]
    assert {f["name"]: f["accepted"] for f in part["files"]} == {
        "flu__letters.cube.parquet": True,
        "flu__meta_date.meta.parquet": True,
    }
    sites.upload(study(5, 0), "carl")
    assert published(sites.workspace)[None, None] == 12
    assert published(sites.workspace)["boston", "b"] == 4
    sites.upload(study(1, 1), "ben")  # replaces boston's
    assert published(sites.workspace)[None, None] == 7
    assert list(sites.workspace.store.list("upload_staging/")) == []
    assert sites.ask().status_code == 200  # the lock was given back


def test_what_is_refused_is_told_with_a_reason(sites):
    sites.upload(study(3, 4))
    told = sites.upload(b"PK\x03\x04 no zip at all")
    assert told["accepted"] is False
    (file,) = told["uploads"][0]["files"]
    assert file["findings"][0]["code"].startswith("zip-")
    assert file["findings"][0]["hint"]
    assert published(sites.workspace)[None, None] == 7  # the last valid one stays
    assert sites.ask().status_code == 200


def test_a_bare_file_and_several_in_one_transaction(sites):
    first = sites.ask(filename="flu__letters.cube.parquet")
    transaction = first.headers["transaction-id"]
    second = sites.ask(
        filename="flu__meta_date.meta.parquet", headers={"transaction-id": transaction}
    )
    assert sites.send(first.json(), parquet(cube(1, 2))).status_code == 204
    assert sites.show(transaction).json()["state"] in {"processing", "open"}
    assert sites.send(second.json(), b"PAR1 is not enough").status_code == 204
    told = sites.wait(transaction)
    assert {p["filename"]: p["accepted"] for p in told["uploads"]} == {
        "flu__letters.cube.parquet": True,
        "flu__meta_date.meta.parquet": False,
    }
    assert told["accepted"] is False


def test_only_its_own_site_sees_an_upload(sites):
    transaction = sites.ask().headers["transaction-id"]
    assert sites.show(transaction, "ben").status_code == 200
    for user, wanted in (("carl", transaction), ("anna", str(uuid.uuid4())), ("anna", "nonsense")):
        assert sites.show(wanted, user).status_code == 404
    assert sites.client.get(f"/uploads/{transaction}").status_code == 401


def test_states_of_an_upload(quiet):
    offer = quiet.ask()
    transaction = offer.headers["transaction-id"]
    told = quiet.show(transaction).json()
    assert (told["state"], told["accepted"], told["uploads"][0]["files"]) == ("open", None, [])
    assert quiet.send(offer.json(), study(1, 2)).status_code == 204
    told = quiet.show(transaction).json()
    assert (told["state"], told["accepted"]) == ("processing", None)
    assert told["uploads"][0]["size"] == len(study(1, 2))
    again = quiet.ask(headers={"transaction-id": transaction})
    assert again.status_code == 412  # it waits to be processed


def test_a_form_that_nobody_used_is_abandoned(quiet):
    transaction = quiet.ask().headers["transaction-id"]
    quiet.workspace.ledger._database.write(
        lambda c: c.exec_driver_sql("UPDATE upload_files SET expires_at = '2020-01-01 00:00:00'")
    )
    assert quiet.show(transaction).json()["state"] == "abandoned"


# --- our forms ------------------------------------------------------------------------------


def changed(form, **fields):
    return {"url": form["url"], "fields": {k: v for k, v in (form["fields"] | fields).items() if v}}


def test_a_form_allows_what_it_says_and_nothing_else(quiet):
    form = quiet.ask().json()
    other = quiet.ask("carl").json()
    policy = json.loads(base64.b64decode(form["fields"]["policy"]))
    bigger = base64.b64encode(json.dumps(policy | {"max_bytes": 1 << 50}).encode()).decode()
    moved = policy | {"key": other["fields"]["key"]}
    moved = base64.b64encode(json.dumps(moved).encode()).decode()
    for fields in (
        {"key": "upload_staging/flu/chicago/000/flu.zip"},
        {"key": other["fields"]["key"], "policy": moved},
        {"policy": bigger},
        {"policy": other["fields"]["policy"]},
        {"signature": other["fields"]["signature"]},
        {"signature": "0" * 64},
        {"signature": "\u00e9" * 64},
        {"signature": None},
        {"policy": None},
        {"policy": "no base64!"},
        {"policy": base64.b64encode(b"[" * 10_000).decode()},
        {"policy": base64.b64encode(b"[1]").decode()},
        {"policy": base64.b64encode(b'{"transaction": 1}').decode()},
    ):
        answer = quiet.send(changed(form, **fields), b"data")
        assert (answer.status_code, answer.json()["kind"]) == (404, "no-form"), fields
    assert list(quiet.workspace.store.list()) == []
    assert quiet.send(form, b"data").status_code == 204


def test_a_form_is_good_once(quiet):
    form = quiet.ask().json()
    assert quiet.send(form, b"data").status_code == 204
    answer = quiet.send(form, b"other")
    assert (answer.status_code, answer.json()["kind"]) == (409, "form-used")
    assert quiet.workspace.store.read(form["fields"]["key"]) == b"data"


def test_a_form_expires(quiet):
    form = quiet.ask().json()
    quiet.workspace.ledger._database.write(
        lambda c: c.exec_driver_sql("UPDATE upload_files SET expires_at = '2020-01-01 00:00:00'")
    )
    answer = quiet.send(form, b"data")
    assert (answer.status_code, answer.json()["kind"]) == (409, "form-expired")
    assert list(quiet.workspace.store.list()) == []


def test_a_newer_form_replaces_the_older(quiet):
    old = quiet.ask()
    new = quiet.ask(headers={"transaction-id": old.headers["transaction-id"]})
    assert quiet.send(old.json(), b"data").json()["kind"] == "no-form"
    assert quiet.send(new.json(), b"data").status_code == 204


def test_an_upload_that_is_too_large_is_refused_and_told(tmp_path):
    with (
        make_workspace(tmp_path, serve="max_upload = 1") as workspace,
        TestClient(create_app(workspace)) as client,
    ):
        sites = Sites(workspace, client)
        for size in ((1 << 20) + 1, 3 << 20):  # seen while it comes, and from its announcement
            offer = sites.ask()
            answer = sites.send(offer.json(), b"x" * size)
            assert (answer.status_code, answer.json()["kind"]) == (413, "upload-too-large")
            told = sites.show(offer.headers["transaction-id"]).json()
            assert (told["state"], told["accepted"]) == ("done", False)
            assert told["uploads"][0]["error"]["kind"] == "upload-too-large"
            assert list(workspace.store.list()) == []
            assert sites.send(offer.json(), b"x").status_code == 409
        assert workspace.store.sweep(timedelta(0)) == 0
        offer = sites.ask()
        assert sites.send(offer.json(), b"x" * (1 << 20)).status_code == 204


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b""),
        ("multipart/form-data; boundary=", b""),
        (f"multipart/form-data; boundary={'x' * 300}", b""),
        ("multipart/form-data; boundary=x", b"no form"),
        ("multipart/form-data; boundary=x", b"--x--\r\n"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb',
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n'
            + b"b" * 20_000
            + b"\r\n--x--\r\n",
        ),
        (
            "multipart/form-data; boundary=x",
            b"".join(
                b'--x\r\nContent-Disposition: form-data; name="%d"\r\n\r\nb\r\n' % n
                for n in range(40)
            )
            + b"--x--\r\n",
        ),
        ("", b""),
    ],
)
def test_what_is_no_form_is_400(quiet, kind, body):
    answer = quiet.client.post(routes.FORM_PATH, content=body, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["kind"]) == (400, "bad-form")


def multipart(fields, data, *, more=b"--x--\r\n"):
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    return b"".join([*parts, head, data, b"\r\n", more])


FORM_TYPE = {"content-type": "multipart/form-data; boundary=x"}


def test_a_form_that_breaks_off_leaves_nothing_and_may_be_sent_again(quiet):
    form = quiet.ask().json()
    broken = multipart(form["fields"], b"half of it", more=b"")[:-2]
    answer = quiet.client.post(routes.FORM_PATH, content=broken, headers=FORM_TYPE)
    assert answer.json()["kind"] == "bad-form"
    assert list(quiet.workspace.store.list()) == []
    assert quiet.send(form, b"all of it").status_code == 204
    assert quiet.workspace.store.read(form["fields"]["key"]) == b"all of it"


def test_what_stands_after_the_file_is_passed_over(quiet):
    form = quiet.ask().json()
    more = b'--x\r\nContent-Disposition: form-data; name="key"\r\n\r\nelsewhere\r\n--x--\r\n'
    body = multipart(form["fields"], b"data", more=more)
    answer = quiet.client.post(routes.FORM_PATH, content=body, headers=FORM_TYPE)
    assert answer.status_code == 204
    assert quiet.workspace.store.read(form["fields"]["key"]) == b"data"


def test_any_cut_of_a_form_gives_the_same_bytes():
    data = b"\r\n--x\r\n-- almost a boundary \r\n--" + bytes(range(256)) * 3
    body = multipart({"key": "k", "policy": "p"}, data.replace(b"--x", b"--y"))

    async def read(size):
        async def pieces():
            for start in range(0, len(body), size):
                yield body[start : start + size]

        form = Form(FORM_TYPE["content-type"], pieces())
        fields = await form.read_fields()
        chunks = []
        while chunk := await form.read_chunk():
            chunks.append(chunk)
        return fields, b"".join(chunks)

    for size in (1, 2, 3, 7, 64, 1000, 10_000):
        assert anyio.run(read, size) == ({"key": "k", "policy": "p"}, data.replace(b"--x", b"--y"))


def test_a_slow_sender_keeps_its_lock_and_a_silent_one_is_given_up(quiet, monkeypatch):
    monkeypatch.setattr(forms, "HEARTBEAT", 0.0)
    monkeypatch.setattr(routes, "SILENCE", 0.3)
    touched = []
    touch = Uploads.touch
    monkeypatch.setattr(Uploads, "touch", lambda *a: touched.append(a) or touch(*a))
    with serving(quiet.client.app) as url:
        form = quiet.ask().json()
        body = multipart(form["fields"], b"slow" * 100)

        def slowly():
            for start in range(0, len(body), 40):
                yield body[start : start + 40]
                time.sleep(0.02)

        answer = httpx.post(f"{url}{routes.FORM_PATH}", content=slowly(), headers=FORM_TYPE)
        assert answer.status_code == 204
        assert len(touched) > 5
        offer = quiet.ask("carl")
        body = multipart(offer.json()["fields"], b"silent" * 100)
        gone = threading.Event()

        def silently():
            yield body[:-300]
            gone.wait(2)

        answer = httpx.post(f"{url}{routes.FORM_PATH}", content=silently(), headers=FORM_TYPE)
        gone.set()
        assert (answer.status_code, answer.json()["kind"]) == (408, "sender-silent")
        assert quiet.send(offer.json(), b"again").status_code == 204


def test_a_client_that_goes_away_leaves_its_form_to_be_used_again(quiet):
    with serving(quiet.client.app) as url:
        form = quiet.ask().json()
        body = multipart(form["fields"], b"data" * 1000)

        def breaks():
            yield body[:-500]
            time.sleep(0.2)
            raise RuntimeError("gone")

        with pytest.raises(RuntimeError):
            httpx.post(f"{url}{routes.FORM_PATH}", content=breaks(), headers=FORM_TYPE)
        uploads = Uploads(quiet.workspace.ledger)
        deadline = time.monotonic() + 20
        while not uploads.files(FileState.REQUESTED) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert quiet.send(form, b"again").status_code == 204


# --- who asks -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        None,
        "Basic",
        "Basic !!!",
        "Bearer x",
        "Basic " + base64.b64encode(b"anna").decode(),
        "Basic " + base64.b64encode(b"anna:wrong").decode(),
        "Basic " + base64.b64encode(b"nobody:wrong").decode(),
        "Basic " + base64.b64encode(f"Anna:{SECRET}".encode()).decode(),
        "Basic " + base64.b64encode(f"anna:{SECRET} ".encode()).decode(),
        "Basic " + base64.b64encode(b"anna:" + b"x" * 5000).decode(),
        "Basic " + base64.b64encode("anna:é".encode()).decode(),
    ],
)
def test_without_good_credentials_nothing_is_told(quiet, header):
    headers = {"Authorization": header} if header else {}
    for ask in (
        lambda: quiet.client.post("/", json={"study": "flu", "filename": "f.zip"}, headers=headers),
        lambda: quiet.client.get(f"/uploads/{uuid.uuid4()}", headers=headers),
    ):
        answer = ask()
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic")
    assert Uploads(quiet.workspace.ledger).files(FileState.REQUESTED) == []


def test_too_many_failures_are_not_looked_at(quiet, monkeypatch):
    hashed = []
    match = passwords.match
    monkeypatch.setattr(passwords, "match", lambda *a: hashed.append(a) or match(*a))
    statuses = [
        quiet.client.post("/", json={}, auth=("anna", f"wrong {n}")).status_code for n in range(15)
    ]
    assert statuses == [401] * login.FAILURES + [429] * 5
    assert len(hashed) == login.FAILURES
    answer = quiet.ask()
    assert answer.status_code == 429  # a guess that happens to be right is no answer either
    assert answer.headers["Retry-After"]
    assert quiet.ask("ben").status_code == 200  # others of the address go on


def test_guesses_at_once_are_looked_at_no_more_than_guesses_in_a_row(quiet, monkeypatch):
    hashed = []

    def slow(secret, _):
        hashed.append(secret)
        time.sleep(0.02)

    monkeypatch.setattr(passwords, "match", slow)
    found = login.Login(quiet.workspace.ledger)

    def guess(n):
        credentials = HTTPBasicCredentials(username="anna", password=f"wrong {n}")
        request = Request({"type": "http", "client": ("192.0.2.1", 1), "headers": []})
        with pytest.raises((login.Unauthorized, login.TooMany)):
            found.site(request, credentials)

    with ThreadPoolExecutor(30) as pool:
        list(pool.map(guess, range(30)))
    assert len(hashed) == login.FAILURES


def test_guesses_at_one_door_are_guesses_at_the_other(quiet):
    for n in range(login.FAILURES):
        assert quiet.client.get("/api/site", auth=("anna", f"wrong {n}")).status_code == 401
    assert quiet.ask().status_code == 429


def test_an_address_that_guesses_names_is_stopped_too(quiet, monkeypatch):
    monkeypatch.setattr(passwords, "match", lambda *_: None)
    statuses = [
        quiet.client.post("/", json={}, auth=(f"user{n}", "x")).status_code
        for n in range(login.FAILURES_OF_ADDRESS + 1)
    ]
    assert statuses[-2:] == [401, 429]


def test_a_good_login_is_hashed_once_and_ends_at_once(quiet, monkeypatch):
    hashed = []
    match = passwords.match
    monkeypatch.setattr(passwords, "match", lambda *a: hashed.append(a) or match(*a))
    for n in range(3):
        assert quiet.show(uuid.uuid4()).status_code == 404, n
    assert len(hashed) == 1
    Access(quiet.workspace.ledger).remove("anna")
    assert quiet.show(uuid.uuid4()).status_code == 401


def test_only_so_many_logins_are_remembered(quiet, monkeypatch):
    monkeypatch.setattr(login, "REMEMBERED", 1)
    for user in ("anna", "ben", "anna"):
        assert quiet.show(uuid.uuid4(), user).status_code == 404
    assert len(quiet.client.app.state.sites.login._known) == 1


def test_secrets_and_values_are_in_no_log(sites, caplog):
    caplog.set_level(logging.DEBUG)
    sites.client.post("/", json={}, auth=("anna", "a wrong secret, but almost right"))
    offer = sites.ask(filename="flu__letters.cube.parquet")
    table = cube(1, 2).set_column(1, "letter", [["CANARY-1", "CANARY-2", "CANARY-3"]])
    assert sites.send(offer.json(), parquet(table)).status_code == 204
    told = sites.wait(offer.headers["transaction-id"])
    text = caplog.text + json.dumps(told)
    for hidden in (SECRET, "a wrong secret", offer.json()["fields"]["signature"], "CANARY"):
        assert hidden not in text
    assert base64.b64encode(f"anna:{SECRET}".encode()).decode() not in text
    assert "processed an upload of boston" in caplog.text


def test_the_ledger_holds_no_secret_and_no_form(quiet, tmp_path):
    form = quiet.ask().json()
    quiet.workspace.close()
    data = b"".join(path.read_bytes() for path in (tmp_path / ".catchment").iterdir())
    assert b"boston" in data
    for hidden in (SECRET, form["fields"]["signature"], form["fields"]["policy"]):
        assert hidden.encode() not in data


# --- hostile uploads ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ([("flu__bomb.cube.parquet", b"\0" * (300 << 20))], "zip-too-large"),
        ([("../../latest/x.cube.parquet", b"x")], "zip-bad-name"),
        ([("/etc/flu__a.cube.parquet", b"x")], "zip-bad-name"),
        ([("flu__a.cube.parquet", b"x"), ("FLU__A.cube.parquet", b"x")], "zip-bad-name"),
        ([(f"flu__{n}.cube.parquet", b"") for n in range(2001)], "zip-too-large"),
        ([("flu__a.archive.parquet", b"CANARY")], "line-level-refused"),
    ],
    ids=["bomb", "traversal", "absolute", "twins", "many", "lines"],
)
def test_hostile_zips_are_refused_and_the_service_goes_on(sites, members, code):
    told = sites.upload(zipped(*members))
    assert told["accepted"] is False
    assert [f["code"] for f in told["uploads"][0]["files"][0]["findings"]] == [code]
    if code == "line-level-refused":
        for stat in sites.workspace.store.list():
            assert b"CANARY" not in sites.workspace.store.read(stat.key)
    assert {stat.key.split("/")[0] for stat in sites.workspace.store.list()} <= {
        "studies",
        "error",
        "archive",
    }
    assert sites.upload(study(1, 2))["accepted"]


def test_names_that_are_alike_stay_apart(sites):
    for user, site in (("u1", "a"), ("u2", "ab"), ("u3", "a_b")):
        Access(sites.workspace.ledger).add(site, user, passwords.hash_secret(SECRET))
    for n, user in enumerate(("u1", "u2", "u3")):
        sites.upload(study(n + 1, 0), user)
    sites.upload(study(10, 0), "u1")
    counts = published(sites.workspace)
    assert [counts[site, None] for site in ("a", "ab", "a_b", None)] == [10, 2, 3, 15]


# --- what holds for every answer ------------------------------------------------------------


def test_headers_for_browsers(quiet):
    for answer in (quiet.client.get("/health"), quiet.client.get("/a/b/c"), quiet.ask()):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert "Strict-Transport-Security" not in answer.headers
    secure = TestClient(quiet.client.app, base_url="https://testserver")
    assert "Strict-Transport-Security" in secure.get("/health").headers
    assert (
        secure.post("/", json={"study": "flu", "filename": "f.zip"}, auth=quiet.auth("carl"))
        .json()["url"]
        .startswith("https://testserver/")
    )


def test_bodies_are_bounded(quiet):
    answer = quiet.client.post("/", content=b"x" * 70_000, auth=quiet.auth())
    assert (answer.status_code, answer.json()["kind"]) == (413, "body-too-large")
    answer = quiet.client.post("/", content=iter([b"x" * 40_000] * 2), auth=quiet.auth())
    assert answer.status_code in {400, 413}


def test_unknown_paths_and_methods_are_told_as_errors(quiet):
    assert quiet.client.get("/a/b/c").json()["kind"] == "not-found"
    assert quiet.client.put("/").json()["kind"] == "method-not-allowed"
    answer = quiet.client.get(f"/uploads/{'x' * 100}", auth=quiet.auth())
    assert (answer.status_code, answer.json()["kind"]) == (400, "bad-request")
    assert "xxxx" not in answer.text


def test_a_fault_of_the_program_shows_nothing(quiet, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError("a CANARY value")

    monkeypatch.setattr(forms, "offer", fail)
    answer = quiet.ask()
    assert (answer.status_code, answer.json()["kind"]) == (500, "unexpected")
    assert "CANARY" not in answer.text + caplog.text
    assert "Traceback" not in answer.text
    assert "fault of the program: RuntimeError < " in caplog.text


def test_a_service_that_is_away_is_503(quiet, monkeypatch):
    def away(*_, **__):
        raise Unavailable("the ledger does not answer", kind="ledger-down")

    monkeypatch.setattr(type(quiet.workspace.ledger), "counts", away)
    answer = quiet.client.get("/health")
    assert (answer.status_code, answer.json()["kind"]) == (503, "ledger-down")
    assert answer.headers["Retry-After"]


def test_exports_are_served_to_their_tokens_only(tmp_path):
    digest = hashlib.sha256(b"token").hexdigest()
    with (
        make_workspace(tmp_path, serve=f'export_tokens = ["{digest}"]') as workspace,
        TestClient(create_app(workspace, process=False)) as client,
    ):
        assert client.get("/exports/jobs/x").status_code == 401
        answer = client.get("/exports/jobs/x", headers={"Authorization": "Bearer token"})
        assert answer.status_code == 404


def test_a_base_url_is_what_clients_see(tmp_path):
    with (
        make_workspace(tmp_path, serve='base_url = "https://center.example/api/"') as workspace,
        TestClient(create_app(workspace, process=False)) as client,
    ):
        url = Sites(workspace, client).ask().json()["url"]
    assert url == "https://center.example/api/uploads/form"


# --- processing -----------------------------------------------------------------------------


def test_a_service_that_starts_again_finds_what_was_left(tmp_path):
    with make_workspace(tmp_path) as workspace:
        with TestClient(create_app(workspace, process=False)) as client:
            sites = Sites(workspace, client)
            offer = sites.ask()
            assert sites.send(offer.json(), study(3, 4)).status_code == 204
        with TestClient(create_app(workspace)) as client:
            told = Sites(workspace, client).wait(offer.headers["transaction-id"])
        assert told["accepted"] is True
        assert published(workspace)[None, None] == 7


def arrived(quiet, data=None):
    offer = quiet.ask()
    assert quiet.send(offer.json(), data or study(3, 4)).status_code == 204
    uploads = Uploads(quiet.workspace.ledger)
    (file,) = uploads.files(FileState.ARRIVED)
    return offer.headers["transaction-id"], uploads, file


def test_processing_twice_counts_once(quiet):
    transaction, uploads, file = arrived(quiet)
    for _ in range(2):
        arrivals.process(quiet.workspace, uploads, file)
        assert quiet.show(transaction).json()["accepted"] is True
        assert published(quiet.workspace)[None, None] == 7


def test_two_workers_share_the_work(quiet):
    uploads = [arrived(quiet)[0]]
    with arrivals.Worker(quiet.workspace, 0.05), arrivals.Worker(quiet.workspace, 0.05):
        assert quiet.wait(uploads[0])["accepted"] is True
    assert published(quiet.workspace)[None, None] == 7


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NotFound("nothing has arrived", kind="no-upload"), "no-upload"),
        (Invalid("the settings", kind="bad-settings"), "bad-settings"),
        (Corrupt("what", kind="snapshot-damaged"), "snapshot-damaged"),
        (RuntimeError("a CANARY value"), "upload-not-processed"),
    ],
)
def test_an_upload_that_cannot_be_processed_says_so(quiet, monkeypatch, caplog, error, kind):
    transaction, uploads, file = arrived(quiet)

    def fail(*_):
        raise error

    monkeypatch.setattr(library, "submit", fail)
    arrivals.process(quiet.workspace, uploads, file)
    told = quiet.show(transaction).json()
    assert (told["state"], told["accepted"]) == ("done", False)
    assert told["uploads"][0]["error"]["kind"] == kind
    assert "CANARY" not in json.dumps(told) + caplog.text
    assert quiet.ask().status_code == 200


def test_an_upload_waits_while_a_service_is_away(quiet, monkeypatch):
    transaction, uploads, file = arrived(quiet)
    submit = library.submit

    def away(*_):
        raise Unavailable("away")

    monkeypatch.setattr(library, "submit", away)
    arrivals.process(quiet.workspace, uploads, file)
    assert quiet.show(transaction).json()["state"] == "processing"
    monkeypatch.setattr(library, "submit", submit)
    arrivals.process(quiet.workspace, uploads, file)
    assert quiet.show(transaction).json()["accepted"] is True


def test_others_in_the_way_are_no_refusal(quiet, monkeypatch):
    monkeypatch.setattr(arrivals.random, "uniform", lambda *_: 0)
    submit, tries = library.submit, []

    def busy(*place):
        tries.append(place)
        if len(tries) < arrivals.ATTEMPTS:
            raise Conflict("another run moved it", kind="state-changed")
        return submit(*place)

    monkeypatch.setattr(library, "submit", busy)
    transaction, uploads, file = arrived(quiet)
    arrivals.process(quiet.workspace, uploads, file)
    assert quiet.show(transaction).json()["accepted"] is True


def test_a_worker_outlives_a_ledger_that_is_away(quiet, monkeypatch, caplog):
    calls = []

    def away(*_, **__):
        calls.append(1)
        raise Unavailable("away", kind="ledger-down")

    monkeypatch.setattr(Uploads, "files", away)
    with arrivals.Worker(quiet.workspace, 0.01):
        while len(calls) < 3:
            time.sleep(0.01)
    assert "cannot look for uploads: ledger-down" in caplog.text


def test_a_scan_finds_whose_an_upload_is_and_gives_its_lock_back(quiet):
    transaction, uploads, _ = arrived(quiet)
    (done,) = scan.scan(library.house(quiet.workspace)).uploads
    assert (done.transaction, done.user) == (transaction, "anna")
    assert quiet.show(transaction).json()["accepted"] is True
    assert uploads.holder("boston", "flu") is None
    key = layout.staging("flu", "boston", 0, "flu.zip")
    quiet.workspace.store.put(key, study(1, 1))  # by hand, under the same key
    (done,) = scan.scan(library.house(quiet.workspace)).uploads
    assert done.transaction != transaction
    assert done.user == ""


def test_an_end_that_cannot_be_written_is_written_by_the_next_look(quiet, monkeypatch, caplog):
    transaction, *_ = arrived(quiet)
    finish, calls = Uploads.finish, []

    def away(*arguments):
        calls.append(1)
        if len(calls) == 1:
            raise Unavailable("away", kind="ledger-down")
        finish(*arguments)

    monkeypatch.setattr(Uploads, "finish", away)
    with arrivals.Worker(quiet.workspace, 0.05):
        assert quiet.wait(transaction)["accepted"] is True
    assert "an upload of boston waits: ledger-down" in caplog.text
    assert published(quiet.workspace)[None, None] == 7


def test_what_another_worker_has_claimed_is_left_to_it(quiet):
    _, uploads, file = arrived(quiet)
    assert uploads.claim(file, "one")
    assert uploads.claim(file, "one")
    assert not uploads.claim(file, "two")
    worker = arrivals.Worker(quiet.workspace)
    worker.look()
    assert worker._busy == {}
    uploads.finish(file.upload, file.key)
    assert not uploads.claim(file, "one")
    worker._pool.shutdown()


def test_what_two_threads_see_at_once_is_processed_once(quiet, monkeypatch):
    """One looks at intervals, the other when the bucket tells."""
    arrived(quiet)
    claim, processed = Uploads.claim, []

    def slow(*arguments):
        time.sleep(0.2)
        return claim(*arguments)

    monkeypatch.setattr(Uploads, "claim", slow)
    monkeypatch.setattr(arrivals, "process", lambda *one: processed.append(one) or time.sleep(1))
    worker = arrivals.Worker(quiet.workspace)
    threads = [threading.Thread(target=worker.look) for _ in range(2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    worker._pool.shutdown()
    assert len(processed) == 1
    assert worker._busy == {}


# --- S3 -------------------------------------------------------------------------------------


@contextmanager
def in_bucket(s3, folder):
    """A workspace whose store is a bucket."""
    options = "\n".join(
        f'{k} = "{v}"' if v != "true" else f"{k} = true" for k, v in s3.options.items()
    )
    folder.mkdir()
    place = f'store = "s3://{s3.bucket}/{uuid.uuid4().hex}"\nledger = "ledger.db"'
    with make_workspace(folder, s3=options, workspace=place) as workspace:
        yield workspace


@pytest.mark.parametrize("server", ["moto", "ministack"])
def test_an_upload_into_a_bucket(request, tmp_path, server):
    s3 = request.getfixturevalue(server)
    with in_bucket(s3, tmp_path / "ws") as workspace:
        with TestClient(create_app(workspace, process=False)) as client:
            sites = Sites(workspace, client)
            offer = sites.ask(version=2)
            form = offer.json()
            assert form["fields"]["key"].endswith("upload_staging/flu/boston/002/flu.zip")
            assert s3.endpoint in form["url"]
            transaction = offer.headers["transaction-id"]
            assert sites.show(transaction).json()["state"] == "open"
            sent = httpx.post(form["url"], data=form["fields"], files={"file": ("f", study(3, 4))})
            assert sent.status_code == 204
        with TestClient(create_app(workspace)) as client:
            assert Sites(workspace, client).wait(transaction)["accepted"] is True
        assert published(workspace)[None, None] == 7
        assert list(workspace.store.list(layout.STAGING)) == []


def post(form, *counts):
    """What a client sends to the storage itself."""
    sent = httpx.post(form["url"], data=form["fields"], files={"file": ("f", study(*counts))})
    assert sent.status_code == 204


def looked(workspace):
    """What a worker does at one look, to its end."""
    worker = arrivals.Worker(workspace)
    worker.look()
    worker._pool.shutdown()


def test_a_form_of_the_storage_that_is_used_again_mixes_nothing_up(moto, tmp_path):
    with (
        in_bucket(moto, tmp_path / "ws") as workspace,
        TestClient(create_app(workspace, process=False)) as client,
    ):
        sites = Sites(workspace, client)
        first = sites.ask()
        post(first.json(), 1, 2)
        looked(workspace)
        post(first.json(), 3, 4)  # as a client does whose answer was lost
        assert sites.ask().status_code == 412  # what has come comes first
        looked(workspace)
        assert published(workspace)[None, None] == 7
        post(first.json(), 5, 6)
        looked(workspace)  # without anybody who asks
        assert published(workspace)[None, None] == 11
        assert sites.show(first.headers["transaction-id"]).json()["accepted"] is True
        assert list(workspace.store.list(layout.STAGING)) == []


def test_what_lay_there_before_is_not_what_is_awaited(moto, tmp_path):
    with (
        in_bucket(moto, tmp_path / "ws") as workspace,
        TestClient(create_app(workspace, process=False)) as client,
    ):
        sites = Sites(workspace, client)
        key = layout.staging("flu", "boston", 0, "flu.zip")
        workspace.store.put(key, study(1, 2))  # by hand
        offer = sites.ask()
        looked(workspace)
        told = sites.show(offer.headers["transaction-id"]).json()
        assert (told["state"], told["uploads"][0]["size"]) == ("open", None)
        post(offer.json(), 3, 4)
        looked(workspace)
        assert sites.show(offer.headers["transaction-id"]).json()["accepted"] is True
        assert published(workspace)[None, None] == 7


def test_an_upload_that_overtakes_is_told_of_its_own_bytes(moto, tmp_path, monkeypatch):
    with (
        in_bucket(moto, tmp_path / "ws") as workspace,
        TestClient(create_app(workspace, process=False)) as client,
    ):
        sites = Sites(workspace, client)
        died = sites.ask().headers["transaction-id"]
        monkeypatch.setattr(client.app.state.sites.uploads, "_idle", timedelta(0))
        offer = sites.ask()
        post(offer.json(), 3, 4)
        assert sites.show(died).json()["state"] == "open"  # though something lies there now
        looked(workspace)
        assert sites.show(offer.headers["transaction-id"]).json()["accepted"] is True
        assert sites.show(died).json()["uploads"][0]["files"] == []


def test_processes_count_failed_logins_together(quiet):
    address = ("testclient", "anna")
    others = [login.Failures(quiet.workspace.ledger) for _ in range(2)]
    for n in range(login.FAILURES):
        others[n % 2].count(*address)
    assert quiet.ask().status_code == 429
    quiet.workspace.ledger._now = lambda: datetime.now(UTC) + timedelta(seconds=61)
    later = login.Failures(quiet.workspace.ledger)
    with later.turn(*address):
        later.count(*address)
    assert later._failed.count(*address) == (1, 1)  # the others are forgotten


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
        ("testclient", "testclient"),
    ],
)
def test_who_has_many_addresses_has_one(host, told):
    request = Request({"type": "http", "client": (host, 1), "headers": []})
    assert login.address_of(request) == told

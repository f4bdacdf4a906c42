"""STOW-RS as PS3.18 10.5 says, with the public client and with what no client should send."""

from __future__ import annotations

import io
import zlib
from concurrent.futures import ThreadPoolExecutor

import pydicom
import pytest
from starlette.testclient import TestClient

from catchment.core.account import Line
from catchment.imaging import capability, layout, stow
from catchment.imaging.snapshot import open_snapshot
from catchment.testing.dicom import make_file
from catchment.testing.web import serving
from catchment.web.app import create_app
from tests.web.serving import SECRET, make_workspace

URL = "/dicomweb/ct/studies"
TYPE = 'multipart/related; type="application/dicom"; boundary=frontier'


@pytest.fixture
def workspace(tmp_path):
    settings = {"imaging.ct": 'senders = ["boston"]'}
    with make_workspace(tmp_path, **settings) as opened:
        yield opened


@pytest.fixture
def client(workspace):
    with TestClient(create_app(workspace, process=False)) as client:
        yield client


def body(*files, kind="application/dicom"):
    parts = [b"--frontier\r\nContent-Type: %s\r\n\r\n%s\r\n" % (kind.encode(), f) for f in files]
    return b"".join(parts) + b"--frontier--\r\n"


def send(client, *files, url=URL, user="anna", content_type=TYPE, content=None):
    return client.post(
        url,
        content=body(*files) if content is None else content,
        headers={"Content-Type": content_type, "Accept": "application/dicom+json"},
        auth=(user, SECRET),
    )


def items(answer, tag):
    return answer.json().get(tag, {}).get("Value", [])


def uids(answer, tag="00081199"):
    return [item["00081155"]["Value"][0] for item in items(answer, tag)]


def reasons(answer, tag="00081198"):
    return [item["00081197"]["Value"][0] for item in items(answer, tag)]


def waiting(workspace):
    return stow.waiting(workspace.store, "ct")


def test_instances_are_kept_as_they_are_and_published_by_the_next_run(client, workspace):
    files = [make_file(f"1.2.3.1.1.{n}") for n in range(3)]
    answer = send(client, *files)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    assert uids(answer) == ["1.2.3.1.1.0", "1.2.3.1.1.1", "1.2.3.1.1.2"]
    assert items(answer, "00081199")[0]["00081150"]["Value"] == ["1.2.840.10008.5.1.4.1.1.2"]
    assert waiting(workspace) == 3
    done = capability.run(workspace, "ct")
    assert done.account[Line("boston", "files", "files")].kept == 3
    assert waiting(workspace) == 0
    snapshot = open_snapshot(workspace.store, workspace.ledger, "ct")
    assert snapshot.verify(sources=True) == []
    for row in snapshot["images"].to_pylist():
        assert workspace.store.read(layout.object_key("ct", row["sha256"])) in files
    # Sent again: kept again, and once only in what is published.
    assert send(client, files[0]).status_code == 200
    again = capability.run(workspace, "ct")
    assert again.account[Line("boston", "files", "files")].dropped == {"duplicate": 1}
    assert capability.run(workspace, "ct").state == "unchanged"


def test_the_public_client(workspace):
    """dicomweb-client over a real server."""
    from dicomweb_client.api import DICOMwebClient
    from dicomweb_client.session_utils import create_session_from_user_pass

    files = [pydicom.dcmread(io.BytesIO(make_file(f"1.2.3.1.1.{n}"))) for n in range(4)]
    with serving(create_app(workspace, process=False)) as url:
        session = create_session_from_user_pass("anna", SECRET)
        client = DICOMwebClient(f"{url}/dicomweb/ct", session=session)
        answer = client.store_instances(files)
        assert len(answer.ReferencedSOPSequence) == 4
        assert "FailedSOPSequence" not in answer
        client.store_instances(files[:2], study_instance_uid="1.2.3.1")
    assert waiting(workspace) == 4
    assert capability.run(workspace, "ct").account[Line("boston", "files", "files")].kept == 4


def test_each_instance_has_its_answer(client, workspace):
    good, other = make_file("1.2.3.1.1.1"), make_file("1.2.9.1", study="1.2.9")
    answer = send(client, good, b"no dicom", other, b"", url=f"{URL}/1.2.3.1")
    assert answer.status_code == 202
    assert uids(answer) == ["1.2.3.1.1.1"]
    assert (uids(answer, "00081198"), reasons(answer)) == (["1.2.9.1"], [stow.OTHER_STUDY])
    assert reasons(answer, "0008119A") == [stow.NOT_UNDERSTOOD] * 2
    assert waiting(workspace) == 1


def test_none_kept_is_a_conflict(client, workspace):
    answer = send(client, b"no dicom", make_file(SOPInstanceUID=None))
    assert answer.status_code == 409
    assert reasons(answer, "0008119A") == [stow.NOT_UNDERSTOOD] * 2
    assert waiting(workspace) == 0


def test_an_instance_that_is_too_large_leaves_the_others(client, workspace, monkeypatch):
    import numpy as np

    large = make_file("1.2.3.1.1.9", pixels=np.zeros((800, 800), np.uint16))
    workspace.settings.serve.__dict__["max_upload"] = 1
    answer = send(client, large, make_file("1.2.3.1.1.1"))
    assert answer.status_code == 202
    assert reasons(answer, "0008119A") == [stow.NO_ROOM]
    assert uids(answer) == ["1.2.3.1.1.1"]


def test_more_instances_than_are_taken_at_once(client, workspace, monkeypatch):
    monkeypatch.setattr(stow, "MOST", 2)
    answer = send(client, *[make_file(f"1.2.3.1.1.{n}") for n in range(3)])
    assert (answer.status_code, answer.json()["kind"]) == (400, "too-many-instances")
    assert waiting(workspace) == 2


def deflated():
    dataset = pydicom.dcmread(io.BytesIO(make_file("1.2.3.1.1.5")))
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


def test_odd_files_are_known_by_the_slower_reader(client, workspace, monkeypatch):
    answer = send(client, deflated())
    assert (answer.status_code, uids(answer)) == (200, ["1.2.3.1.1.5"])
    broken = deflated()[:-60] + zlib.compress(b"x")
    assert send(client, broken).status_code == 409
    monkeypatch.setattr(stow, "ODD", 10)
    assert send(client, deflated()).status_code == 409


def test_a_file_that_kills_its_reader_is_refused(client, workspace):
    class Dying:
        def submit(self, *_):
            raise stow.Invalid("it died", kind="reader-died")

    workspace.__dict__["executor"] = Dying()
    assert send(client, deflated()).status_code == 409
    assert send(client, make_file()).status_code == 200


@pytest.mark.parametrize(
    ("more", "status", "kind"),
    [
        ({"user": "carl"}, 404, "no-aggregate"),
        ({"url": "/dicomweb/mr/studies"}, 404, "no-aggregate"),
        ({"user": "nobody"}, 401, "unauthorized"),
        ({"url": f"{URL}/1.x"}, 400, "bad-request"),
        ({"content_type": "application/dicom"}, 415, "unsupported-media"),
        ({"content_type": TYPE.replace("dicom", "dicom+json")}, 415, "unsupported-media"),
        ({"content_type": "multipart/related; boundary="}, 415, "unsupported-media"),
        ({"content_type": TYPE + "x" * 300}, 400, "bad-form"),
        ({"content": body(b"x", kind="application/dicom+xml")}, 415, "unsupported-media"),
        ({"content": body(make_file())[:-30]}, 400, "bad-form"),
        ({"content": b"something else"}, 400, "bad-form"),
        ({"content": b"--frontier--\r\n"}, 400, "bad-form"),
        ({"content": b""}, 400, "bad-form"),
    ],
)
def test_what_is_no_such_request_is_refused(client, more, status, kind):
    answer = send(client, make_file(), **more)
    assert (answer.status_code, answer.json()["kind"]) == (status, kind)


def test_what_was_whole_before_the_sender_went_away_is_kept(client, workspace):
    cut = body(make_file("1.2.3.1.1.1"), make_file("1.2.3.1.1.2"))[:-400]
    assert send(client, content=cut).status_code == 400
    assert waiting(workspace) == 1


def test_many_send_the_same_at_once(client, workspace):
    file = make_file()
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: send(client, file).status_code, range(24)))
    assert set(answers) == {200}
    assert waiting(workspace) == 1


def test_an_inbox_that_a_killed_run_left_is_emptied(client, workspace, monkeypatch):
    from catchment.imaging import receive

    send(client, make_file())
    with monkeypatch.context() as patch:
        patch.setattr(receive, "_empty", lambda *_: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            capability.run(workspace, "ct")
    assert waiting(workspace) == 1
    done = capability.run(workspace, "ct")
    assert done.account[Line("boston", "files", "files")].received == 1
    assert waiting(workspace) == 0
    assert list(capability.sites(workspace, "ct")) == ["boston"]


def test_what_waits_is_no_orphan(client, workspace):
    from datetime import timedelta

    send(client, make_file())
    assert list(capability.orphans(workspace, grace=timedelta(0))) == []
    capability.run(workspace, "ct")
    assert list(capability.orphans(workspace, grace=timedelta(0))) == []

"""``catchment serve`` and ``catchment upload`` as programs: real processes, real HTTP, real kills."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import uvicorn

from catchment.cli import serve
from catchment.cli.main import run
from catchment.core.errors import Invalid
from catchment.studies import client
from catchment.testing.web import serving
from catchment.web.app import create_app, from_environment
from tests.web.serving import SECRET, Sites, cube, make_workspace, parquet, study, zipped


class Served:
    """``catchment serve`` in a process of its own."""

    def __init__(self, folder, *options):
        self.log = (folder / "serve.log").open("w+")
        code = "from catchment.cli.main import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "serve", "--port", "0", "-v", *options],
            cwd=folder,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        self.url = self._find()

    def _find(self):
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            if found := re.search(r"listening at (\S+)", self.said):
                return found[1]
            time.sleep(0.05)
        raise AssertionError(self.said)

    @property
    def said(self):
        return Path(self.log.name).read_text()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.log.close()

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.log.close()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(
        "CATCHMENT_WORKSPACE", str(tmp_path)
    )  # `serve` sets it: it ends with the test
    make_workspace(tmp_path).close()
    return tmp_path


@pytest.fixture
def client_of():
    with ExitStack() as stack:
        yield lambda served: stack.enter_context(httpx.Client(base_url=served.url, timeout=60))


def test_it_serves_and_goes_on_after_a_kill(folder, client_of):
    served = Served(folder)
    try:
        sites = Sites(None, client_of(served))
        offer = sites.ask()
        form = offer.json()
        assert form["url"] == f"{served.url}/uploads/form"
        assert (
            httpx.post(
                form["url"], data=form["fields"], files={"file": ("f", study(3, 4))}
            ).status_code
            == 204
        )
    finally:
        served.kill()
    again = Served(folder)
    try:
        sites = Sites(None, client_of(again))
        assert sites.wait(offer.headers["transaction-id"])["accepted"] is True
        assert SECRET not in again.said
        assert "GET /uploads/" in again.said
    finally:
        again.end()
    assert again.process.returncode == 0
    assert not (folder / ".catchment" / "ledger.db-wal").exists()  # it was closed


def test_tls_and_two_processes(folder, tmp_path_factory):
    openssl = shutil.which("openssl")
    if not openssl:
        pytest.skip("no openssl to make a certificate")
    keys = tmp_path_factory.mktemp("keys")
    command = (
        f"req -x509 -newkey rsa:2048 -nodes -keyout {keys}/key.pem -out {keys}/cert.pem -days 1"
    )
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([openssl, *command.split(), *subject], check=True, capture_output=True)
    tls = ["--tls-cert", f"{keys}/cert.pem", "--tls-key", f"{keys}/key.pem"]
    served = Served(folder, *tls, "--workers", "2")
    try:
        assert served.url.startswith("https://")
        trust = ssl.create_default_context(cafile=f"{keys}/cert.pem")
        for _ in range(8):  # each by a connection of its own, so that both processes answer
            answer = httpx.get(f"{served.url}/health", verify=trust, timeout=60)
        assert answer.json()["status"] == "ok"
        assert "Strict-Transport-Security" in answer.headers
        wanted = re.compile(r'catchment_requests_total\{[^}]*route="/health"[^}]*\} (\S+)')
        scraped = [httpx.get(f"{served.url}/metrics", verify=trust, timeout=60) for _ in range(8)]
        told = [float(wanted.search(one.text)[1]) for one in scraped]
        assert len(set(told)) == 1  # whichever of them is asked
        assert told[0] >= 8
    finally:
        served.end()


# --- the client -----------------------------------------------------------------------------


@pytest.fixture
def center(workspace):
    with serving(create_app(workspace)) as url:
        yield url


@pytest.fixture
def upload(center, tmp_path, capsys, monkeypatch):
    """Calls ``catchment upload``; gives exit code, JSON, and what people were told."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("CATCHMENT_SECRET", SECRET)
    monkeypatch.setenv("CATCHMENT_URL", center)
    monkeypatch.setenv("CATCHMENT_EXECUTOR__KIND", "threads")

    def call(source, *arguments):
        capsys.readouterr()
        code = run(["upload", str(source), "--user", "anna", "--json", *arguments])
        out, err = capsys.readouterr()
        return code, json.loads(out), err

    return call


@pytest.fixture
def export(tmp_path):
    """A folder as the library of a site exports it."""
    folder = tmp_path / "exports" / "flu"
    folder.mkdir(parents=True)
    (folder / "flu__letters.cube.parquet").write_bytes(parquet(cube(3, 4)))
    (folder / "manifest.toml").write_text('study_prefix = "flu"\n')
    (folder / "notes.txt").write_text("not for the center")
    return folder


def test_a_folder_is_sent_and_answered(upload, export, workspace):
    code, told, _ = upload(export)
    assert code == 0
    assert told["accepted"] is True
    assert (told["site"], told["study"]) == ("boston", "flu")
    assert {f["name"] for f in told["uploads"][0]["files"]} == {
        "flu__letters.cube.parquet",
        "manifest.toml",
    }
    (export / "flu__letters.cube.parquet").write_bytes(parquet(cube(30, 1)))
    code, again, _ = upload(export)
    assert code == 0
    assert again["transaction"] != told["transaction"]
    (files,) = [{f["name"]: f for f in part["files"]} for part in again["uploads"]]
    assert files["flu__letters.cube.parquet"]["quality"]  # compared with the previous upload


def test_a_ready_zip_in_the_folder_is_sent_as_it_is(upload, export):
    (export / "flu.zip").write_bytes(study(1, 2))
    code, told, _ = upload(export)
    assert code == 0
    assert "flu__meta_date.meta.parquet" in json.dumps(told)


def test_what_the_check_refuses_is_not_sent(upload, export, workspace):
    (export / "flu__bad.cube.parquet").write_bytes(b"PAR1")
    code, told, _ = upload(export)
    assert code == 1
    assert told["transaction"] is None
    assert workspace.ledger.aggregates() == []
    code, told, _ = upload(export, "--force")
    assert code == 1
    by_name = {f["name"]: f for f in told["uploads"][0]["files"]}
    assert by_name["flu__letters.cube.parquet"]["accepted"] is True
    assert by_name["flu__bad.cube.parquet"]["accepted"] is False
    assert by_name["flu__bad.cube.parquet"]["findings"][0]["hint"]


def test_the_check_and_the_center_say_the_same(upload, export):
    (export / "flu__bad.cube.parquet").write_bytes(b"PAR1")
    (export / "flu__twice.cube.parquet").write_bytes(parquet(cube(1).take([0, 1, 1])))
    _, here, _ = upload(export, "--dry-run")
    _, there, _ = upload(export, "--force")

    def said(told):
        files = told["uploads"][0]["files"]
        return {f["name"]: (f["accepted"], [x["code"] for x in f["findings"]]) for f in files}

    assert said(here) == said(there)


def test_people_are_told_in_words(upload, export, capsys, monkeypatch):
    (export / "flu__bad.cube.parquet").write_bytes(b"PAR1")
    capsys.readouterr()
    assert run(["upload", str(export), "--user", "anna", "--dry-run"]) == 1
    out = capsys.readouterr().out
    assert "refused" in out
    assert "hint: " in out
    assert "flu: refused (checked here only)" in out


def test_a_version_is_found_or_given(upload, tmp_path, workspace):
    import pyarrow as pa

    version = pa.table({"data_package_version": ["2"]})
    path = tmp_path / "flu.zip"
    path.write_bytes(
        zipped(
            ("flu__letters.cube.parquet", parquet(cube(1, 1))),
            ("flu__meta_version.meta.parquet", parquet(version)),
        )
    )
    assert upload(path)[1]["uploads"][0]["version"] == 2
    assert upload(path, "--data-version", "5", "--dry-run")[1]["uploads"][0]["version"] == 5
    bare = tmp_path / "flu__letters.cube.parquet"
    bare.write_bytes(parquet(cube(1, 1)))
    code, told, _ = upload(bare, "--network", "north")
    assert (code, told["uploads"][0]["version"], told["study"]) == (0, 0, "flu")


def test_errors_before_anything_is_sent(upload, export, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    for source, arguments, kind in (
        (tmp_path / "nowhere.zip", [], "nothing-to-upload"),
        (tmp_path / "empty", [], "nothing-to-upload"),
        (export, ["--study", "../x"], "bad-name"),
        (export, ["--url", "ftp://center"], "bad-url"),
        (export, ["--url", "http://center.example"], "bad-url"),
        (export, ["--url", "https://me:secret@center.example"], "bad-url"),
    ):
        code, told, _ = upload(source, *arguments)
        assert (code, told["error"]["kind"]) == (2, kind)
        assert SECRET not in json.dumps(told)
    monkeypatch.delenv("CATCHMENT_SECRET")
    assert upload(export)[1]["error"]["kind"] == "usage"


def test_a_wrong_secret_is_told_at_once(upload, export, monkeypatch):
    monkeypatch.setenv("CATCHMENT_SECRET", "wrong, but long enough")
    code, told, _ = upload(export)
    assert (code, told["error"]["kind"]) == (2, "unauthorized")


def test_the_secret_may_come_by_standard_input(upload, export, monkeypatch):
    import io

    monkeypatch.delenv("CATCHMENT_SECRET")
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{SECRET}\n"))
    assert upload(export, "--secret-stdin")[0] == 0


class Flaky:
    """An application before the center's that fails as networks do, on the calls that it is told."""

    def __init__(self, app, failures):
        self.app, self.failures, self.calls = app, list(failures), []

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self.calls.append(scope["path"])
        how = self.failures.pop(0) if self.failures else None
        if how == "lost":  # done, and the answer lost

            async def away(_):
                return

            await self.app(scope, receive, away)
            raise ConnectionError("lost")
        if how == "gone":
            raise ConnectionError("gone")
        if isinstance(how, int):
            headers = [(b"content-length", b"0")]
            await send({"type": "http.response.start", "status": how, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        await self.app(scope, receive, send)


@pytest.mark.parametrize(
    "failures",
    [
        [503, 502],
        [None, 503],
        [None, "lost"],
        ["lost"],
        [None, None, 500, "gone", 429],
        [None, 403],
    ],
    ids=str,
)
def test_what_may_pass_is_tried_again_and_counted_once(
    workspace, export, tmp_path, monkeypatch, failures
):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(client, "PAUSES", (0.01, 0.1))
    flaky = Flaky(create_app(workspace), failures)
    with serving(flaky) as url, client.packed(export) as parcel:
        told = client.send(parcel, client.Target(url, "anna", SECRET), patience=60)
    assert told["accepted"] is True
    assert flaky.failures == []
    assert not any((tmp_path / "state" / "catchment" / "uploads").iterdir())


def test_an_upload_that_was_interrupted_goes_on(workspace, export, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(client, "PAUSES", (0.01, 0.02))
    flaky = Flaky(create_app(workspace), [None, *["gone"] * 200])
    with serving(flaky) as url, client.packed(export) as parcel:
        target = client.Target(url, "anna", SECRET)
        with pytest.raises(client.Unavailable) as caught:
            client.send(parcel, target, patience=0.3)
        assert "run the same command again" in caught.value.hint
        assert SECRET not in repr(target) + str(caught.value)
        flaky.failures.clear()
        (memory,) = (tmp_path / "state" / "catchment" / "uploads").iterdir()
        transaction = memory.read_text()
        told = client.send(parcel, target, patience=60)
        assert (told["transaction"], told["accepted"]) == (transaction, True)
        memory.write_text("unknown")  # of a center that has lost its ledger
        assert client.send(parcel, target, patience=60)["accepted"] is True


def test_a_refusal_that_no_waiting_mends(workspace, export, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for answers, kind in (
        ([418], "upload-refused"),
        ([None, 418], "upload-refused"),
        ([409], "upload-busy"),
    ):
        with serving(Flaky(create_app(workspace), answers)) as url, client.packed(export) as parcel:
            target = client.Target(url, "anna", SECRET)
            with pytest.raises((Invalid, client.Conflict)) as caught:
                client.send(parcel, target, patience=5)
        assert caught.value.kind == kind


# --- options --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["--host", "0.0.0.0"], "tls-needed"),
        (["--host", "center.example"], "tls-needed"),
        (["--tls-cert", "catchment.toml"], "bad-tls"),
        (["--tls-cert", "nowhere.pem", "--tls-key", "nowhere.pem"], "bad-tls"),
    ],
)
def test_secrets_do_not_cross_a_network_in_the_clear(folder, capsys, monkeypatch, arguments, kind):
    monkeypatch.chdir(folder)
    assert run(["serve", "--json", *arguments]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == kind


def test_uvicorn_is_an_extra(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert run(["serve", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "missing-extra"


def test_a_port_that_is_taken(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert run(["serve", "--json", "--port", str(taken.getsockname()[1])]) == 5
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "cannot-listen"


def test_how_the_server_is_called(folder, monkeypatch, capsys):
    called = []
    monkeypatch.setattr(
        uvicorn.Server, "run", lambda self, sockets: called.append((self.config, sockets))
    )
    monkeypatch.setenv("CATCHMENT_WORKSPACE", "elsewhere")
    assert run(["serve", "-w", str(folder), "--port", "0", "--proxy", "10.0.0.1"]) == 0
    assert re.search(r"listening at http://127\.0\.0\.1:\d+\n", capsys.readouterr().err)
    assert os.environ["CATCHMENT_WORKSPACE"] == str(folder / "catchment.toml")
    (config, (listener,)) = called[0]
    assert (config.forwarded_allow_ips, config.proxy_headers) == ("10.0.0.1", True)
    assert config.access_log is False
    assert listener.fileno() == -1  # closed with the command
    run(["serve", "-w", str(folder), "--port", "0", "--host", "::1"])
    assert called[1][0].proxy_headers is False
    assert "listening at http://[::1]:" in capsys.readouterr().err


def test_many_processes_share_one_listener(folder, monkeypatch):
    from uvicorn import supervisors

    called = []

    class Many:
        def __init__(self, config, sockets):
            called.append((config.workers, len(sockets)))
            assert config.timeout_worker_healthcheck == serve.HEALTH  # its own 5 s kill busy ones

        def run(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(supervisors, "Multiprocess", Many)
    monkeypatch.setenv("CATCHMENT_WORKSPACE", "elsewhere")
    assert run(["serve", "-w", str(folder), "--port", "0", "--workers", "3"]) == 0
    assert called == [(3, 1)]


def test_a_worker_process_logs_as_the_command_does(folder, monkeypatch):
    monkeypatch.setenv("CATCHMENT_WORKSPACE", str(folder))
    monkeypatch.setenv("CATCHMENT_LOG", "INFO")
    monkeypatch.setattr(logging.root, "handlers", [])
    level = logging.root.level
    try:
        app = from_environment()
        (handler,) = logging.root.handlers
        assert logging.root.level == logging.INFO
        assert not handler.filter(logging.makeLogRecord({"name": "httpx"}))
        assert handler.filter(logging.makeLogRecord({"name": "catchment.web"}))
    finally:
        logging.root.setLevel(level)
    app.state.sites.workspace.close()

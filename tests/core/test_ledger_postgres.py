"""The ledger on PostgreSQL: secrets, refusals, and a server that goes away."""

import pickle
import socket
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest
import sqlalchemy as sa

from catchment.core.errors import Corrupt, Invalid, Unavailable
from catchment.core.ledger import Ledger
from catchment.core.ledger.database import Database
from catchment.testing.ledger_samples import AGGREGATE, prepare, refused, step, unbroken
from catchment.testing.postgres import PASSWORD, running

SECRET = "hunter2"


def everything_said(error):
    return repr(error) + str(error) + "".join(traceback.format_exception(error))


def test_a_wrong_password_is_refused_and_not_repeated(postgres):
    with pytest.raises(Invalid) as caught:
        Ledger.open(postgres.url(password=SECRET) + f"?application_name={SECRET}")
    assert caught.value.kind == "ledger-refused"
    said = everything_said(caught.value) + repr(pickle.loads(pickle.dumps(caught.value)))
    assert SECRET not in said


def test_secrets_are_in_no_representation(postgres):
    with Ledger.open(postgres.database()) as ledger:
        assert PASSWORD not in repr(ledger) + str(ledger)
        ledger._database.write(lambda c: c.execute(sa.text("DROP TABLE transitions")))
        with pytest.raises(Corrupt) as caught:
            ledger.receive(AGGREGATE, SECRET, SECRET, SECRET, 1)
    said = everything_said(caught.value)
    assert PASSWORD not in said
    assert SECRET not in said


def test_a_missing_database_is_refused(postgres):
    with refused("ledger-refused", Invalid):
        Ledger.open(postgres.url("none"))


def test_a_server_that_never_answered_is_not_waited_for():
    start = time.monotonic()
    with refused("ledger-down", Unavailable):
        Ledger.open("postgresql://127.0.0.1:1/ledger", patience=60)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("state", "error", "kind"),
    [
        ("40P01", Unavailable, "ledger-locked"),
        ("55P03", Unavailable, "ledger-locked"),
        ("53100", Unavailable, "disk-full"),
        ("53300", Unavailable, "ledger-down"),
        ("57P01", Unavailable, "ledger-down"),
        ("25006", Unavailable, "ledger-down"),
        ("42501", Invalid, "ledger-refused"),
        ("22003", Invalid, "ledger-bad-value"),
        ("42P01", Corrupt, "ledger-contradiction"),
        ("23503", Corrupt, "ledger-contradiction"),
        ("XX001", Corrupt, "ledger-contradiction"),
    ],
)
def test_errors_of_postgres_have_their_place(state, error, kind):
    errors = pytest.importorskip("psycopg.errors")
    cause = sa.exc.DBAPIError.instance("SELECT", {}, errors.lookup(state)("secret"), errors.Error)
    mapped = Database("postgresql://host/ledger", 1).translate(cause)
    assert (type(mapped), mapped.kind) == (error, kind)
    assert "secret" not in str(mapped)


@contextmanager
def publishing(ledger, wanted):
    """Publish in a thread while something happens; then ``wanted`` times more, without a loss."""
    stop, numbers = threading.Event(), []

    def publish():
        while not stop.is_set():
            numbers.append(step(ledger, str(len(numbers))).number)

    def wait_for(more):
        target = len(numbers) + more
        while len(numbers) < target:
            assert not job.done(), job.result()
            time.sleep(0.01)

    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(publish)
        try:
            wait_for(3)
            yield
            wait_for(wanted)
        finally:
            stop.set()
        job.result()
    assert numbers == list(range(1, len(numbers) + 1))
    unbroken(ledger, {str(i): number for i, number in enumerate(numbers)})


def test_publications_survive_a_crash_of_the_server(postgres):
    with running() as server, Ledger.open(server.database()) as ledger, publishing(ledger, 3):
        server.stop()
        time.sleep(0.2)
        server.start()


def test_publications_survive_the_end_of_their_sessions(postgres):
    with Ledger.open(postgres.database()) as ledger, publishing(ledger, 3):
        for _ in range(20):
            time.sleep(0.03)
            postgres.end_sessions()


class Proxy:
    """Stands between a ledger and its server, and can lose the answer to the next COMMIT."""

    def __init__(self, port):
        self.lose = threading.Event()
        self.lost = 0
        self._server = port
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self):
        self._socket.close()

    def _serve(self):
        with suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                server = socket.create_connection(("127.0.0.1", self._server))
                threading.Thread(target=self._pass, args=(client, server), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client), daemon=True).start()

    def _pass(self, source, target):
        with suppress(OSError):
            while data := source.recv(65536):
                # The server's answer: a command complete, whose tag is COMMIT.
                if self.lose.is_set() and data.startswith(b"C") and b"COMMIT\0" in data:
                    self.lose.clear()
                    self.lost += 1
                    break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()


def test_a_commit_whose_answer_is_lost_on_the_way_is_not_made_twice(postgres):
    url = postgres.database()
    proxy = Proxy(postgres.port)
    with Ledger.open(url.replace(f":{postgres.port}/", f":{proxy.port}/")) as ledger:
        made = {}
        for key in "abc":
            ready = prepare(ledger, key)
            proxy.lose.set()
            made[key] = ledger.publish(ready).number
        assert proxy.lost == 3
        assert made == {"a": 1, "b": 2, "c": 3}
    proxy.close()
    with Ledger.open(url) as ledger:
        assert len(unbroken(ledger, made)) == 3

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catchment.core.errors import CatchmentError, Invalid, NotFound, Unavailable
from catchment.tables import identifiers, identifiers_file
from catchment.tables.identifiers import IdentifiersOptions, open_identifiers
from catchment.testing.aws_lambda import Reply, account, answering
from catchment.testing.s3 import moto  # noqa: F401 - a fixture

ANNA, BERT, CARL, DORA = (f"NACC00000{n}" for n in range(1, 5))
QUICK = IdentifiersOptions(wait=0.001, timeout=5.0, attempts=4)
FUNCTION = "/2015-03-31/functions/ids/invocations?Qualifier="


# --- a service, as a real server -----------------------------------------------------------------


class Service:
    """Knows some participants; speaks HTTP and the Lambda API; fails as it is told to."""

    def __init__(self, known: dict[str, list[tuple[int, bool]]]) -> None:
        self.known = known
        self.requests: list[tuple[str, dict, dict]] = []  # path, headers, JSON
        self.failures: list[Reply] = []  # answers to give first
        self.limit = 100
        self.change: Callable[[dict], object] = lambda page: page
        self.lock = threading.Lock()
        self.url = ""

    def reply(self, path: str, headers: dict, body: bytes) -> Reply:
        request = json.loads(body)
        with self.lock:
            self.requests.append((path, headers, request))
            if self.failures:
                return self.failures.pop(0)
        entries = self.known.get(request["naccid"], [])
        limit = min(request["limit"], self.limit)
        part = entries[request["offset"] : request["offset"] + limit]
        naccid = request["naccid"]
        data = [
            {
                "adcid": a,
                "ptid": "1",
                "guid": None,
                "naccadc": 1,
                "naccid": naccid,
                "active": active,
            }
            for a, active in part
        ]
        page = self.change({"offset": request["offset"], "limit": limit, "data": data})
        text = page if isinstance(page, str) else json.dumps(page)
        if path.startswith("/2015-03-31/"):
            return 200, {}, json.dumps({"statusCode": 200, "headers": {}, "body": text}).encode()
        return 200, {}, text.encode()


@contextmanager
def serving(service: Service) -> Iterator[Service]:
    with answering(service.reply) as service.url:
        yield service


MANY = [(n, n % 50 == 0) for n in range(1, 251)]  # 250 centers, 5 of them active
KNOWN = {ANNA: [(10, False), (20, True)], BERT: [(0, True)], CARL: [(10, False)], DORA: MANY}


@pytest.fixture
def service() -> Iterator[Service]:
    with serving(Service(KNOWN)) as running:
        yield running


@pytest.fixture(params=["http", "lambda"])
def spec(request, service, monkeypatch) -> str:
    here = {"AWS_REGION": "us-west-2", "AWS_DEFAULT_REGION": "us-west-2"}
    for name, value in (account(service.url) | here).items():
        monkeypatch.setenv(name, value)
    return service.url + "/identifiers" if request.param == "http" else "lambda:ids"


def current(spec: str, *naccids: str, options: IdentifiersOptions = QUICK, mode: str = "prod"):
    return open_identifiers(spec, mode, options).current(naccids)


def refused(spec: str, *naccids: str, options: IdentifiersOptions = QUICK) -> CatchmentError:
    with pytest.raises(CatchmentError) as caught:
        current(spec, *(naccids or (ANNA,)), options=options)
    assert not re.search(r"NACC\d|TEST\d", f"{caught.value.message} {caught.value.hint}")
    assert caught.value.hint
    return caught.value


def test_a_service_knows_who_is_where(spec, service):
    found = current(spec, ANNA, BERT, CARL, "NACC999999", ANNA)
    assert found == {ANNA: {20}, BERT: {0}, CARL: set()}
    assert sorted(r["naccid"] for _, _, r in service.requests) == [ANNA, BERT, CARL, "NACC999999"]


def test_a_file_that_is_not_there_is_named_with_its_setting(tmp_path):
    with pytest.raises(NotFound) as caught:
        current(str(tmp_path / "people.csv"), ANNA)
    assert caught.value.message == f"identifiers: there is no people.csv in {tmp_path.as_uri()}"
    assert "--identifiers" in caught.value.hint


def test_nothing_is_asked_for_nobody(spec, service):
    assert current(spec) == {}
    assert service.requests == []


@pytest.mark.parametrize("limit", [100, 7, 250])
def test_pages_are_read_until_a_short_one(spec, service, limit):
    service.limit = limit
    assert current(spec, DORA) == {DORA: {50, 100, 150, 200, 250}}
    step = min(limit, 100)
    offsets = [r["offset"] for _, _, r in service.requests]
    assert offsets == list(range(0, 251, step))
    assert all(r == {"mode": "prod", "naccid": DORA, "offset": o, "limit": 100} for o, (_, _, r) in zip(offsets, service.requests, strict=True))  # fmt: skip


def test_a_last_page_may_be_full(spec, service):
    service.known = {ANNA: [(n, n == 3) for n in range(200)]}
    assert current(spec, ANNA) == {ANNA: {3}}
    assert [r["offset"] for _, _, r in service.requests] == [0, 100, 200]


def test_the_mode_is_part_of_the_question(spec, service):
    assert current(spec, "TEST000001", mode="dev") == {}
    ((path, _, request),) = service.requests
    assert request["mode"] == "dev"
    assert path in ("/identifiers", FUNCTION + "dev")


def test_a_lambda_may_have_a_qualifier(spec, service):
    current("lambda:ids:stable", ANNA, options=IdentifiersOptions(region="eu-west-1"))
    ((path, headers, _),) = service.requests
    assert path == FUNCTION + "stable"
    assert "/eu-west-1/lambda/" in headers["Authorization"]
    assert headers["X-Amz-Invocation-Type"] == "RequestResponse"


def test_a_token_is_sent_and_never_shown(service):
    options = IdentifiersOptions(token="hush")
    current(service.url, ANNA, options=options)
    assert service.requests[0][1]["Authorization"] == "Bearer hush"
    assert "hush" not in repr(options)
    current(service.url, ANNA)
    assert "Authorization" not in service.requests[1][1]


LAMBDA_THROTTLED = (
    429,
    {"x-amzn-ErrorType": "TooManyRequestsException", "Retry-After": "0"},
    b"{}",
)
LAMBDA_CRASHED = (200, {"X-Amz-Function-Error": "Unhandled"}, b'{"errorMessage": "NACC000001"}')
INNER_500 = (200, {}, b'{"statusCode": 500, "body": "NACC000001"}')


@pytest.mark.parametrize("failure", [(500, {}, b"oops"), (503, {}, b""), LAMBDA_THROTTLED])
def test_failures_that_pass_are_tried_again(spec, service, failure):
    service.failures = [failure] * 3
    assert current(spec, ANNA) == {ANNA: {20}}
    assert len(service.requests) == 4


@pytest.mark.parametrize("failure", [LAMBDA_CRASHED, INNER_500])
def test_a_function_that_fails_is_tried_again(spec, service, failure):
    service.failures = [failure] * 3
    assert current("lambda:ids", ANNA) == {ANNA: {20}}
    service.failures = [failure] * 4
    error = refused("lambda:ids")
    assert isinstance(error, Unavailable)
    assert error.kind == "identifiers-unavailable"


def test_a_service_that_always_fails(spec, service):
    service.failures = [(500, {}, b"NACC000001")] * 1000
    error = refused(spec, *(f"NACC{n:06d}" for n in range(500)))
    assert isinstance(error, Unavailable)
    assert error.kind == "identifiers-unavailable"
    assert "4 attempts" in error.message
    assert len(service.requests) < 1000  # of 2,000: the others are not asked for any more


def test_waits_grow_and_heed_the_service(spec, service, monkeypatch):
    waits = []

    class Clock(threading.Event().__class__):
        def wait(self, timeout=None):
            waits.append(timeout)
            return False

    monkeypatch.setattr(identifiers, "Event", Clock)
    answers = ["", "7", "999999", "soon", ""]
    service.failures = [(503, {"Retry-After": after}, b"{}") for after in answers]
    options = IdentifiersOptions(wait=1.0, attempts=6, workers=1)
    assert current(spec, ANNA, options=options) == {ANNA: {20}}
    assert waits == [1.0, 7.0, identifiers.MAX_WAIT, 8.0, 16.0]


@pytest.mark.parametrize("status", [301, 400, 401, 403])
def test_a_service_that_refuses_is_not_asked_again(spec, service, status):
    service.failures = [(status, {"x-amzn-ErrorType": "AccessDeniedException"}, b"{}")]
    error = refused(spec)
    assert isinstance(error, Invalid)
    assert error.kind == "identifiers-refused"
    assert len(service.requests) == 1


def test_a_function_that_does_not_exist_is_no_unknown_participant(spec, service):
    service.failures = [(404, {"x-amzn-ErrorType": "ResourceNotFoundException"}, b"{}")]
    error = refused("lambda:ids")
    assert error.kind == "identifiers-refused"
    assert "ResourceNotFoundException" in error.message


def test_status_404_says_unknown(spec, service):
    service.failures = [(404, {}, b"gone")]
    assert current(service.url, ANNA) == {}
    service.failures = [(200, {}, b'{"statusCode": 404, "body": "gone"}')]
    assert current("lambda:ids", ANNA) == {}


@pytest.mark.parametrize(
    "change",
    [
        lambda page: "<html>NACC000001</html>",
        lambda page: [],
        lambda page: page | {"data": None},
        lambda page: page | {"data": ["NACC000001"]},
        lambda page: {"data": page["data"]},
        lambda page: page | {"limit": 0},
        lambda page: page | {"limit": "many"},
        lambda page: page | {"data": [page["data"][0] | {"naccid": BERT}]},
        lambda page: page | {"data": [page["data"][0] | {"adcid": "20"}]},
        lambda page: page | {"data": [page["data"][0] | {"adcid": True}]},
        lambda page: page | {"data": [page["data"][0] | {"adcid": -1}]},
        lambda page: page | {"data": [page["data"][0] | {"active": 1}]},
        lambda page: page | {"data": [{"adcid": 20}]},
        # Each page is full, for ever.
        lambda page: {"limit": 1, "data": [{"naccid": ANNA, "adcid": 1, "active": True}]},
        lambda page: page | {"more": "x" * identifiers.MAX_ANSWER},
    ],
)
def test_an_answer_that_is_no_page(spec, service, change):
    service.change = change
    error = refused(spec)
    assert isinstance(error, Unavailable)
    assert error.kind == "identifiers-malformed"
    assert "docs/reference/formats.md" in error.hint
    assert len(service.requests) in (1, identifiers.MAX_PAGES)


@pytest.mark.parametrize(
    "body", [b"x", b"[]", b"{}", b'{"statusCode": "x"}', b'{"statusCode": 200}', b"null"]
)
def test_a_function_that_returns_something_else(spec, service, body):
    service.failures = [(200, {}, body)]
    error = refused("lambda:ids")
    assert isinstance(error, Unavailable)
    assert error.kind == "identifiers-malformed"


def test_a_service_that_is_not_there(spec, service, monkeypatch):
    gone = "http://127.0.0.1:1"
    monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", gone)
    error = refused(gone if spec.startswith("http") else spec)
    assert isinstance(error, Unavailable)
    assert error.kind == "identifiers-unavailable"


def test_an_answer_that_breaks_off(spec, service):
    service.failures = [(200, {"Content-Length": "1000", "Connection": "close"}, b"{")] * 3
    assert current(spec, ANNA, options=IdentifiersOptions(wait=0.001, timeout=0.2)) == {ANNA: {20}}


@pytest.mark.parametrize("url", ["http://", "http://h:port/", "https:"])
def test_a_url_that_is_none(url):
    error = refused(url)
    assert isinstance(error, Invalid)
    assert error.kind == "identifiers-refused"


def test_a_lambda_without_credentials_or_region(spec, service, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    error = refused("lambda:ids")
    assert error.kind == "identifiers-refused"
    assert "NoCredentialsError" in error.message
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.delenv("AWS_REGION", raising=False)
    assert "NoRegionError" in refused("lambda:ids").message


def test_a_lambda_without_its_library(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    error = refused("lambda:ids")
    assert (error.kind, error.hint) == ("missing-extra", "pip install 'catchment[s3]'")


def test_identifiers_are_not_logged(spec, service, caplog):
    caplog.set_level(logging.INFO)
    service.failures = [(500, {}, b"")]
    current(spec, ANNA, BERT)
    assert "for 2 participants" in caplog.text
    assert "NACC" not in caplog.text


@pytest.mark.parametrize(
    "spec", ["ftp://h/x", "lambda:", "lambda:a b", "lambda:a:", "lambda:a:b:c", "memory://x/y"]
)
def test_what_is_no_provider(spec):
    with pytest.raises(Invalid) as caught:
        open_identifiers(spec, "prod")
    assert caught.value.kind == "bad-identifiers-spec"


# --- files ------------------------------------------------------------------------------------------


def csv_file(folder: Path, text: str | bytes, name: str = "ids.csv") -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def parquet_file(folder: Path, **columns) -> str:
    pq.write_table(pa.table(columns), folder / "ids.parquet", row_group_size=2)
    return str(folder / "ids.parquet")


TABLE = f"""naccid,ptid,adcid,active
{ANNA},"1,
2",10,false
{ANNA},2,20,true

{ANNA},3,20,TRUE
{BERT},4,0,1
{CARL},5,10,0
"""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_csv_file_knows_who_is_where(tmp_path, end, mark):
    path = csv_file(tmp_path, mark + TABLE.replace("\n", end))
    expected = {ANNA: {20}, BERT: {0}, CARL: set()}
    assert current(path, ANNA, BERT, CARL, DORA) == expected
    assert current(path, ANNA) == {ANNA: {20}}
    assert current(f"file://{path}", BERT) == {BERT: {0}}


@pytest.mark.parametrize(
    ("adcid", "active"),
    [
        (pa.array([10, 20, 0, 10], pa.int16()), pa.array([False, True, True, False])),
        (pa.array([10.0, 20.0, 0.0, 10.0]), pa.array([0, 1, 1, 0])),
        (pa.array(["10", "20", "0", "10"]), pa.array(["false", "True", "1", "0"]).dictionary_encode()),
    ],
)  # fmt: skip
def test_a_parquet_file_knows_who_is_where(tmp_path, adcid, active):
    naccid = pa.array([ANNA, ANNA, BERT, CARL]).dictionary_encode()
    path = parquet_file(tmp_path, adcid=adcid, other=[1, 2, 3, 4], active=active, naccid=naccid)
    assert current(path, ANNA, BERT, CARL, DORA) == {ANNA: {20}, BERT: {0}, CARL: set()}


def test_without_a_column_active_all_are(tmp_path):
    path = csv_file(tmp_path, f"adcid,naccid\n10,{ANNA}\n20,{ANNA}\n")
    assert current(path, ANNA) == {ANNA: {10, 20}}
    path = parquet_file(tmp_path, naccid=[ANNA, BERT], adcid=[10, 20])
    assert current(path, ANNA, BERT) == {ANNA: {10}, BERT: {20}}


def test_a_relative_path_with_odd_letters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    csv_file(tmp_path, f"adcid,naccid\n10,{ANNA}\n", name="my ids 100% é.csv")
    assert current("my ids 100% é.csv", ANNA) == {ANNA: {10}}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "expected one column naccid, got 0"),
        ("naccid\nx\n", "expected one column adcid, got 0"),
        ("naccid,adcid,adcid\n", "expected one column adcid, got 2"),
        ("naccid,adcid,active,active\n", "expected one column active, got 2"),
        (TABLE + "NACC1,20,20,true\n", "line 9: naccid: expected"),
        (TABLE + f"{ANNA} ,20,20,true\n", "line 9: naccid: expected"),
        (TABLE + f"\n{ANNA},20,-1,true\n", "line 10: adcid: expected"),
        (TABLE + f"{ANNA},20,NACC1,true\n", "line 9: adcid: expected"),
        (TABLE + f"{ANNA},20,,true\n", "line 9: adcid: expected"),
        (TABLE + f"{ANNA},20,20,yes\n", "line 9: active: expected"),
        (TABLE + f"{ANNA},20,20,\n", "line 9: active: expected"),
        (TABLE + f"{ANNA},20\n", "line 9: expected 4 fields, got 2"),
        (TABLE + f'{ANNA},"20,20,true\n', "line 9: expected CSV"),
        (TABLE + f'{ANNA},"2"0,20,true\n', "line 9: expected CSV"),
        (TABLE + f"{ANNA},{'2' * 200_000},20,true\n", "line 9: expected CSV"),
        (TABLE.encode() + b"\xff", "expected CSV in UTF-8"),
    ],
)
def test_a_csv_file_that_is_wrong_says_where(tmp_path, text, part):
    error = refused(csv_file(tmp_path, text))
    assert isinstance(error, Invalid)
    assert error.kind == "bad-identifiers"
    assert part in error.message


@pytest.mark.parametrize(
    ("columns", "part"),
    [
        ({"naccid": [ANNA]}, "expected one column adcid"),
        ({"naccid": [ANNA, None], "adcid": [1, 1]}, "row 2: naccid"),
        ({"naccid": [ANNA, BERT, CARL], "adcid": [1, 1, None]}, "row 3: adcid"),
        ({"naccid": [ANNA, BERT, CARL], "adcid": [1, 1, 1.5]}, "row 3: adcid"),
        ({"naccid": [ANNA], "adcid": [1], "active": [None]}, "row 1: active"),
        ({"naccid": [ANNA], "adcid": [[1]]}, "expected Parquet"),
    ],
)
def test_a_parquet_file_that_is_wrong_says_where(tmp_path, columns, part):
    with pytest.raises(Invalid) as caught:
        current(parquet_file(tmp_path, **columns), ANNA)
    assert caught.value.kind == "bad-identifiers"
    assert part in caught.value.message
    assert ANNA not in caught.value.message


def test_a_file_that_is_not_what_its_name_says(tmp_path):
    assert "expected Parquet" in refused(csv_file(tmp_path, TABLE, "ids.parquet")).message


def test_files_are_bounded(tmp_path, monkeypatch):
    path = csv_file(tmp_path, TABLE)
    monkeypatch.setattr(identifiers_file, "MAX_FILE", len(TABLE))
    assert current(path, BERT) == {BERT: {0}}
    monkeypatch.setattr(identifiers_file, "MAX_FILE", len(TABLE) - 1)
    assert "bytes, got more" in refused(path).message
    monkeypatch.setattr(identifiers_file, "MAX_FILE", 1 << 20)
    monkeypatch.setattr(identifiers_file, "MAX_ROWS", 2)
    assert current(parquet_file(tmp_path, naccid=[ANNA], adcid=[1]), ANNA) == {ANNA: {1}}
    path = parquet_file(tmp_path, naccid=[ANNA, BERT, CARL], adcid=[1, 2, 3])
    assert "2 rows, got more" in refused(path).message


def test_a_file_may_be_in_another_store(moto):  # noqa: F811 - the fixture
    store = moto.store()
    store.put("config/ids.csv", TABLE.encode())
    spec = f"{store.url}/config/ids.csv"
    options = IdentifiersOptions(store=moto.options)
    assert current(spec, ANNA, BERT, options=options) == {ANNA: {20}, BERT: {0}}
    assert "secret" not in repr(options)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(NotFound):
        current(str(tmp_path / "ids.csv"), ANNA)

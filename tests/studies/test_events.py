"""A bucket that tells a queue of uploads: the look comes at once, and a lost event costs nothing."""

from __future__ import annotations

import json
import threading
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest

from catchment.core import store_events
from catchment.core.errors import Invalid, NotFound, Unavailable
from catchment.core.store import open_store
from catchment.core.store_events import Arrival, Queue, arrivals
from catchment.core.store_s3_config import client, service
from catchment.core.workspace import Workspace
from catchment.studies import capability, subscribe, watch
from catchment.studies.arrivals import Worker
from catchment.testing.s3 import ministack, moto
from catchment.testing.studies import parquet
from tests.studies.studying import CUBE, model, published, send_cube, stage, workspace

__all__ = ["ministack", "moto"]

QUIET = 3600.0  # seconds between two looks, where nobody tells of anything


def queue_of(server, name):
    """A queue of a server, and its ARN."""
    sqs = service("sqs", server.options, endpoint=server.endpoint)
    url = sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "2"})["QueueUrl"]
    url = f"{server.endpoint}/{'/'.join(url.split('/')[3:])}"
    told = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    return url, told["Attributes"]["QueueArn"], sqs


def messages(server, url):
    told = service("sqs", server.options, endpoint=server.endpoint).get_queue_attributes(
        QueueUrl=url,
        AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"],
    )
    return sum(map(int, told["Attributes"].values()))


@pytest.fixture
def space(ministack, tmp_path):
    url, arn, _ = queue_of(ministack, "events")
    client(ministack.options).put_bucket_notification_configuration(
        Bucket=ministack.bucket,
        NotificationConfiguration={
            "QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]
        },
    )
    settings = {
        "workspace.store": f"s3://{ministack.bucket}/{tmp_path.name}",
        "workspace.ledger": f"sqlite:///{tmp_path}/ledger.db",
        "executor.kind": "threads",
        "studies.core.min_cell": 0,
        "events.queue": url,
    } | {f"s3.{name}": value for name, value in ministack.options.items()}
    with Workspace.described(settings) as made:
        yield made


def test_an_upload_into_a_bucket_is_processed_when_the_bucket_tells_of_it(space, ministack):
    settings = space.settings
    queue = Queue(settings.events.queue, settings.s3.options())
    stop, looks = threading.Event(), []

    def look():
        looks.append(time.monotonic())
        capability.scan(space)

    thread = threading.Thread(
        target=watch.watch,
        args=(look, space.store, stop),
        kwargs={"interval": QUIET, "queue": queue},
    )
    thread.start()
    try:
        _until(lambda: looks)
        for site in ("a", "b"):
            stage(space, site, parquet(CUBE), name="core__count.cube.parquet")
        _until(lambda: shown(space) == model({"a": CUBE, "b": CUBE}))
        # What the work itself wrote into the bucket was told of too, and led to no further look.
        _until(lambda: messages(ministack, settings.events.queue) == 0)
        assert len(looks) <= 4
    finally:
        stop.set()
        thread.join()


def test_a_service_hears_of_uploads_into_its_bucket(space):
    """Nobody asked the site API for a form, and no other process looks."""
    with Worker(space, QUIET):
        stage(space, "a", parquet(CUBE), name="core__count.cube.parquet")
        _until(lambda: shown(space) == model({"a": CUBE}))


def test_a_service_goes_on_where_its_queue_is_away(moto, tmp_path, caplog):
    settings = {
        "workspace.store": f"s3://{moto.bucket}/{tmp_path.name}",
        "workspace.ledger": f"sqlite:///{tmp_path}/ledger.db",
        "events.queue": f"{moto.endpoint}/123456789012/none",
    } | {f"s3.{name}": value for name, value in moto.options.items()}
    with Workspace.described(settings) as made, Worker(made, 0.01):
        _until(lambda: caplog.text.count("cannot look for events") > 1)


def shown(space):
    """What people find; views are written after the commit."""
    try:
        return published(space)
    except (NotFound, AssertionError):  # they are not there yet, or are those of before
        return None


def _until(reached, seconds=60):
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_look_that_fails_leaves_the_message(moto):
    """The next worker is told again."""
    url, _, sqs = queue_of(moto, "again")
    body = {"Records": [_record("ObjectCreated:Post", moto.bucket, "p/upload_staging/core/a/x")]}
    sqs.send_message(QueueUrl=url, MessageBody=json.dumps(body))
    queue = Queue(url, moto.options)
    store = open_store(f"s3://{moto.bucket}/p", **moto.options)
    looks = []

    def look():
        looks.append(1)
        if len(looks) == 2:
            raise Unavailable("away", kind="storage-away")

    with pytest.raises(Unavailable):
        watch.watch(look, store, threading.Event(), interval=QUIET, queue=queue)
    stop = threading.Event()

    def last():
        looks.append(1)
        if len(looks) == 4:
            stop.set()

    watch.watch(last, store, stop, interval=QUIET, queue=queue)
    watch.Events(store, queue).wait(0.1, threading.Event())
    assert len(looks) == 4


def test_messages_of_others_are_passed_over(moto):
    url, _, sqs = queue_of(moto, "others")
    for body in (
        "no JSON",
        json.dumps({"Event": "s3:TestEvent"}),
        json.dumps({"Records": [_record("ObjectCreated:Put", moto.bucket, "p/latest/x")]}),
        json.dumps({"Records": [_record("ObjectCreated:Put", "another", "p/upload_staging/x")]}),
    ):
        sqs.send_message(QueueUrl=url, MessageBody=body)
    store = open_store(f"s3://{moto.bucket}/p", **moto.options)
    began = time.monotonic()
    watch.Events(store, Queue(url, moto.options)).wait(1.5, threading.Event())
    assert time.monotonic() - began >= 1.4
    assert messages(moto, url) == 0


def _record(name, bucket, key):
    return {"eventName": name, "s3": {"bucket": {"name": bucket}, "object": {"key": key}}}


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (
            {"Records": [_record("ObjectCreated:Put", "b", "a%2Bb+c%C3%A9")]},
            [Arrival("b", "a+b cé")],
        ),
        ({"Records": [_record("s3:ObjectCreated:Post", "b", "k")]}, [Arrival("b", "k")]),
        ({"Records": [_record("ObjectRemoved:Delete", "b", "k")]}, []),
        (
            {
                "Type": "Notification",
                "Message": json.dumps({"Records": [_record("ObjectCreated:Put", "b", "k")]}),
            },
            [Arrival("b", "k")],
        ),
        (
            {
                "detail-type": "Object Created",
                "detail": {"bucket": {"name": "b"}, "object": {"key": "a+b"}},
            },
            [Arrival("b", "a+b")],
        ),
        ({"detail-type": "Object Created", "detail": 7}, []),
        ({"Records": [{"eventName": 7}]}, []),
        ({"Records": [_record("ObjectCreated:Put", 7, "k")]}, []),
        ([], []),
    ],
)
def test_every_way_that_an_event_comes(body, found):
    assert list(arrivals(json.dumps(body))) == found


@pytest.mark.parametrize("url", ["", "queue", "ftp://h/1/q", "https://h", "http://h/1/q"])
def test_a_queue_that_is_none(url):
    with pytest.raises(Invalid) as caught:
        Queue(url, {})
    assert caught.value.kind == "bad-queue"


def test_a_queue_that_does_not_exist(moto):
    with pytest.raises(Invalid) as caught:
        Queue(f"{moto.endpoint}/123456789012/nowhere", moto.options)
    assert caught.value.kind == "bad-queue"


def test_a_service_that_is_away_is_waited_for(moto, monkeypatch, caplog):
    from botocore.exceptions import ClientError, EndpointConnectionError

    url, _, _ = queue_of(moto, "away")
    queue = Queue(url, moto.options)
    busy = ClientError(
        {"Error": {"Code": "ThrottlingException"}, "ResponseMetadata": {"HTTPStatusCode": 400}}, "x"
    )
    for error in (busy, EndpointConnectionError(endpoint_url="x")):

        def fail(error=error, **_):
            raise error

        monkeypatch.setattr(queue._sqs, "receive_message", fail)
        with pytest.raises(Unavailable):
            queue.receive(1)
    store = open_store(f"s3://{moto.bucket}/p", **moto.options)
    began = time.monotonic()
    watch.Events(store, queue).wait(0.3, threading.Event())
    assert time.monotonic() - began >= 0.3
    assert "does not answer" in caplog.text


def test_the_region_and_the_host_are_those_of_the_queue(monkeypatch):
    seen = []

    def asked(name, options, *, endpoint):
        seen.append((name, options["region"], endpoint))
        return SimpleNamespace(get_queue_attributes=lambda **_: {})

    monkeypatch.setattr(store_events, "service", asked)
    Queue("https://sqs.eu-central-1.amazonaws.com/1/q", {"region": "x"})
    Queue("https://elsewhere:7/1/q", {"region": "x"})
    assert seen == [
        ("sqs", "eu-central-1", "https://sqs.eu-central-1.amazonaws.com"),
        ("sqs", "x", "https://elsewhere:7"),
    ]


def test_the_crawl_is_weekly(tmp_path):
    """It finds what no publication told of."""
    warehouse = tmp_path / "w.duckdb"
    more = {"subscriptions.warehouse": str(warehouse)}
    with workspace(tmp_path, **more) as space:
        send_cube(space, "a", CUBE)
        assert [one.id for one in subscribe.registered(space)] == ["core__count__000"]
        warehouse.unlink()
        weekly, often = subscribe.Weekly(space), subscribe.Weekly(space, timedelta(0))
        weekly()
        assert warehouse.exists()
        warehouse.unlink()
        weekly()
        assert not warehouse.exists()
        often()
        assert warehouse.exists()
    with workspace(tmp_path) as space:  # no target: nothing to do, and nothing to complain of
        subscribe.Weekly(space)()

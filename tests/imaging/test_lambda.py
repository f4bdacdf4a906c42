"""Pictures by a Lambda function: a small real server that invokes the handler we ship."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest

from catchment.core.errors import Invalid, Unavailable
from catchment.core.workspace import Workspace
from catchment.imaging import capability, lambda_executor, lambda_handler, layout
from catchment.imaging.compress import Image, Wanted, compress
from catchment.imaging.lambda_executor import LambdaExecutor, open_lambda
from catchment.imaging.model import Options
from catchment.imaging.read import Stored
from catchment.imaging.run import run
from catchment.testing import aws_lambda
from catchment.testing.dicom import make_file


@pytest.fixture
def function(monkeypatch, house):
    monkeypatch.setattr(lambda_executor, "POLL", 0.02)
    with aws_lambda.function(lambda_handler.handler) as (made, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("CATCHMENT_WORKSPACE__STORE", house.store.url)
        yield made


@pytest.fixture
def wanting(job):
    return replace(job, options=Options(previews="all", archive="htj2k"))


def image(number):
    return make_file(f"1.2.3.1.1.{number}", InstanceNumber=number)


def test_pictures_are_those_of_local_workers(
    function, sites, wanting, house, opened, tmp_path, monkeypatch
):
    sites(alpha={str(n): image(n) for n in range(6)}, beta={"bad": image(9)[:-200], "x": image(10)})
    function.times = 2
    with open_lambda("lambda:pictures:live", house.store, {}) as executor:
        run(wanting, replace(house, compressor=executor))
    function.work.shutdown()
    rows = opened()["compressed_images"].sort_by([("sha256", "ascending"), ("format", "ascending")])
    assert rows.num_rows == 14
    assert function.invoked[0] == ("/2015-03-31/functions/pictures/invocations?Qualifier=live", "Event")  # fmt: skip
    assert len(function.invoked) == 3  # four files a task, and a batch for each provider
    local = [
        row
        for name in ("ct",)
        for row in compress(
            house.store, Wanted("all", "htj2k"),
            [
                Image(Stored("", layout.object_key(name, d), d, 10_000), u, name)
                for d, u in sorted({(r["sha256"], r["SOPInstanceUID"]) for r in rows.to_pylist()})
            ],
        )
    ]  # fmt: skip
    told = {(r["sha256"], r["format"], r["object_sha256"]) for r in rows.to_pylist()}
    assert told == {(r["sha256"], r["format"], r["object_sha256"]) for r in local}
    assert opened().verify(sources=True) == []


def test_results_are_read_once(function, sites, wanting, house):
    sites(alpha={"1": image(1)})
    with open_lambda("lambda:pictures", house.store, {}) as executor:
        run(wanting, replace(house, compressor=executor))
    assert list(house.store.list(layout.results("ct"))) == []


def test_throttled_invocations_are_tried_again(function, sites, wanting, house, opened):
    function.failures = [(429, b'{"Type": "User", "message": "slow"}'), (500, b"")]
    sites(alpha={"1": image(1)})
    with open_lambda("lambda:pictures", house.store, {}) as executor:
        run(wanting, replace(house, compressor=executor))
    assert opened().rows()["compressed_images"] == 2


@pytest.mark.parametrize(("status", "error"), [(404, Invalid), (403, Invalid), (500, Unavailable)])
def test_what_is_not_invoked_ends_the_run_and_publishes_nothing(
    function, sites, wanting, house, status, error
):
    function.failures = [(status, b'{"message": "no"}')] * 20
    sites(alpha={"1": image(1)})
    with (
        pytest.raises(error, match="Lambda"),
        open_lambda("lambda:pictures", house.store, {}) as executor,
    ):
        run(wanting, replace(house, compressor=executor))
    assert house.ledger.latest("imaging/ct") is None
    assert run(replace(wanting, options=Options()), house).state == "published"


def test_an_image_that_kills_the_function_is_told(
    function, sites, wanting, house, opened, monkeypatch
):
    """The whole task has no result, nor has one of its images alone; the others have theirs."""
    monkeypatch.setattr(lambda_handler, "open_executor", _threads)
    sites(alpha={str(n): image(n) for n in range(3)})
    function.loses = 2
    with open_lambda("lambda:pictures", house.store, {}, wait=1.5) as executor:
        run(wanting, replace(house, compressor=executor))
    errors = [r["compress_error"] for r in opened()["compressed_images"].to_pylist()]
    assert errors.count("reader-wall") == 1
    assert errors.count(None) == 4
    assert opened().rows()["images"] == 3


@pytest.mark.parametrize(
    ("error", "kind"), [(Invalid, "reader-died"), (Unavailable, "store-unavailable")]
)
def test_a_decoder_that_dies_is_told_by_its_function(function, house, monkeypatch, error, kind):
    """What the handler's child comes to is the error of the task."""

    def die(*_):
        raise error("it died", kind=kind)

    monkeypatch.setattr(lambda_handler, "compress", die)
    monkeypatch.setattr(lambda_handler, "open_executor", _threads)
    images = [Image(Stored("a", "k", "d", 1), "1.2", "ct")]
    with open_lambda("lambda:pictures", house.store, {}) as executor:
        future = executor.submit(partial(compress, house.store, Wanted("all")), images)
        with pytest.raises(error) as told:
            future.result()
    assert told.value.kind == kind


def _threads(*_):
    return ThreadPoolExecutor(1)


def test_tasks_are_given_up_where_the_run_ends(house):
    executor = LambdaExecutor(lambda _: None, house.store)
    images = [Image(Stored("a", "k", "d", 1), "1.2", "ct")]
    future = executor.submit(partial(compress, house.store, Wanted("all")), images)
    executor.shutdown(wait=True, cancel_futures=True)
    with pytest.raises(Invalid, match="no result"):
        future.result()


@pytest.mark.parametrize(
    "change",
    [
        {"store": "file:///elsewhere"},
        {"images": [{"uid": "1"}]},
        {"images": []},
        {"wanted": {"more": 1}},
        {"result": "imaging/ct/raw/objects/aa/bb"},
        {"result": "imaging/other/results/x.json"},
    ],
)
def test_the_handler_takes_no_other_events(house, monkeypatch, change):
    monkeypatch.setenv("CATCHMENT_WORKSPACE__STORE", house.store.url)
    file = Stored("a", "k", "d", 1)._asdict()
    event = {
        "store": house.store.url, "wanted": Wanted("all")._asdict(), "result": "imaging/ct/results/x.json",
        "images": [{"file": file, "uid": "1.2", "name": "ct"}],
    }  # fmt: skip
    with pytest.raises(Invalid) as told:
        lambda_handler.handler(event | change)
    assert told.value.kind == "bad-event"


def test_a_setting_that_names_no_function(house):
    with pytest.raises(Invalid, match="no compressor"), open_lambda("lambda:", house.store, {}):
        pass


def test_a_workspace_that_names_a_function(function, sites, tmp_path, monkeypatch):
    sites(alpha={"1": image(1)})
    store = (tmp_path / "out").as_uri()
    monkeypatch.setenv("CATCHMENT_WORKSPACE__STORE", store)
    settings = {
        "workspace.store": store,
        "imaging.ct.providers.alpha": (tmp_path / "sites/alpha").as_uri(),
        "imaging.ct.previews": "first",
        "imaging.ct.compress": "lambda:pictures",
    }
    with Workspace.described(settings) as workspace:
        done = capability.run(workspace, "ct")
    assert done.details["rows"]["compressed_images"] == 1
    assert len(function.invoked) == 1

"""The contract on S3 servers, and what only S3 can do wrong."""

import base64
import hmac
import json
import os
import pickle
import re
import tracemalloc
from datetime import UTC, datetime, timedelta

import obstore.store
import pytest

from catchment.core import store_s3_config
from catchment.core.errors import Invalid, NotFound, Unavailable
from catchment.core.store import OPTIONS, Range, open_store
from catchment.core.store_objects import obstore_errors
from catchment.testing.s3 import VARIABLE, any_s3, ministack, moto  # noqa: F401 - fixtures
from catchment.testing.store import MIB, StoreContract


class S3Contract(StoreContract):
    presigns = True
    examples = 12

    @pytest.fixture
    def store(self, server):
        return server.store()

    @pytest.fixture
    def other(self, server):
        return server.store()


class TestMoto(S3Contract):
    lax_forms = True

    @pytest.fixture
    def server(self, moto):  # noqa: F811
        return moto


class TestMinistack(S3Contract):
    examples = 30

    @pytest.fixture
    def server(self, ministack):  # noqa: F811
        return ministack


if os.environ.get(VARIABLE):

    class TestAnyS3(S3Contract):
        checks_forms = True

        @pytest.fixture
        def server(self, any_s3):
            return any_s3


@pytest.fixture
def no_aws(monkeypatch):
    """An environment that knows nothing of AWS."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)


SECRET = {"access_key_id": "AKIDEXAMPLE", "secret_access_key": "not/a+secret"}


def signed(store):
    return store.presign("k", expires=timedelta(minutes=1))


def test_a_form_says_all_that_it_allows_and_is_signed_so(no_aws):
    """No server for tests checks signatures of forms, so it is done here, as AWS documents it."""
    store = open_store("s3://bucket/below", region="eu-central-1", **SECRET)
    form = store.presign_post("folder/k", expires=timedelta(hours=1), max_bytes=10)
    policy = json.loads(base64.b64decode(form.fields["policy"]))
    conditions = [
        tuple(c) if isinstance(c, list) else next(iter(c.items())) for c in policy["conditions"]
    ]
    assert ("content-length-range", 0, 10) in conditions
    assert ("bucket", "bucket") in conditions
    assert ("key", "below/folder/k") in conditions
    assert form.fields["key"] == "below/folder/k"
    left = datetime.fromisoformat(policy["expiration"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
    key = f"AWS4{SECRET['secret_access_key']}".encode()
    for part in (form.fields["x-amz-date"][:8], "eu-central-1", "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, form.fields["policy"].encode(), "sha256").hex()
    assert form.fields["x-amz-signature"] == signature
    assert SECRET["secret_access_key"] not in repr(form)


# --- URLs and options ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/a/b", "s3://bucket/a/b"),
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("s3://bucket/a b%20#?", "s3://bucket/a b%20#?"),
    ],
)
def test_the_url_names_bucket_and_prefix(no_aws, url, normal):
    store = open_store(url, **SECRET)
    assert store.url == normal
    again = pickle.loads(pickle.dumps(store))
    assert (again.url, again.options) == (normal, SECRET)
    assert repr(store) == f"S3Store({normal!r})"


@pytest.mark.parametrize(
    "url", ["s3://", "s3://b", "s3://-bucket", "s3:///prefix", "s3://buck et/x", "s3:bucket"]
)
def test_other_urls_are_refused(url):
    with pytest.raises(Invalid) as caught:
        open_store(url)
    assert caught.value.kind == "bad-store-url"


@pytest.mark.parametrize("url", ["s3://bucket//a", "s3://bucket/../a", "s3://bucket/a//"])
def test_bad_prefixes_are_refused(url):
    with pytest.raises(Invalid):
        open_store(url)


@pytest.mark.parametrize(
    "url", ["s3://id:hidden@bucket/x", "https://id:hidden@host/x", "file://id:hidden@host/x"]
)
def test_credentials_in_a_url_are_refused_and_not_repeated(url):
    with pytest.raises(Invalid) as caught:
        open_store(url)
    assert caught.value.kind == "bad-store-url"
    assert "hidden" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize(
    "options",
    [
        {"colour": "red"},
        {"endpoint": "not a url"},
        {"endpoint": "ftp://host"},
        {"endpoint": "https://user:pw@host"},
        {"endpoint": "https://host/path?x"},
        {"endpoint": "http://host:9000"},
        {"endpoint": "http://host:9000", "allow_http": "false"},
        {"endpoint": "http://host:9000", "allow_http": "perhaps"},
        {"virtual_hosted_style": "perhaps"},
        {"access_key_id": "only"},
        {"secret_access_key": "only"},
    ],
    ids=str,
)
def test_options_that_cannot_work(no_aws, options):
    with pytest.raises(Invalid) as caught:
        open_store("s3://bucket", **options)
    assert caught.value.kind == "bad-store-option"


def test_other_stores_take_no_notice_of_options(tmp_path):
    options = dict.fromkeys(OPTIONS, "perhaps")
    assert open_store("memory://options", **options).url == "memory://options"
    assert open_store(tmp_path.as_uri(), **options).url == tmp_path.as_uri()


def test_where_requests_go(no_aws):
    for endpoint, style, start in (
        ("https://host:9000", "", "https://host:9000/bucket/k?"),
        ("https://host:9000/", "true", "https://bucket.host:9000/k?"),
        ("", "", "https://s3.eu-north-1.amazonaws.com/bucket/k?"),
        ("", "true", "https://bucket.s3.eu-north-1.amazonaws.com/k?"),
    ):
        options = {**SECRET, "endpoint": endpoint, "virtual_hosted_style": style}
        store = open_store("s3://bucket", region="eu-north-1", **options)
        assert signed(store).startswith(start)
        by_boto = store_s3_config.client(store.options)
        url = by_boto.generate_presigned_url("get_object", {"Bucket": "bucket", "Key": "k"})
        if endpoint or style:
            assert url.startswith(start)
        else:  # AWS prefers the bucket in the name
            assert url.startswith("https://bucket.s3.")


def test_the_environment_fills_in(no_aws, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://one:1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "FROMENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "TOKENENV")
    with pytest.raises(Invalid):
        open_store("s3://bucket")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    url = signed(open_store("s3://bucket"))
    assert url.startswith("http://one:1/bucket/k?")
    assert "FROMENV%2F" in url
    assert "eu-north-1" in url
    assert "TOKENENV" in url
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://two:2")
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    url = signed(open_store("s3://bucket", **SECRET))
    assert url.startswith("http://two:2/bucket/k?")
    assert "AKIDEXAMPLE%2F" in url
    assert "eu-west-3" in url
    assert "TOKENENV" not in url, "a token belongs to the credentials beside it"
    assert "OTHER" in signed(open_store("s3://bucket", **SECRET, session_token="OTHER"))


def test_a_profile(no_aws, monkeypatch, tmp_path):
    (tmp_path / "credentials").write_text(
        "[center]\naws_access_key_id = FROMPROFILE\naws_secret_access_key = x\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "center")
    assert "FROMPROFILE" in signed(open_store("s3://bucket"))
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(Invalid) as caught:
        open_store("s3://bucket")
    assert caught.value.kind == "bad-store-option"


def test_without_boto3(moto, monkeypatch):  # noqa: F811
    store = moto.store()
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    store.put("small", bytes(5 * MIB))
    store.compose("composed", [Range(store, "small", 0, MIB)])
    monkeypatch.setenv("AWS_PROFILE", "center")
    for call in (
        lambda: store.put("big", bytes(6 * MIB)),
        lambda: store.copy("small", "big"),
        lambda: store.sweep(timedelta(0)),
        lambda: open_store("s3://bucket"),
    ):
        with pytest.raises(Invalid) as caught:
            call()
        assert caught.value.kind == "missing-extra"
        assert caught.value.hint == "pip install 'catchment[s3]'"


# --- buckets that others fill -------------------------------------------------------------------


def foreign(server, store, key):
    s3 = store_s3_config.client(server.options)
    s3.put_object(Bucket=store.bucket, Key=store.prefix + key, Body=b"")


def test_markers_of_folders_are_no_objects(moto):  # noqa: F811
    store = moto.store()
    for key in ("", "folder/", "folder/inner/"):
        foreign(moto, store, key)
    store.put("folder/empty", b"")
    store.put("folder-2", b"1")
    assert [stat.key for stat in store.list()] == ["folder-2", "folder/empty"]
    assert [stat.key for stat in store.list("folder/")] == ["folder/empty"]
    assert list(store.folders()) == ["folder"]


def test_a_name_that_cannot_be_listed_is_told(moto):  # noqa: F811
    store = moto.store()
    store.put("a", b"1")
    foreign(moto, store, "b//c")
    with pytest.raises(Invalid, match=re.escape(store.url)) as caught:
        list(store.list())
    assert caught.value.kind == "bad-key"


def test_a_bucket_that_does_not_exist(moto):  # noqa: F811
    store = open_store("s3://no-such-bucket", **moto.options)
    for call in (
        lambda: store.read("k"),
        lambda: store.put("k", b"1"),
        lambda: store.put("k", bytes(6 * MIB)),
        lambda: list(store.list()),
        lambda: list(store.folders()),
        lambda: store.sweep(timedelta(0)),
    ):
        with pytest.raises(NotFound) as caught:
            call()
        assert caught.value.kind == "no-bucket"


# --- big objects --------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_data(ministack):  # noqa: F811
    store = ministack.store()
    tracemalloc.start()
    try:
        store.put("big", (bytes(MIB) for _ in range(96)))
        store.compose("joined", [b"x", Range(store, "big", 0, 96 * MIB)], digest=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 80 * MIB
    assert store.head("joined").size == 96 * MIB + 1


def test_sweep_aborts_old_uploads_below_the_prefix(ministack):  # noqa: F811
    mine, others = ministack.store(), ministack.store()
    s3 = store_s3_config.client(ministack.options)
    for store in (mine, others):
        s3.create_multipart_upload(Bucket=store.bucket, Key=f"{store.prefix}folder/half")
    assert mine.sweep(timedelta(hours=1)) == 0
    assert mine.sweep(timedelta(0), dry_run=True) == 1
    assert mine.sweep(timedelta(0)) == 1
    assert mine.sweep(timedelta(0)) == 0
    assert others.sweep(timedelta(0)) == 1


def test_a_panic_of_the_rust_side_is_an_error_like_others(no_aws, capfd):
    keys = {"access_key_id": "a", "secret_access_key": "b"}
    broken = obstore.store.S3Store("bucket", endpoint="not a url", **keys)
    with pytest.raises(Unavailable), obstore_errors("k"):
        obstore.head(broken, "k")
    assert "panicked" in capfd.readouterr().err

"""The contract of a store, sentence by sentence: subclass :class:`StoreContract` to prove yours.

Needs pytest and Hypothesis.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from http.client import HTTPResponse
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catchment.core.errors import Conflict, Invalid, NotFound
from catchment.core.store import Mode, Range, Store
from catchment.testing.store_compose import MIB, ComposeContract
from catchment.testing.store_machine import run_as_dictionary

BAD_KEYS = (
    "",
    "/",
    "/absolute",
    "folder/",
    "a//b",
    ".",
    "..",
    "a/../b",
    "../../etc/passwd",
    "a/.",
    "nul\0",
    "line\nfeed",
    "delete\x7f",
    "next\x85line",
    "back\\slash",
    "surrogate\ud800",
    "é" * 600,
    "x" * 256,
    ".catchment",
    ".catchment/tmp/x",
)

GOOD_KEYS = (
    "a",
    "b/c/d",
    "with space",
    "percent%20encoded%2F",
    "plus+and&equals=",
    "question?hash#",
    "star*tilde~",
    "'quotes\"`",
    "brackets[]{}<>()",
    "dollar$at@colon:semi;comma,",
    "..hidden",
    "trailing.",
    ".dot",
    "-dash",
    "é",
    "e\u0301",
    "日本語/テーブル",
    "😀",
    "\u202eright-to-left",
    "x" * 255,
    "CON",
    "b/.catchment",
)

_names = count()


class StoreContract(ComposeContract):
    """What every store promises.

    Override the fixtures ``store`` and ``other``: two empty stores of the same kind, in different
    places. Set the attributes to what the kind can do.

    Attributes:
        processes: another process can open the store.
        presigns: it hands out URLs and forms.
        lax_forms: it does not look at the size of what a form brings.
        checks_forms: it refuses a form that was changed or is late.
        examples: how many Hypothesis tries of each property; fewer where each costs requests.
    """

    processes = True
    presigns = False
    checks_forms = False
    lax_forms = False
    examples = 50

    @pytest.fixture
    def store(self) -> Store:
        """The store under test, empty."""
        raise NotImplementedError

    @pytest.fixture
    def other(self) -> Store:
        """Another store of the same kind, empty."""
        raise NotImplementedError

    # --- one object ---------------------------------------------------------------------------

    def test_what_is_put_is_read(self, store: Store) -> None:
        for data in (b"", b"x", bytearray(b"abc"), memoryview(b"abc"), array("d", [1.5, 2])):
            key = f"k{next(_names)}"
            stat = store.put(key, data)
            assert store.read(key) == bytes(data)
            assert (stat.key, stat.size) == (key, memoryview(data).nbytes)
            assert store.head(key)[:3] == stat[:3]

    def test_an_iterable_is_put_whole(self, store: Store) -> None:
        store.put("pieces", (bytes([n]) * n for n in range(20)))
        assert store.read("pieces") == b"".join(bytes([n]) * n for n in range(20))
        store.put("nothing", iter(()))
        assert store.read("nothing") == b""

    def test_a_big_iterable_is_put_whole(self, store: Store) -> None:
        chunks = [bytes([n]) * MIB for n in range(12)]
        stat = store.put("big", (memoryview(chunk) for chunk in chunks))
        assert stat.size == 12 * MIB
        assert store.head("big")[:3] == stat[:3]
        streamed = list(store.stream("big"))
        assert max(map(len, streamed)) <= 8 * MIB
        assert b"".join(streamed) == b"".join(chunks)
        with pytest.raises(Conflict):
            store.put("big", iter(chunks[::-1]))
        store.put("big", b"".join(chunks[::-1]), mode="overwrite")
        assert store.read("big") == b"".join(chunks[::-1])

    def test_modified_is_an_aware_time(self, store: Store) -> None:
        before = datetime.now(UTC) - timedelta(seconds=5)
        store.put("now", b"")
        assert before < store.head("now").modified < datetime.now(UTC) + timedelta(seconds=5)

    def test_create_refuses_a_taken_key(self, store: Store) -> None:
        store.put("k", b"first")
        with pytest.raises(Conflict) as caught:
            store.put("k", b"second")
        assert caught.value.kind == "key-taken"
        assert store.read("k") == b"first"

    def test_overwrite_replaces_and_moves_the_etag(self, store: Store) -> None:
        first = store.put("k", b"first", mode="overwrite")
        second = store.put("k", b"second", mode="overwrite")
        assert store.read("k") == b"second"
        assert first.etag != second.etag

    def test_a_staged_object_is_an_object(self, store: Store) -> None:
        store.put("new/folder/staged", b"1", durable=False)
        store.compose("new/other/staged", [b"2"], durable=False)
        store.put("new/folder/kept", b"3")
        assert [store.read(stat.key) for stat in store.list()] == [b"3", b"1", b"2"]

    def test_what_is_not_there_is_not_found(self, store: Store) -> None:
        store.put("folder/object", b"")
        for key in ("none", "folder", "folder/none", "folder/object/below", "no/such/folder"):
            for call in (store.head, store.read, store.stream, partial(store.read, length=0)):
                with pytest.raises(NotFound):
                    call(key)
            with pytest.raises(NotFound):
                store.copy(key, "copy")
            assert store.path(key) is None
        assert [stat.key for stat in store.list()] == ["folder/object"]

    def test_ranges_are_slices(self, store: Store) -> None:
        sizes = (0, 1, 37)
        for size in sizes:
            store.put(f"size-{size}", bytes(range(size)))
        edges = st.integers(-40, 40)

        @settings(max_examples=self.examples, deadline=None, database=None)
        @given(st.sampled_from(sizes), edges, st.none() | st.integers(0, 40))
        def check(size: int, start: int, length: int | None) -> None:
            data = bytes(range(size))
            begin = max(0, size + start) if start < 0 else start
            expected = data[begin:] if length is None else data[begin : begin + length]
            assert store.read(f"size-{size}", start=start, length=length) == expected
            chunks = store.stream(f"size-{size}", start=start, length=length)
            assert b"".join(chunks) == expected

        check()

    def test_delete_is_idempotent(self, store: Store) -> None:
        store.put("folder/k", b"1")
        for key in ("folder/k", "folder/k", "folder", "none", "no/folder"):
            store.delete(key)
        assert list(store.list()) == []
        store.put("folder/k", b"2")
        assert store.read("folder/k") == b"2"

    def test_copy(self, store: Store) -> None:
        store.put("a", b"1")
        store.put("taken", b"2")
        assert store.copy("a", "b/c")[:3] == store.head("b/c")[:3]
        assert store.read("b/c") == b"1"
        with pytest.raises(Conflict):
            store.copy("a", "taken")
        assert store.read("taken") == b"2"
        store.copy("a", "taken", mode="overwrite")
        assert store.read("taken") == b"1"
        big = bytes(range(256)) * (7 * MIB // 256)
        store.put("big", big)
        store.copy("big", "bigger")
        assert store.read("bigger") == big

    def test_a_path_holds_the_object(self, store: Store) -> None:
        store.put("folder/object", b"bytes")
        path = store.path("folder/object")
        assert path is None or path.read_bytes() == b"bytes"

    # --- keys ---------------------------------------------------------------------------------

    @pytest.mark.parametrize("key", BAD_KEYS, ids=ascii)
    def test_every_verb_refuses_a_bad_key(self, store: Store, key: str) -> None:
        store.put("good", b"1")
        calls: list[Callable[[], object]] = [
            lambda: store.head(key),
            lambda: store.read(key),
            lambda: store.stream(key),
            lambda: store.put(key, b"1"),
            lambda: store.put(key, iter([b"1"]), mode="overwrite"),
            lambda: store.delete(key),
            lambda: store.copy("good", key),
            lambda: store.copy(key, "copy"),
            lambda: store.path(key),
            lambda: store.compose(key, [b"1"]),
            lambda: store.compose("copy", [Range(store, key, 0, 1)]),
        ]
        for call in calls:
            with pytest.raises(Invalid) as caught:
                call()
            assert caught.value.kind == "bad-key"
        assert [stat.key for stat in store.list()] == ["good"]

    def test_strange_but_good_keys(self, store: Store, good_keys: Sequence[str]) -> None:
        for key in good_keys:
            store.put(key, key.encode())
        listed = [stat.key for stat in store.list()]
        assert listed == sorted(good_keys, key=str.encode)
        for key in good_keys:
            assert store.read(key).decode() == key
            store.delete(key)
        assert list(store.list()) == []

    @pytest.fixture
    def good_keys(self) -> Sequence[str]:
        """Keys that must work, none the folder of another; override to try more."""
        return GOOD_KEYS

    def test_a_key_of_1024_bytes(self, store: Store) -> None:
        with suppress(Invalid):  # the store's own prefix may leave less room
            key = "/".join(["x" * 204] * 5)
            store.put(key, b"1")
            assert [stat.key for stat in store.list()] == [key]

    @pytest.mark.parametrize("prefix", ["a", "/", "a//", "../", ".catchment/", "\\/"])
    def test_a_bad_prefix_is_refused_at_once(self, store: Store, prefix: str) -> None:
        for call in (store.list, store.folders):
            with pytest.raises(Invalid):
                call(prefix)

    # --- listing ------------------------------------------------------------------------------

    def test_a_prefix_is_a_folder(self, store: Store) -> None:
        for key in ("fw/ucd/a", "fw/ucd/b/c", "fw/ucdavis/a", "fw/ucd-2/a", "fx/a"):
            store.put(key, b"1")
        assert [stat.key for stat in store.list("fw/ucd/")] == ["fw/ucd/a", "fw/ucd/b/c"]
        assert list(store.folders("fw/ucd/")) == ["b"]
        assert list(store.folders("fw/")) == ["ucd", "ucd-2", "ucdavis"]
        assert list(store.folders()) == ["fw", "fx"]
        for nothing in ("fw/u/", "none/", "fx/a/"):
            assert list(store.list(nothing)) == []
            assert list(store.folders(nothing)) == []

    def test_a_listing_tells_what_head_tells(self, store: Store) -> None:
        for size in range(3):
            store.put(f"k{size}", b"x" * size)
        assert [stat[:3] for stat in store.list()] == [store.head(f"k{n}")[:3] for n in range(3)]

    def test_a_long_listing(self, store: Store) -> None:
        keys = [f"f{n % 7}/{n:04}" for n in range(self.examples * 25)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda key: store.put(key, b"", durable=False), keys))
        assert [stat.key for stat in store.list()] == sorted(keys)
        assert next(store.list("f3/")).key == "f3/0003"
        assert list(store.folders()) == [f"f{n}" for n in range(7)]

    def test_it_does_as_a_dictionary_does(self, store: Store) -> None:
        run_as_dictionary(store, self.examples // 2)

    # --- all or nothing -----------------------------------------------------------------------

    @pytest.mark.parametrize("mode", ["create", "overwrite"])
    def test_a_failing_iterable_leaves_nothing(self, store: Store, mode: Mode) -> None:
        def data() -> Iterator[bytes]:
            for _ in range(12):
                yield bytes(MIB)
            raise FileNotFoundError("the iterable's own")

        with pytest.raises(FileNotFoundError, match="the iterable's own"):
            store.put("k", data(), mode=mode)
        assert list(store.list()) == []
        assert store.sweep(timedelta(0)) == 0

    def test_its_clock_is_about_right(self, store: Store) -> None:
        told = store.clock()
        assert told is None or abs(told - datetime.now(UTC)) < timedelta(minutes=1)

    def test_a_failing_iterable_leaves_the_object_that_was_there(self, store: Store) -> None:
        def data() -> Iterator[bytes]:
            yield b"half"
            raise ZeroDivisionError

        store.put("k", b"whole")
        with pytest.raises(ZeroDivisionError):
            store.put("k", data(), mode="overwrite")
        assert store.read("k") == b"whole"

    def test_one_of_eight_threads_creates(self, store: Store) -> None:
        barrier = threading.Barrier(8)

        def create(key: str, me: int) -> bool:
            barrier.wait()
            try:
                store.put(key, [b"%d" % me])
            except Conflict:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            for key in ("a", "b", "c", "d/e"):
                won = list(pool.map(partial(create, key), range(8)))
                assert won.count(True) == 1
                assert store.read(key) == b"%d" % won.index(True)

    def test_one_of_three_processes_creates(self, store: Store) -> None:
        if not self.processes:
            with pytest.raises(Invalid):
                pickle.dumps(store)
            return
        racers = [
            subprocess.Popen(  # noqa: S603 - this Python
                [sys.executable, "-c", _RACER, f"{me}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for me in range(3)
        ]
        for racer in racers:
            assert racer.stdin
            racer.stdin.write(pickle.dumps(store))
            racer.stdin.close()
        deadline = time.monotonic() + 60
        while len(list(store.list("ready/"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        store.put("go", b"")
        won = [_told(racer) for racer in racers]
        assert sorted(key for keys in won for key in keys) == sorted(f"race/{n}" for n in range(40))
        for me, keys in enumerate(won):
            assert all(store.read(key) == b"%d" % me for key in keys)

    def test_a_pickled_store_is_the_same_store(self, store: Store) -> None:
        if self.processes:
            store.put("k", b"1")
            again = pickle.loads(pickle.dumps(store))  # noqa: S301 - our own
            assert (again.url, again.read("k")) == (store.url, b"1")

    # --- presigned URLs -----------------------------------------------------------------------

    def test_presigned_urls(self, store: Store) -> None:
        if not self.presigns:
            with pytest.raises(Invalid) as caught:
                store.presign("k", expires=timedelta(minutes=1))
            assert caught.value.kind == "no-presign"
            return
        key = "folder/with space é+%"
        url = store.presign(key, expires=timedelta(minutes=1), method="PUT")
        with _request(url, b"by url", "PUT"):
            assert store.read(key) == b"by url"
        with _request(store.presign(key, expires=timedelta(minutes=1))) as answer:
            assert answer.read() == b"by url"
        with pytest.raises(urllib.error.HTTPError), _request(url.replace("space", "other")):
            pass
        for expires in (timedelta(0), timedelta(days=8)):
            with pytest.raises(Invalid):
                store.presign(key, expires=expires)
        with pytest.raises(Invalid):
            store.presign("../k", expires=timedelta(minutes=1))

    def test_presigned_forms(self, store: Store) -> None:
        minute = timedelta(minutes=1)
        if not self.presigns:
            with pytest.raises(Invalid) as caught:
                store.presign_post("k", expires=minute, max_bytes=10)
            assert caught.value.kind == "no-presign"
            return
        key = "folder/with-dash_and.dot/k"
        form = store.presign_post(key, expires=minute, max_bytes=10)
        assert form.fields["key"].endswith(key)
        assert _post(form.url, form.fields, b"by form") == 204
        assert store.read(key) == b"by form"
        assert _post(form.url, form.fields, b"once more") == 204
        assert store.read(key) == b"once more"
        for expires in (timedelta(0), timedelta(days=8)):
            with pytest.raises(Invalid):
                store.presign_post(key, expires=expires, max_bytes=10)
        assert _post(form.url, form.fields, b"x" * 11) in {400, 204 if self.lax_forms else 400}
        for bad in ("../k", "a/${filename}"):
            with pytest.raises(Invalid):
                store.presign_post(bad, expires=minute, max_bytes=10)

    def test_presigned_forms_allow_no_more_than_they_say(self, store: Store) -> None:
        if not self.checks_forms:
            pytest.skip("this storage believes every form")
        form = store.presign_post("k", expires=timedelta(minutes=1), max_bytes=10)
        late = store.presign_post("k", expires=timedelta(seconds=1), max_bytes=10)
        changed = [
            (form.fields | {"key": form.fields["key"] + "2"}, b"other"),
            ({k: v for k, v in form.fields.items() if k != "policy"}, b"bare"),
            (form.fields | {"x-amz-signature": "0" * 64}, b"unsigned"),
        ]
        for fields, data in changed:
            assert _post(form.url, fields, data) in {400, 401, 403}
        time.sleep(2.1)
        assert _post(late.url, late.fields, b"late") in {400, 401, 403}
        assert list(store.list()) == []


def _post(url: str, fields: dict[str, str], data: bytes) -> int:
    import httpx

    return httpx.post(url, data=fields, files={"file": ("x", data)}, timeout=10).status_code


# Prints the keys that this process was the one to create.
_RACER = """
import pickle, sys
from catchment.core.errors import Conflict, NotFound

store, me = pickle.load(sys.stdin.buffer), sys.argv[1]
store.put("ready/" + me, b"")
while True:
    try:
        store.head("go")
        break
    except NotFound:
        pass
for n in range(40):
    try:
        store.put(f"race/{n}", me.encode())
        print(f"race/{n}")
    except Conflict:
        pass
"""


def _told(racer: subprocess.Popen[bytes]) -> list[str]:
    assert racer.stdout
    with racer.stdout:
        told = racer.stdout.read().decode().split()
    assert racer.wait() == 0
    return told


def _request(url: str, data: bytes | None = None, method: str = "GET") -> HTTPResponse:
    headers = {"Content-Type": "application/octet-stream"}
    request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 - our own URL
    answer: HTTPResponse = urllib.request.urlopen(request, timeout=10)  # noqa: S310
    return answer

"""The contract in a folder, and what only a folder can do wrong."""

import errno
import fcntl
import hashlib
import json
import mmap
import os
import pickle
import socket
import subprocess
import tempfile
import threading
import tracemalloc
from datetime import timedelta
from pathlib import Path

import pytest

from catchment.core import store_draft, store_local
from catchment.core.errors import Conflict, Corrupt, Invalid, NotFound, Unavailable
from catchment.core.store import Range, open_store
from catchment.core.store_draft import BLOCK, BLOCKS, BUFFER, SMALL, STRIDE, Draft
from catchment.testing.store import GOOD_KEYS, MIB, StoreContract


def local(folder):
    return open_store(Path(folder).as_uri())


class TestLocalStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        return local(tmp_path / "made at the first write" / "a #?% b")

    @pytest.fixture
    def other(self, tmp_path):
        return local(tmp_path / "other")

    @pytest.fixture
    def good_keys(self, shared_or_nothing):
        return shared_or_nothing


@pytest.fixture
def shared_or_nothing(request):
    """The contract's strange keys, and those of the naughty strings that can be keys."""
    folder = Path(__file__).parents[3] / "shared/data/hostile/strings/blns.json"
    naughty = json.loads(folder.read_text()) if folder.is_file() else []
    keys = dict.fromkeys(GOOD_KEYS)
    for text in naughty:
        folders = {key[:n] for key in keys for n, c in enumerate(key) if c == "/"}
        above = {text[:n] for n, c in enumerate(text) if c == "/"}
        if usable(text) and text not in folders and not above & keys.keys():
            keys[text] = None
    return list(keys)


def usable(key):
    from catchment.core.store import check_key

    try:
        return check_key(key)
    except Invalid:
        return None


@pytest.fixture
def store(tmp_path):
    return local(tmp_path / "root")


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def drafts(root):
    folder = root / ".catchment/tmp"
    return list(folder.iterdir()) if folder.exists() else []


# --- URLs ---------------------------------------------------------------------------------------


def test_the_url_names_the_folder(tmp_path):
    folder = tmp_path / "é #?%"
    store = local(folder)
    store.put("k", b"1")
    assert (folder / "k").read_bytes() == b"1"
    assert store.url == folder.as_uri()
    assert repr(store) == f"LocalStore({folder.as_uri()!r})"
    assert pickle.loads(pickle.dumps(store)).url == store.url
    assert open_store(f"{tmp_path.as_uri()}/x/../y").url == f"{tmp_path.as_uri()}/y"


@pytest.mark.parametrize(
    "url",
    ["file://", "file://relative", "file:///a?b", "file:///a#b", "file:///%00", "/a", "", "x"],
)
def test_other_urls_are_refused(url):
    with pytest.raises(Invalid) as caught:
        open_store(url)
    assert caught.value.kind == "bad-store-url"


def test_a_root_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    store = local(tmp_path / "file")
    for call in (lambda: store.put("k", b"1"), lambda: store.read("k"), lambda: list(store.list())):
        with pytest.raises(Invalid) as caught:
            call()
        assert caught.value.kind == "folder-unusable"
        assert caught.value.message == f"{tmp_path}/file is a file, expected a folder"
        assert caught.value.hint
    with pytest.raises(Invalid, match=r"^/proc/nope cannot be made: No such file"):
        local(Path("/proc/nope/below")).put("k", b"1")


# --- links and special files ----------------------------------------------------------------------


def test_links_are_never_followed(root, tmp_path, store):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_bytes(b"secret")
    (root / "file").symlink_to(secret / "file")
    (root / "folder").symlink_to(secret)
    (root / "inner").symlink_to(root / "plain")
    store.put("plain/x", b"1")
    for key in ("file", "folder/file", "inner/x", "folder/new/deep"):
        for call in (
            store.head,
            store.read,
            store.stream,
            store.path,
            lambda key: store.put(key, b"2"),
            lambda key: store.copy(key, "copy"),
            lambda key: store.compose("copy", [Range(store, key, 0, 1)]),
        ):
            with pytest.raises(Invalid) as caught:
                call(key)
            assert caught.value.kind == "not-a-file"
    # They are listed, so that none is passed over in silence, and none keeps others away.
    assert [stat.key for stat in store.list()] == ["file", "folder", "inner", "plain/x"]
    with pytest.raises(Invalid):  # one of them may be a folder
        list(store.folders())
    with pytest.raises(Invalid):
        list(store.list("folder/"))
    with pytest.raises(Invalid):
        store.delete("folder/file")
    store.put("file", b"2", mode="overwrite")  # takes the link's place
    store.delete("inner")
    assert (secret / "file").read_bytes() == b"secret"
    assert [path.name for path in secret.iterdir()] == ["file"]
    assert store.read("file") == b"2"


def test_the_root_may_be_a_link(root, tmp_path):
    (tmp_path / "link").symlink_to(root)
    store = local(tmp_path / "link")
    store.put("k", b"1")
    assert (root / "k").read_bytes() == b"1"
    assert [stat.key for stat in store.list()] == ["k"]


def test_special_files_are_refused_at_once(root, store, monkeypatch):
    os.mkfifo(root / "pipe")
    monkeypatch.chdir(root)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        for key in ("pipe", "socket"):
            with pytest.raises(Invalid) as caught:
                store.read(key)
            assert caught.value.kind == "not-a-file"
    assert [stat.key for stat in store.list()] == ["pipe", "socket"]


def test_foreign_names_are_listed_but_not_read(root, store):
    for name in (b"back\\slash", b"latin-\xe9", b"new\nline"):
        (root / os.fsdecode(name)).write_bytes(b"1")
    keys = [stat.key for stat in store.list()]
    assert keys == ["back\\slash", "latin-\\xe9", "new\nline"]
    for key in keys:
        with pytest.raises(Invalid):
            store.read(key)


def test_a_key_cannot_be_the_folder_of_another(store):
    store.put("a/b", b"1")
    for call in (
        lambda: store.put("a", b"2"),
        lambda: store.put("a", b"2", mode="overwrite"),
        lambda: store.put("a/b/c", b"2"),
        lambda: store.compose("a/b/c/d", [b"2"], mode="overwrite"),
    ):
        with pytest.raises(Conflict) as caught:
            call()
        assert caught.value.kind == "key-taken"
    assert [stat.key for stat in store.list()] == ["a/b"]


def test_emptied_folders_are_not_listed(store):
    store.put("a/b/c", b"1")
    store.put("d/e", b"1")
    store.delete("a/b/c")
    assert list(store.folders()) == ["d"]


def test_the_hidden_folder_is_hidden(root, store):
    store.put("k/.catchment/x", b"1")
    (root / ".catchment/ledger.db").write_bytes(b"")
    assert [stat.key for stat in store.list()] == ["k/.catchment/x"]
    assert list(store.folders()) == ["k"]
    assert list(store.folders("k/")) == [".catchment"]


# --- what goes wrong ------------------------------------------------------------------------------


def test_sweep_removes_old_drafts_only(root, store):
    store.put("k", b"1")
    old, new = root / ".catchment/tmp/old", root / ".catchment/tmp/new"
    for draft in (old, new):
        draft.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert store.sweep(timedelta(hours=1), dry_run=True) == 1
    assert sorted(drafts(root)) == [new, old]
    assert store.sweep(timedelta(hours=1)) == 1
    assert drafts(root) == [new]
    assert store.sweep(timedelta(0)) == 1
    assert store.read("k") == b"1"
    assert local(root / "none").sweep(timedelta(0)) == 0


@pytest.mark.parametrize("mode", ["create", "overwrite"])
def test_a_draft_that_is_swept_away_is_no_missing_object(store, mode):
    """A caller that reads one store and writes another must not take it for the source's."""

    def pieces():
        yield b"1"
        store.sweep(timedelta(0))
        yield b"2"

    with pytest.raises(Unavailable) as caught:
        store.put("k", pieces(), mode=mode)
    assert caught.value.kind == "draft-removed"
    assert list(store.list()) == []


def test_a_second_name_that_is_swept_away_is_no_missing_object(store, monkeypatch):
    store.put("k", b"1")
    link = os.link

    def swept(*arguments, **more):
        link(*arguments, **more)
        store.sweep(timedelta(0))

    monkeypatch.setattr("os.link", swept)
    with pytest.raises(Unavailable) as caught:
        store.copy("k", "l", mode="overwrite")
    assert caught.value.kind == "draft-removed"


@pytest.mark.parametrize(
    ("code", "error", "kind"),
    [
        (errno.ENOSPC, Unavailable, "disk-full"),
        (errno.EDQUOT, Unavailable, "disk-full"),
        (errno.EACCES, Invalid, "permission-denied"),
        (errno.EROFS, Invalid, "permission-denied"),
        (errno.ENAMETOOLONG, Invalid, "bad-key"),
        (errno.EIO, Unavailable, "io-error"),
        (errno.EMFILE, Unavailable, "io-error"),
    ],
)
@pytest.mark.parametrize("call", ["write", "fsync", "link", "mkdir"])
def test_errors_of_the_system_become_ours(root, store, monkeypatch, call, code, error, kind):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    store.put("before", b"1")
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(error) as caught:
        store.put("folder/k", b"x" * 10)
    assert caught.value.kind == kind
    assert caught.value.__cause__ is None
    monkeypatch.undo()
    assert [stat.key for stat in store.list()] == ["before"]
    assert drafts(root) == []


def test_a_full_disk(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("may not mount a small file system here")
    try:
        store = local(small)
        store.put("k", b"1")
        for write in (
            lambda: store.put("big", bytes(3 * MIB)),
            lambda: store.put("big", iter([bytes(MIB)] * 3)),
            lambda: store.compose("big", [bytes(MIB)] * 3, digest=True),
        ):
            with pytest.raises(Unavailable) as caught:
                write()
            assert caught.value.kind == "disk-full"
        assert [stat.key for stat in store.list()] == ["k"]
        store.put("fits", bytes(MIB))
    finally:
        subprocess.run(["umount", small], check=True)


def test_no_permission():
    if os.geteuid():
        pytest.skip("needs root, to become somebody else")
    with tempfile.TemporaryDirectory() as folder:
        store = local(folder)
        store.put("k", b"1")
        Path(folder, "k").chmod(0o600)
        Path(folder).chmod(0o755)
        os.seteuid(65534)
        try:
            for call in (lambda: store.read("k"), lambda: store.put("new", b"1")):
                with pytest.raises(Invalid) as caught:
                    call()
                assert caught.value.kind == "permission-denied"
        finally:
            os.seteuid(0)


# --- how it is written ----------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_data(store):
    chunk = bytes(MIB)
    tracemalloc.start()
    try:
        store.put("big", (chunk for _ in range(64)), durable=False)
        store.compose("copy", [Range(store, "big", 1, 64 * MIB - 1)], digest=True, durable=False)
        assert sum(map(len, store.stream("copy"))) == 64 * MIB - 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MIB


def test_a_dropped_stream_closes_its_file(store):
    store.put("k", bytes(3 * MIB))
    before = open_files()
    store.stream("k")
    next(store.stream("k"))
    next(store.list())
    assert open_files() == before


@pytest.mark.parametrize("code", [0, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_copies_by_the_kernel(store, monkeypatch, code):
    def refuse(*_, **__):
        if code:
            raise OSError(code, os.strerror(code))
        return 0

    data = hashlib.shake_128(b"seed").digest(STRIDE + BUFFER)
    store.put("a", data)
    monkeypatch.setattr(os, "copy_file_range", refuse)
    store.compose("b", [b"x", Range(store, "a", 3, STRIDE)])
    assert store.read("b") == b"x" + data[3 : STRIDE + 3]


def test_other_errors_of_a_copy_are_raised(store, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EIO, "broken disk")

    store.put("a", bytes(SMALL))
    monkeypatch.setattr(os, "copy_file_range", fail)
    with pytest.raises(Unavailable):
        store.compose("b", [Range(store, "a", 0, SMALL)])


@pytest.fixture
def large(store):
    """Bytes that make more blocks than are in memory at once, and their segments."""
    data = hashlib.shake_128(b"seed").digest(BLOCK) * (BLOCKS + 2)
    store.put("large", data)
    whole = b"x" * 5 + data[3:] + b"y" * BLOCK + data[: SMALL - 1]
    segments = [
        b"x" * 5,
        Range(store, "large", 3, len(data) - 3),
        b"y" * BLOCK,
        Range(store, "large", 0, SMALL - 1),
    ]
    return whole, segments


def writing():
    """The threads of drafts."""
    return [t for t in threading.enumerate() if t.name.startswith(("write_", "digest_"))]


def check_composed(store, large):
    whole, segments = large
    composed = store.compose("b", segments, digest=True)
    assert (composed.size, store.read("b") == whole) == (len(whole), True)
    assert composed.digest == f"sha256:{hashlib.sha256(whole).hexdigest()}"
    assert not writing()


def test_large_objects_are_hashed_and_written_in_blocks(store, large):
    check_composed(store, large)


def test_a_composition_of_whole_blocks(store):
    data = bytes(BLOCK) * BLOCKS
    composed = store.compose("b", [data], digest=True)
    assert composed.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert store.head("b").size == len(data)


def test_what_need_not_last_is_not_written_past_the_page_cache(store, large, monkeypatch):
    monkeypatch.setattr(fcntl, "fcntl", None)
    whole, segments = large
    assert store.compose("b", segments, digest=True, durable=False).size == len(whole)
    assert store.read("b") == whole


def test_a_file_system_that_cannot_write_past_the_page_cache(store, large, monkeypatch):
    def refuse(_fd, command, *_):
        if command == fcntl.F_SETFL:
            raise OSError(errno.EINVAL, "as tmpfs did")
        return 0

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    check_composed(store, large)


def test_a_disk_that_wants_other_blocks(store, large, monkeypatch):
    """Some file systems take the flag, and then none of the writes; others a part of them."""
    pwrite = os.pwrite
    written = []

    def choosy(fd, data, at):
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            if at % 4096 or len(data) % 4096:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            data = data[: BLOCK // 2 + 512]
        written.append(pwrite(fd, data, at))
        return written[-1]

    monkeypatch.setattr(os, "pwrite", choosy)
    check_composed(store, large)
    assert BLOCK // 2 + 512 in written


@pytest.mark.parametrize("number", range(1, BLOCKS + 4))
def test_a_disk_that_fills_while_blocks_are_written(root, store, large, monkeypatch, number):
    pwrite, calls = os.pwrite, []

    def full(fd, data, at):
        calls.append(at)
        if len(calls) >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(fd, data, at)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(Unavailable) as caught:
        store.compose("b", large[1], digest=True)
    assert caught.value.kind == "disk-full"
    assert [stat.key for stat in store.list()] == ["large"]
    assert not list((root / ".catchment/tmp").iterdir())
    assert not writing()


def test_who_is_interrupted_while_a_thread_starts_may_close_the_file(
    root, store, large, monkeypatch
):
    """The thread is not known then, and nobody waits for it: it must not write into others' files."""
    start, release, late = threading.Thread.start, threading.Event(), []

    def interrupted(thread):
        start(thread)
        late.append(thread)
        raise KeyboardInterrupt

    def slow(*arguments, write=store_draft._Blocks._write):
        release.wait()
        write(*arguments)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    monkeypatch.setattr(store_draft._Blocks, "_write", slow)
    with pytest.raises(KeyboardInterrupt):
        store.compose("b", large[1], digest=True)
    others = [(root / f"other{n}").open("w+b") for n in range(4)]  # these have its number now
    release.set()
    late[0].join()
    for other in others:
        assert other.read() == b""
        other.close()
    assert not list((root / ".catchment/tmp").iterdir())


def test_no_thread_can_be_started(root, store, large, monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(Unavailable, match="can't start new thread"):
        store.compose("b", large[1], digest=True)
    assert not list((root / ".catchment/tmp").iterdir())


def test_no_memory_for_a_draft(root, store, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(Unavailable):
        store.compose("b", [b"x"], digest=True)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert not list((root / ".catchment/tmp").iterdir())


@pytest.mark.parametrize("length", [SMALL - 1, SMALL + 1])
def test_a_source_that_is_cut_while_it_is_copied(tmp_path, length):
    (tmp_path / "short").write_bytes(bytes(10))
    with (tmp_path / "short").open("rb") as source, (tmp_path / "draft").open("w+b") as target:
        draft = Draft(target.fileno(), "target")
        with pytest.raises(Corrupt) as caught:
            draft.splice(source.fileno(), "short", 0, length)
    assert caught.value.kind == "short-source"


def test_more_sources_than_are_held_open(store):
    number = store_local.MAX_SOURCES + 5
    for n in range(number):
        store.put(f"{n}", b"%d" % n, durable=False)
    before = open_files()
    store.compose("all", [Range(store, f"{n}", 0, len(str(n))) for n in range(number)])
    assert store.read("all") == b"".join(b"%d" % n for n in range(number))
    assert open_files() == before


def test_another_platform_reads_and_writes(store, monkeypatch):
    monkeypatch.setattr(store_draft.sys, "platform", "darwin")
    monkeypatch.delattr(os, "copy_file_range")
    monkeypatch.delattr(os, "posix_fadvise")
    store.put("a", bytes(STRIDE))
    assert store.compose("b", [Range(store, "a", 0, STRIDE)]).size == STRIDE


def test_a_folder_made_twice_at_once(root, store, monkeypatch):
    mkdir = os.mkdir

    def late(path, *args, **options):
        mkdir(path, *args, **options)
        mkdir(path, *args, **options)  # somebody else was first

    monkeypatch.setattr(os, "mkdir", late)
    store.put("new/k", b"1")
    assert (root / "new/k").read_bytes() == b"1"


def test_objects_that_vanish_during_a_listing(root, store):
    for key in ("a", "b", "c/d", "e/f"):
        store.put(key, b"1")
    listing = store.list()
    assert next(listing).key == "a"
    (root / "b").unlink()
    (root / "c/d").unlink()
    (root / "c").rmdir()
    assert [stat.key for stat in listing] == ["e/f"]
    with pytest.raises(NotFound):
        store.head("b")


def test_a_copy_is_a_second_name_that_nobody_writes_to(store):
    store.put("a", b"1")
    store.copy("a", "b/c")
    path = store.path("b/c")
    assert path.samefile(store.path("a"))
    assert not path.stat().st_mode & 0o222
    store.copy("a", "b/c", mode="overwrite")  # the same two names
    store.put("a", b"2", mode="overwrite")
    assert (store.read("a"), store.read("b/c")) == (b"2", b"1")
    store.delete("a")
    assert store.read("b/c") == b"1"
    assert not list(Path(store.root, ".catchment", "tmp").iterdir())


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EMLINK, errno.EPERM])
def test_where_no_second_name_can_be_a_copy_is_one(store, monkeypatch, number):
    def fail(*_, **__):
        raise OSError(number, "no")

    store.put("a", b"1")
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", fail)
        store.copy("a", "b", mode="overwrite")
    assert not store.path("b").samefile(store.path("a"))
    assert store.read("b") == b"1"


def test_a_copy_that_fails_leaves_nothing(store, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EIO, "broken disk")

    store.put("a", b"1")
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", fail)
        with pytest.raises(Unavailable):
            store.copy("a", "b", mode="overwrite")
    assert [stat.key for stat in store.list()] == ["a"]

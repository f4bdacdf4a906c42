"""Power cuts and kills, on a real disk: what was acknowledged is there, the rest is not."""

import random
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import timedelta

import pytest

from catchment.core.store import open_store

WRITER = """
import sys
from catchment.core.store import Range, open_store

store = open_store(sys.argv[1])
store.put("source", bytes(range(256)) * 16384, mode="overwrite")
print("ready", flush=True)
for n in range(1_000_000):
    store.put(f"put/{n}", (bytes([n % 256]) * 500_000 for _ in range(4)))
    print(f"put/{n}", flush=True)
    store.put("same", bytes([n % 256]) * 1_000_000, mode="overwrite")
    segments = [b"head", Range(store, "source", n, 3_000_000), b"foot"]
    store.compose(f"compose/{n}", segments, digest=True)
    print(f"compose/{n}", flush=True)
"""


def expected(key):
    kind, n = key.split("/")
    if kind == "put":
        return bytes([int(n) % 256]) * 2_000_000
    return b"head" + (bytes(range(256)) * 16384)[int(n) : int(n) + 3_000_000] + b"foot"


def test_a_killed_writer_leaves_whole_objects_or_none(tmp_path):
    chance = random.Random(8)
    half = 0
    for round_ in range(10):
        root = tmp_path / f"{round_}"
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, root.as_uri()], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0, 0.08))
        writer.kill()
        acknowledged = {line.strip() for line in writer.stdout if line.endswith("\n")}
        assert writer.wait() == -signal.SIGKILL
        writer.stdout.close()

        store = open_store(root.as_uri())
        there = {stat.key for stat in store.list()}
        assert acknowledged <= there
        for key in there - {"source", "same"}:
            assert store.read(key) == expected(key), key
        if "same" in there:
            same = store.read("same")
            assert same == same[:1] * 1_000_000
        left = len(list((root / ".catchment/tmp").iterdir()))
        assert store.sweep(timedelta(0)) == left
        half += bool(left)
        shutil.rmtree(root)
    assert half, "no kill met a write under way: the test shows nothing"


TRACED = """
import sys
from catchment.core.store import Range, open_store

store = open_store(sys.argv[1])
store.put("new/folder/first", b"1")
store.put("new/folder/second", b"2")
store.put("new/folder/second", b"3", mode="overwrite")
store.compose("new/folder/third", [b"x", Range(store, "new/folder/first", 0, 1)])
store.put("staged/a", b"4", durable=False)
store.delete("new/folder/first")
open_store(sys.argv[1]).put("staged/b", b"5")
"""

CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\) += \d+")


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """The writer's calls to the system, as ``name path``, paths relative to the store's parent."""
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    folder = tmp_path_factory.mktemp("traced").resolve()
    log = folder / "log"
    names = "fsync,fdatasync,write,linkat,link,rename,renameat,renameat2,mkdir,mkdirat,unlinkat"
    command = ["strace", "-f", "--seccomp-bpf", "-y", "-s", "0", "-e", f"trace={names}", "-o", log]
    writer = [sys.executable, "-c", TRACED, (folder / "root").as_uri()]
    done = subprocess.run([*command, *writer], capture_output=True, text=True, check=False)
    if done.returncode and "ptrace" in done.stderr:
        pytest.skip("may not trace processes here")
    assert done.returncode == 0, done.stderr
    return list(read(log, str(folder)))


def read(log, folder):
    for line in log.read_text().splitlines():
        found = CALL.match(line)
        if not found or folder not in line:
            continue
        name, arguments = found.groups()
        parts = re.findall(r"<([^>]*)>|\"([^\"]*)\"", arguments)
        flat = [held or named for held, named in parts]
        if name in {"fsync", "write"}:
            path = flat[0]
        elif name == "mkdir":
            path = flat[-1]
        else:  # (folder, name) once or twice: what counts is the last
            path = f"{flat[-2]}/{flat[-1]}"
        path = path.removeprefix(folder).strip("/")
        yield name, re.sub(r"tmp/[0-9a-f]+-[0-9a-f]+", "tmp/draft", path)


DRAFT = "root/.catchment/tmp/draft"


def test_an_object_is_durable_before_it_has_its_name(calls):
    first = calls.index(("linkat", "root/new/folder/first"))
    draft = [name for name, path in calls[:first] if path == DRAFT]
    assert draft == ["write", "fsync"]
    assert calls[first + 1 : first + 3] == [
        ("fsync", "root/new/folder"),  # then its name
        ("unlinkat", DRAFT),
    ]


def test_new_folders_are_durable_before_anything_is_in_them(calls):
    first = calls.index(("linkat", "root/new/folder/first"))
    made = [call for call in calls[:first] if "tmp" not in call[1] and call[0] != "write"]
    assert made == [
        ("mkdir", "root"),
        ("fsync", ""),
        ("mkdirat", "root/.catchment"),
        ("mkdirat", "root/new"),
        ("fsync", "root"),
        ("mkdirat", "root/new/folder"),
        ("fsync", "root/new"),
    ]


def test_each_further_write_costs_two_syncs(calls):
    start = calls.index(("unlinkat", DRAFT)) + 1
    end = calls.index(("mkdirat", "root/staged"))
    put = [("write", DRAFT), ("fsync", DRAFT), ("linkat", "root/new/folder/second")]
    synced = [("fsync", "root/new/folder")]
    overwritten = [*put[:2], ("renameat", "root/new/folder/second")]
    composed = [*put[:2], ("linkat", "root/new/folder/third")]
    seen = [call for call in calls[start:end] if call[0] != "unlinkat"]
    assert seen[:12] == [*put, *synced, *overwritten, *synced, *composed, *synced]


def test_a_staged_object_costs_none(calls):
    start = calls.index(("mkdirat", "root/staged"))
    end = calls.index(("linkat", "root/staged/a"))
    assert "fsync" not in {name for name, _ in calls[start - 2 : end + 2]}


def test_a_folder_that_was_only_staged_becomes_durable_with_the_first_durable_object(calls):
    staged = calls.index(("linkat", "root/staged/a"))
    later = calls.index(("linkat", "root/staged/b"))
    assert ("fsync", "root") in calls[staged:later]
    assert calls[later + 1] == ("fsync", "root/staged")


def test_a_deletion_is_durable(calls):
    deleted = calls.index(("unlinkat", "root/new/folder/first"))
    assert calls[deleted + 1] == ("fsync", "root/new/folder")

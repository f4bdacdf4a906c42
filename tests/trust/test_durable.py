"""The order of syncs of a whole run, audited from outside with strace: what a snapshot names is on
the disk, with its name, before the commit that names it. A power cut is not simulated: it is made
harmless."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from catchment.arrays.layout import ROOT
from catchment.core.workspace import Workspace
from tests.trust.hurting import SETTINGS, grow

CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\) += \d+")
NAMES = "fsync,fdatasync,linkat,link,rename,renameat,renameat2"


@pytest.fixture(scope="module")
def home(template, tmp_path_factory):
    """A house whose sites have something new."""
    return grow(tmp_path_factory.mktemp("durable").resolve(), template)[0]


def traced(home: Path, aggregate: str) -> list[tuple[str, str, str]]:
    """Calls of one run, in order: what, from where, to where; of a sync only the first place."""
    if not shutil.which("strace"):
        pytest.skip("strace is not installed: apt-get install strace")
    log = home / "log"
    program = Path(sys.executable).with_name("catchment")
    command = ["strace", "-f", "--seccomp-bpf", "-y", "-s", "0", "-e", f"trace={NAMES}", "-o", log]
    command += [program, "-w", home, "run", aggregate]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "ptrace" in done.stderr:
        pytest.skip("may not trace processes here")
    assert done.returncode == 0, done.stderr
    return list(calls(log))


def calls(log: Path):
    begun: dict[str, str] = {}
    for line in log.read_text().splitlines():
        process, _, text = line.partition(" ")
        text = text.strip()
        if text.endswith("<unfinished ...>"):
            begun[process] = text.removesuffix("<unfinished ...>").rstrip()
            continue
        if resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", text):
            text = begun.pop(process, "") + resumed[1]
        found = CALL.match(text)
        if not found:
            continue
        name, arguments = found.groups()
        parts = [held or named for held, named in re.findall(r"<([^>]*)>|\"([^\"]*)\"", arguments)]
        if name in {"fsync", "fdatasync"}:
            yield "sync", parts[0], ""
        elif name in {"link", "rename"}:
            yield "name", parts[0], parts[1]
        else:  # a folder and a name in it, twice; an absolute name needs no folder
            places = [p for p in parts if "/" in p]
            named = [p for p in parts if "/" not in p]
            if len(named) == 2:
                yield "name", f"{places[0]}/{named[0]}", f"{places[-1]}/{named[1]}"
            elif len(places) >= 2 and not named:
                yield "name", places[-2], places[-1]
            else:  # from an open file: /proc/self/fd
                yield "name", places[0], f"{places[-1]}/{named[-1]}"


@pytest.mark.parametrize(
    "aggregate", ["tables/main", "exports/claims", "imaging/ct", "studies/core"]
)
def test_all_is_on_the_disk_before_the_commit_that_names_it(home, aggregate):
    """Of arrays it is their catalog; what they commit before that is the next test's."""
    with Workspace.open(home, SETTINGS) as space:
        before = {
            item["key"]
            for one in space.ledger.snapshots(aggregate, provenance=True)
            for item in one.provenance["objects"]
        }
    told = traced(home, aggregate)
    with Workspace.open(home, SETTINGS) as space:
        latest = space.ledger.latest(aggregate)
    new = {item["key"] for item in latest.provenance["objects"]} - before
    assert new, "nothing was published: the test shows nothing"
    seal = _named(told, f"{home}/data/{latest.location}provenance.json")
    commits = [
        n
        for n, (what, place, _) in enumerate(told[:seal])
        if what == "sync" and "ledger.db" in place
    ]
    assert commits, "the commit was not synced before the seal"
    commit = commits[-1]
    for key in sorted(new):
        on_disk_before(told, f"{home}/data/{key}", commit)


def test_chunks_are_on_the_disk_before_their_commit_and_it_before_the_root(home):
    """A store of sessions has commits of its own: a chunk, the record that decides, the root."""
    with Workspace.open(home, SETTINGS) as space:
        (place,) = {s.key.rpartition("/")[0] for s in space.store.list() if s.key.endswith(ROOT)}
        before = {s.key for s in space.store.list(f"{place}/")}
        told = traced(home, "arrays/eeg")
        new = {s.key for s in space.store.list(f"{place}/")} - before
        records = {key: json.loads(space.store.read(key)) for key in new if "/log/" in key}
    assert records, "nothing was appended: the test shows nothing"
    root = _named(told, f"{home}/data/{place}/{ROOT}")
    chunks = 0
    for key, record in records.items():
        commit = _named(told, f"{home}/data/{key}")
        on_disk_before(told, f"{home}/data/{key}", root)
        slots = "|".join(record.get("rows", ["-"]))
        of_session = re.compile(rf"{re.escape(place)}/[^_/][^/]*/c/({slots})/.+")
        for chunk in filter(of_session.fullmatch, sorted(new)):
            on_disk_before(told, f"{home}/data/{chunk}", commit)
            chunks += 1
    assert chunks >= len(records)


def on_disk_before(told, path: str, when: int) -> None:
    """The bytes are synced, then named, and the name is synced: all before another call."""
    named = _named(told, path)
    assert named < when, f"{path} has its name after what tells of it"
    source = told[named][1]
    contents = [n for n, (w, p, _) in enumerate(told[:when]) if w == "sync" and p in {source, path}]
    assert contents, f"the bytes of {path} were not synced before what tells of it"
    folder = str(Path(path).parent)
    syncs = [n for n, (w, p, _) in enumerate(told[:when]) if w == "sync" and p == folder]
    assert any(n > named for n in syncs), f"the name of {path} was not synced in time"


def _named(told, path: str) -> int:
    found = [n for n, (what, _, to) in enumerate(told) if what == "name" and to == path]
    assert found, f"{path} never got its name"
    return found[-1]

"""Backups: equal on the way back, on other parts too; never half of one; while runs go on."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from catchment.cli import main
from catchment.core import backup, backup_shelf, restore
from catchment.core.account import Account
from catchment.core.doctor import examine, mend
from catchment.core.errors import (
    CatchmentError,
    Conflict,
    Corrupt,
    Invalid,
    NotFound,
    Unavailable,
)
from catchment.core.ledger import Publication, copy
from catchment.core.provenance import read_all
from catchment.core.store import open_store
from catchment.core.workspace import Workspace
from catchment.testing import workspaces
from catchment.testing.faults import Faults, inject
from tests.trust.content import contents
from tests.trust.observer import Observer
from tests.trust.soak import AGGREGATES

SETTINGS = {"executor.workers": 1, "exports.claims.threshold": 1.0}


@pytest.fixture
def shelf(tmp_path):
    return open_store((tmp_path / "shelf").as_uri())


@pytest.fixture
def empty(tmp_path):
    """A workspace with nothing in it yet."""
    with Workspace.open(_empty(tmp_path / "again"), SETTINGS) as workspace:
        yield workspace


def _empty(folder: Path, **lines: str) -> Path:
    text = "".join(f"{name} = {value}\n" for name, value in lines.items())
    return workspaces.make_workspace(
        folder,
        folder / "in",
        workspace=text or 'store = "data"',
        more="[studies.core]\nmin_cell = 0\n",
    )


def equal(one: Workspace, other: Workspace) -> None:
    for aggregate in AGGREGATES:
        assert contents(one, aggregate) == contents(other, aggregate)
        assert [s.number for s in one.ledger.snapshots(aggregate)] == [
            s.number for s in other.ledger.snapshots(aggregate)
        ]


def test_a_workspace_comes_back_equal_and_goes_on(house, shelf, empty):
    with pytest.raises(NotFound) as caught:
        restore.restore(empty, shelf)
    assert caught.value.hint.endswith("--list")  # the command without it would make one there
    made = backup.backup(house, shelf)
    assert made.wrong == []
    assert made.objects == made.copied + _doubled(house)
    assert restore.check(shelf, made) == []
    back = restore.restore(empty, shelf)
    assert back.digest == made.digest
    equal(house, empty)
    observer = Observer(empty)
    observer.all()
    for aggregate in AGGREGATES:
        observer.verify(aggregate)
    again = workspaces.make_workspace(
        empty.file.parent, house.file.parent.parent / "in", more="[studies.core]\nmin_cell = 0\n"
    )
    with Workspace.open(again, SETTINGS) as workspace:  # what lives on it goes on
        assert workspaces.run(workspace, "studies/core") == "unchanged"
        assert not workspace.ledger.unsealed("studies/core")


def _doubled(house: Workspace) -> int:
    """Objects whose bytes another one has."""
    digests = [restore.digest_of(house.store, s.key)[0] for s in house.store.list()]
    return len(digests) - len(set(digests))


def test_between_sqlite_and_postgresql_and_between_folder_and_s3(
    house,
    shelf,
    tmp_path,
    moto,
    postgres,
):
    made = backup.backup(house, shelf)
    options = {name: f'"{value}"' for name, value in moto.options.items()} | {"allow_http": "true"}
    far = _empty(
        tmp_path / "far",
        store=f'"s3://{moto.bucket}/{tmp_path.name}"',
        ledger=f'"{postgres.database()}"\n\n[s3]',
        **options,
    )
    with Workspace.open(far, SETTINGS) as workspace:
        restore.restore(workspace, shelf)
        equal(house, workspace)
        one = workspace.ledger.receive("tables/main", "site", "new", "sha256:1", 1)
        known = {c.id for c in house.ledger.contributions("imaging/ct")}
        assert one.id not in known  # ids go on where they were
        there = open_store(f"s3://{moto.bucket}/{tmp_path.name}-shelf", **moto.options)
        second = backup.backup(workspace, there)
        assert second.objects == made.objects
    with Workspace.open(_empty(tmp_path / "near"), SETTINGS) as workspace:
        restore.restore(workspace, there)
        equal(house, workspace)


def test_what_did_not_change_is_not_copied_again(house, shelf):
    first = backup.backup(house, shelf)
    faults = Faults()
    reading = inject(house.store, faults)
    vars(house)["store"] = reading
    second = backup.backup(house, shelf)
    assert (second.copied, second.digest) == (0, first.digest)
    assert backup_shelf.backups(shelf) == [first.name, second.name]
    house.store.put("tables/large", bytes(backup_shelf.WHOLE + 1))
    third = backup.backup(house, shelf)
    assert (third.copied, third.objects) == (1, first.objects + 1)


def test_no_half_backup_is_ever_seen_whatever_fails(house, tmp_path):
    """Each operation on the store of backups fails once; so does each on the workspace's store."""
    calm = Faults()
    whole = backup.backup(house, inject(open_store((tmp_path / "calm").as_uri()), calm))
    chosen = [*range(1, 10), *range(10, calm.count, 29), *range(calm.count - 6, calm.count + 1)]
    for number in chosen:
        for when in ("before", "after"):
            shelf = open_store((tmp_path / f"{when}{number}").as_uri())
            try:
                backup.backup(house, inject(shelf, Faults(fail_at=number, when=when)))
            except Unavailable:
                last = number == calm.count and when == "after"  # done, and its answer was lost
                assert len(backup_shelf.backups(shelf)) == last
            assert backup.backup(house, shelf).digest == whole.digest


def test_a_restore_that_died_is_done_by_another(house, shelf, tmp_path):
    made = backup.backup(house, shelf)
    for number in (1, 5, 30, 60):
        with Workspace.open(_empty(tmp_path / f"r{number}"), SETTINGS) as workspace:
            real = workspace.store
            vars(workspace)["store"] = inject(real, Faults(fail_at=number, when="after"))
            with pytest.raises(Unavailable):
                restore.restore(workspace, shelf)
            assert workspace.ledger.aggregates() == []  # nothing is published by half a restore
            vars(workspace)["store"] = real
            restore.restore(workspace, shelf)
            equal(house, workspace)
            with pytest.raises(Conflict) as refused:
                restore.restore(workspace, shelf)
            assert refused.value.kind == "ledger-not-empty"
    assert made.objects > 60


def test_seals_come_back_after_all_that_they_stand_for(house, shelf, empty):
    backup.backup(house, shelf)
    real = empty.store
    put: list[str] = []

    class Watch(Faults):
        def around(self, operation):
            sealed = {s.key for s in real.list() if s.key.endswith("provenance.json")}
            if sealed and not put:
                put.extend(s.key for s in real.list())
            return super().around(operation)

    vars(empty)["store"] = inject(real, Watch())
    restore.restore(empty, shelf)
    named = {
        item["key"]
        for aggregate in AGGREGATES
        for one in empty.ledger.snapshots(aggregate, provenance=True)
        for item in one.provenance["objects"]
    }
    assert named <= set(put)


def test_a_restore_fills_and_never_replaces(house, shelf, empty):
    backup.backup(house, shelf)
    empty.store.put("tables/mine", b"precious")
    with pytest.raises(Conflict) as refused:
        restore.restore(empty, shelf)
    assert refused.value.kind == "store-not-empty"
    empty.store.delete("tables/mine")
    key = next(s.key for s in house.store.list("imaging/"))
    empty.store.put(key, b"other bytes")
    with pytest.raises(Conflict) as refused:
        restore.restore(empty, shelf)
    assert refused.value.kind == "store-not-empty"
    assert empty.store.read(key) == b"other bytes"
    with pytest.raises(Conflict):
        copy.load(house.ledger, [], {})


@pytest.mark.parametrize("how", ["missing", "damaged", "list", "ledger", "document"])
def test_a_damaged_backup_is_told_from_a_whole_one(house, shelf, empty, how):
    made = backup.backup(house, shelf)
    first = restore.items(shelf, made)
    key = backup_shelf.key_of(next(first).digest)
    first.close()
    match how:
        case "missing":
            shelf.delete(key)
        case "damaged":
            shelf.put(key, b"x", mode="overwrite")
        case "list":
            shelf.delete(backup_shelf.key_of(made.parts[0]))
        case "ledger":
            shelf.put(backup_shelf.key_of(made.ledger[0]), b"x", mode="overwrite")
        case "document":
            shelf.put(f"backups/{made.name}/backup.json", b"{}", mode="overwrite")
    if how in {"missing", "damaged", "ledger"}:
        assert len(restore.check(shelf, made)) == 1
    with pytest.raises(Corrupt) as error:
        restore.restore(empty, shelf)
    assert error.value.kind == "backup-damaged"
    assert empty.ledger.aggregates() == []


def test_a_later_version_of_the_program_made_it(house, shelf, empty):
    made = backup.backup(house, shelf)
    key = f"backups/{made.name}/backup.json"
    told = json.loads(shelf.read(key))
    shelf.put(key, json.dumps(told | {"format": 99}).encode(), mode="overwrite")
    with pytest.raises(Invalid) as error:
        restore.restore(empty, shelf)
    assert error.value.kind == "backup-newer"
    line = b'{"table":"runs","columns":["id","mood"]}\n'
    with pytest.raises(Invalid) as error:
        copy.load(empty.ledger, [line], {})
    assert error.value.kind == "backup-newer"
    with pytest.raises(Corrupt):
        copy.load(empty.ledger, [b'{"table":"runs","columns":["id"]}\n', b"no json\n"], {})
    with pytest.raises(Corrupt):
        copy.load(empty.ledger, [], {"runs": copy.Table(1, "sha256:00")})


def test_a_backup_of_an_earlier_version_comes_back(house, shelf, empty, monkeypatch):
    """Before the ledger's version 4 there were no people, and tables may get more columns."""
    whole = copy._tables
    with monkeypatch.context() as earlier:
        earlier.setattr(
            copy, "_tables", lambda: [t for t in whole() if t.name not in {"people", "audit"}]
        )
        made = backup.backup(house, shelf)
    assert "people" not in made.tables
    assert restore.restore(empty, shelf).digest == made.digest
    equal(house, empty)
    lines: list[bytes] = []
    only = {"aggregates": ["name", "fence"]}
    copy.dump(empty.ledger, lambda: lines.append, only)
    assert json.loads(lines[0]) == {"table": "aggregates", "columns": only["aggregates"]}
    assert [json.loads(line)[0] for line in lines[1:]] == empty.ledger.aggregates()


def test_runs_go_on_and_every_backup_is_one_state(house, tmp_path):
    """While another thread publishes, each backup holds whole snapshots, and none half."""
    stop, numbers = threading.Event(), [0]

    def publish() -> None:
        while not stop.is_set():
            number = numbers[0]
            key = f"tables/busy/{number}/data"
            stat = house.store.put(key, str(number).encode() * 1000)
            digest = restore.digest_of(house.store, key)[0]
            item = {"role": "table", "key": key, "size": stat.size, "digest": digest}
            house.ledger.publish(
                Publication(
                    "tables/busy",
                    str(number),
                    f"tables/busy/{number}/",
                    {"objects": [item]},
                    Account(),
                )
            )
            from catchment.core.provenance import seal_all

            seal_all(house.store, house.ledger, "tables/busy")
            numbers[0] += 1

    writer = threading.Thread(target=publish)
    shelf = open_store((tmp_path / "busy").as_uri())
    writer.start()
    try:
        made = [backup.backup(house, shelf) for _ in range(3)]
    finally:
        stop.set()
        writer.join()
    counts = []
    for number, one in enumerate(made):
        assert one.wrong == []
        with Workspace.open(_empty(tmp_path / f"b{number}"), SETTINGS) as workspace:
            restore.restore(workspace, shelf, one.name)
            Observer(workspace).all()
            counts.append(len(workspace.ledger.snapshots("tables/busy")))
            sealed = list(read_all(workspace.store, "tables/busy/"))
            assert len(sealed) in {counts[-1], counts[-1] - 1}
    assert counts == sorted(counts)
    assert counts[-1] > 0


def test_a_damaged_workspace_says_so_and_is_mended_from_its_backup(house, shelf):
    made = backup.backup(house, shelf)
    latest = house.ledger.latest("tables/main")
    lost, cut = [item["key"] for item in latest.provenance["objects"]][:2]
    seal = f"{latest.location}provenance.json"
    house.store.delete(lost)
    house.store.put(cut, b"?" * house.store.head(cut).size, mode="overwrite")
    house.store.put(seal, b"{}", mode="overwrite")
    worse = backup.backup(house, shelf)
    assert {line.split(":")[0] for line in worse.wrong} == {lost, cut}
    shallow = {c.what for c in examine(house) if not c.well}
    assert shallow == {"tables/main", f"object of tables/main {latest.number}"}
    found = list(examine(house, deep=True, backup=shelf))
    assert len([c for c in found if not c.well]) == 3
    assert len(mend(found)) == 3
    assert all(c.well for c in examine(house, deep=True))
    again = backup.backup(house, shelf)  # the ledger tells of one more holder of each lease
    assert (again.wrong, again.objects) == ([], made.objects)
    house.store.delete(lost)
    nowhere = open_store((Path(str(house.file.parent)) / "nowhere").as_uri())
    assert "not mended" in mend(list(examine(house, deep=True, backup=nowhere)))[0]


@pytest.mark.parametrize("below", ["", "/backups"])
def test_a_backup_does_not_lie_in_what_it_saves(house, below):
    with pytest.raises(Invalid) as error:
        backup.backup(house, open_store(f"{house.store.url}{below}"))
    assert error.value.kind == "backup-inside"


def test_nor_does_it_by_a_link(house, tmp_path):
    (tmp_path / "elsewhere").symlink_to(house.store.root)
    with pytest.raises(Invalid) as error:
        backup.backup(house, open_store((tmp_path / "elsewhere/backups").as_uri()))
    assert error.value.kind == "backup-inside"


def test_the_commands(home, tmp_path, capsys):
    url = (tmp_path / "shelf").as_uri()

    def call(*arguments: str, code: int = 0) -> object:
        assert main.run([*arguments, "--json"]) == code
        return json.loads(capsys.readouterr().out or "null")

    told = call("-w", str(home), "backup", url)
    assert told["wrong"] == []
    (one,) = call("-w", str(home), "backup", url, "--list")
    assert one["digest"] == told["digest"]
    assert call("-w", str(home), "backup", url, "--check")["wrong"] == []
    fresh = _empty(tmp_path / "fresh")
    back = call("-w", str(fresh), "restore", url, "--name", told["name"])
    assert back["equal"] is True
    assert call("-w", str(fresh), "doctor", "--deep")["mended"] == []
    store = open_store(url)
    digest = backup_shelf.read(store).parts[0]
    store.put(backup_shelf.key_of(digest), b"", mode="overwrite")
    call("-w", str(home), "backup", url, "--check", code=1)
    assert main.run(["-w", str(home), "backup", url]) in {0, 6}
    nothing = _empty(tmp_path / "nothing")
    assert main.run(["-w", str(nothing), "backup", url]) == 3
    assert main.run(["-w", str(nothing), "restore", (tmp_path / "none").as_uri()]) == 3


def test_an_object_that_never_holds_still_stops_the_backup(house, shelf):
    """A large object is read twice; it must be the same bytes."""
    house.store.put("tables/large", bytes(backup_shelf.WHOLE + 1))
    real = house.store

    class Restless:
        url, count = real.url, 0

        def __getattr__(self, name):
            return getattr(real, name)

        def stream(self, key, **options):
            self.count += 1
            if key == "tables/large":
                return iter([str(self.count).encode()])
            return real.stream(key, **options)

    vars(house)["store"] = Restless()
    with pytest.raises(Conflict) as error:
        backup.backup(house, shelf)
    assert error.value.kind == "object-moving"
    assert backup_shelf.backups(shelf) == []
    assert isinstance(error.value, CatchmentError)

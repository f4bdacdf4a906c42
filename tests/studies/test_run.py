"""A study over time: uploads beside each other, withdrawals, rollbacks, new rules; and what it costs."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from catchment.core.errors import Conflict, Corrupt, Invalid, NotFound, Unavailable
from catchment.studies import (
    actions,
    blocks,
    capability,
    catalog,
    layout,
    library,
    process,
    quality,
    run,
    scan,
)
from catchment.studies.model import Staged
from catchment.testing.studies import cube, make_people, parquet, study_zip
from tests.studies.studying import (
    CUBE,
    below,
    codes,
    model,
    package,
    published,
    send,
    send_cube,
    send_zip,
    stage,
    state_of,
    table,
    whole,
    workspace,
)

OTHER = table((9, None, None), (9, "f", "x"))


def test_a_re_upload_replaces_its_own_part_only_and_the_old_file_is_archived(space):
    """Failures 1 and 15: names that hold other names; superseded files."""
    sites = {"boston_childrens": CUBE, "boston_childrens_rdw": OTHER}
    for site, content in sites.items():
        send_cube(space, site, content)
    sites["boston_childrens"] = table((1, "m", None))
    assert send_cube(space, "boston_childrens", sites["boston_childrens"]).accepted
    assert published(space) == model(sites)
    (old,) = below(space, "archive/")
    assert old.startswith("archive/core/core__count/boston_childrens/000/2")
    assert space.store.read(old) == parquet(CUBE)
    assert len(below(space, "last_valid/")) == 2
    assert below(space, "latest/") == below(space, "site_upload/") == []
    whole(space)


def test_a_bad_file_stops_nobody_and_says_why(space):
    """Failures 6, 7 and 16."""
    send_cube(space, "a", CUBE)
    text = parquet(pa.table({"cnt": ["60"], "sex": ["f"], "race": ["x"]}))
    members = {"core__count.cube.parquet": text, "core__other.cube.parquet": parquet(OTHER)}
    done = send_zip(space, "b", members)
    assert [(f.accepted, f.state) for f in done.files] == [(False, "error"), (True, "last_valid")]
    assert published(space) == model({"a": CUBE})
    assert published(space, "other") == model({"b": OTHER})
    (reason,) = [key for key in below(space, "error/") if key.endswith(".json")]
    told = json.loads(space.store.read(reason))
    assert (told["code"], told["site"], told["study"]) == ("cube-count-type", "b", "core")
    assert datetime.fromisoformat(told["time"]).tzinfo is not None


def test_a_crafted_study_or_name_reaches_no_other_folder(space):
    """Failure 10."""
    for bad in ("../b", "core/b", "Core", "a__b"):
        with pytest.raises(Invalid):
            send_cube(space, "a", CUBE, study=bad)
    with pytest.raises(Invalid):
        library.submit(space, "../b", "core", 0, "x.zip", "upload_staging/x", "u", "t")
    assert below(space, "studies/") == []


def test_sites_that_upload_at_once_all_count(tmp_path):
    """Failures 2 and 3."""
    sites = {f"site{n}": table((n + 1, None, None), (n + 1, "f", None)) for n in range(12)}
    with workspace(tmp_path) as space:

        def upload(site):
            with workspace(tmp_path) as own:
                return send_cube(own, site, sites[site], tx=f"at-once-{site}").accepted

        with ThreadPoolExecutor(6) as pool:
            assert all(pool.map(upload, sites))
        assert published(space) == model(sites)
        assert state_of(space) == {"last_valid": 12}
        # Those that came while one merged were merged together.
        assert library.catalog(space, "core").snapshot <= 12
        whole(space)


def test_a_manifest_that_names_what_never_came_breaks_nothing(space):
    """Failure 14."""
    text = '[export_config]\ncount_list = ["core__never_uploaded"]\n'
    assert send(space, "a", study_zip("core", {"count": CUBE}, manifest=text)).accepted
    assert [one.name for one in library.packages(space)] == ["count"]


def test_a_site_is_withdrawn_from_all_packages(space):
    for site in ("a", "b"):
        send(space, site, study_zip("core", {"count": CUBE, "other": OTHER}))
    house = library.house(space)
    planned = actions.withdraw(house, "core", "a", dry_run=True)
    assert (planned.state, len(planned.plan.moves)) == ("planned", 4)
    assert published(space) == model({"a": CUBE, "b": CUBE})
    done = actions.withdraw(house, "core", "a")
    assert done.state == "published"
    assert published(space) == model({"b": CUBE})
    assert published(space, "other") == model({"b": OTHER})
    assert [m.owner for m in library.manifests(space)] == ["b"]
    assert [p.site for p in library.periods(space)] == ["b"]
    assert {(t.site, t.deleted is not None) for t in library.times(space)} == {
        ("a", True),
        ("b", False),
    }
    with pytest.raises(NotFound, match="a has nothing in core"):
        actions.withdraw(house, "core", "a")
    actions.withdraw(house, "core")
    assert library.packages(space) == []
    assert (
        below(space, "aggregates/")
        == below(space, "csv_aggregates/")
        == below(space, "last_valid/")
        == []
    )
    with pytest.raises(NotFound, match="there is nothing in core"):
        actions.withdraw(house, "core")
    # It may come again.
    send_cube(space, "a", CUBE)
    assert published(space) == model({"a": CUBE})
    assert (
        next(t for t in library.times(space) if (t.site, t.package) == ("a", "count")).deleted
        is None
    )
    whole(space)


def test_a_rollback_brings_back_what_was(space):
    send_cube(space, "a", CUBE)
    send_cube(space, "b", OTHER)
    wanted = package(space)
    number = library.catalog(space, "core").snapshot
    send_cube(space, "a", OTHER)
    send_cube(space, "c", OTHER)
    send_zip(space, "c", {"manifest.toml": b"a = 1"})
    house = library.house(space)
    planned = actions.rollback(house, "core", number, dry_run=True)
    assert planned.state == "planned"
    actions.rollback(house, "core", number)
    assert package(space).released == wanted.released
    assert published(space) == model({"a": CUBE, "b": OTHER})
    assert library.manifests(space) == []
    assert actions.rollback(house, "core", number).state == "unchanged"
    with pytest.raises(NotFound):
        actions.rollback(house, "core", 99)
    whole(space)


def test_reprocessing_makes_the_same_again(space):
    send_cube(space, "a", CUBE)
    send(space, "b", b"not a cube", name="core__count.cube.parquet")
    before = package(space)
    for key in [k for k in below(space, "studies/core/") if "/merges/" in k or "/parts/" in k]:
        space.store.delete(key)
    house = library.house(space)
    assert actions.reprocess(house, "core", dry_run=True).state == "planned"
    done = actions.reprocess(house, "core", refused=True)
    assert done.state == "published"
    assert package(space) == before
    assert state_of(space) == {"last_valid": 1, "error": 1}
    whole(space)


def test_what_another_writer_makes_lies_beside_what_was_there(space, monkeypatch):
    send_cube(space, "a", CUBE)
    was = {key: space.store.head(key).etag for key in below(space, "studies/core/parts/")}
    monkeypatch.setattr("catchment.studies.parquet.writer", lambda: "arrow-999")
    assert actions.reprocess(library.house(space), "core").state == "published"
    now = {key: space.store.head(key).etag for key in below(space, "studies/core/parts/")}
    parts = {key for key in was if key.endswith(".parquet")}
    assert parts
    assert {key: now[key] for key in parts} == {key: was[key] for key in parts}
    assert {key for key in now if key.endswith("arrow-999.parquet")}
    whole(space)


def test_what_is_found_bad_when_read_again_leaves(space, monkeypatch):
    send_cube(space, "a", CUBE)
    send_cube(space, "b", OTHER)
    send_zip(space, "a", {"manifest.toml": b"a = 1"})
    from catchment.studies import check

    real = check.check

    def stricter(store, key, digest, kind, package, parts, limits, site, **more):
        if site == "a":
            raise Invalid("not any more", kind="parquet-too-large")
        return real(store, key, digest, kind, package, parts, limits, site, **more)

    monkeypatch.setattr(check, "check", stricter)
    done = actions.reprocess(library.house(space), "core")
    assert [f.code for f in done.plan.findings()] == ["parquet-too-large"] * 2
    assert published(space) == model({"b": OTHER})
    assert library.manifests(space) == []


def test_new_rules_are_applied_to_what_is_there(tmp_path):
    with workspace(tmp_path) as space:
        send_cube(space, "a", cube(make_people(3, 40)))
        assert package(space).min_cell == 0
    with workspace(tmp_path, **{"studies.core.min_cell": 11}) as space:
        assert capability.run(space, "core").state == "published"
        assert package(space).min_cell == 11
        assert capability.run(space, "core").state == "unchanged"


def test_what_a_release_refuses_is_refused(space, monkeypatch):
    """And only in the package where it is."""
    send_cube(space, "a", CUBE)
    real = run.merge

    def picky(store, place, parts, policy, before=None, *, again=False):
        if place[1] == "count" and any(p.site == "b" for p in parts):
            raise Invalid("it is no cube", kind="bad-cube")
        return real(store, place, parts, policy, before, again=again)

    monkeypatch.setattr(run, "merge", picky)
    done = send(space, "b", study_zip("core", {"count": CUBE, "other": OTHER}))
    assert codes(done) == ["bad-cube"]
    assert published(space) == model({"a": CUBE})
    assert published(space, "other") == model({"b": OTHER})
    monkeypatch.setattr(
        run, "merge", lambda *_, **__: (_ for _ in ()).throw(Invalid("no", kind="no"))
    )
    with pytest.raises(Invalid):
        actions.reprocess(library.house(space), "core")
    (failed,) = space.ledger.runs("studies/core", state="failed")
    assert failed.error["kind"] == "no"


def test_the_site_is_told_what_changed_since_its_last_upload(space):
    send_cube(space, "a", table((50, None, None), (20, "f", None), (30, "m", None)))
    done = send_cube(space, "a", table((10, None, None), (10, "f", None), (2, "x", None)))
    (file,) = done.files
    assert sorted(codes(done)) == ["categories-vanished", "total-fell"]
    assert file.accepted
    assert file.quality["total"] == {"before": 50, "now": 10}
    assert file.quality["columns"]["sex"]["new"] == ["x"]
    assert file.quality["columns"]["sex"]["vanished"] == ["m"]
    assert "total 10, before 50" in quality.words(file.quality)
    assert "sex: new x; vanished m" in quality.words(file.quality)
    assert quality.words({}) == []
    same = {"rows": {"before": 2, "now": 2}, "total": {"before": 9, "now": 9}}
    column = {"distinct": {"before": 1, "now": 1}, "new": [], "vanished": []}
    assert quality.words(same | {"columns": {"sex": column}}) == ["as in the previous upload"]
    many = {"distinct": {"before": 1, "now": 5000}, "new": None, "vanished": None}
    some = column | {"new": [*range(12)]}
    assert quality.words(same | {"columns": {"a": many, "b": some}}) == [
        "a: 5,000 values, before 1", "b: new 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more",
    ]  # fmt: skip
    # Findings are read by more people than the site: they name no category.
    assert all("'m'" not in f.message for f in file.findings)
    assert (
        codes(send_cube(space, "a", table((11, None, None), (11, "f", None), (2, "x", None)))) == []
    )


def test_what_arrived_by_itself_is_found(space):
    key = stage(space, "a", parquet(CUBE), name="core__count.cube.parquet")
    space.store.put("upload_staging/core/a/zero/x.zip", b"")
    space.store.put("upload_staging/core/A/000/x.zip", b"")
    space.store.put("upload_staging/core/a/0/x.zip", b"")
    assert [one.key for one in scan.arrived(library.house(space))] == [key]
    planned = capability.run(space, "core", dry_run=True)
    assert (planned.state, planned.details) == (
        "planned",
        {"uploads": ["a/core__count.cube.parquet"]},
    )
    done = scan.scan(library.house(space))
    assert [u.accepted for u in done.uploads] == [True]
    assert published(space) == model({"a": CUBE})
    again = scan.scan(library.house(space))
    assert (again.uploads, again.outcomes["core"].state) == ([], "unchanged")
    outcome = capability.run(space, "core").to_json()
    assert outcome["state"] == "unchanged"
    assert [(f["code"], f["where"]) for f in outcome["findings"]] == [
        ("stray-upload", "upload_staging/core/A/000/x.zip"),
        ("stray-upload", "upload_staging/core/a/0/x.zip"),
        ("stray-upload", "upload_staging/core/a/zero/x.zip"),
    ]
    # Other bytes under the same key are another upload; so are the same ones, later.
    stage(space, "a", parquet(OTHER), name="core__count.cube.parquet")
    scan.scan(library.house(space), "core")
    assert published(space) == model({"a": OTHER})


def test_a_link_where_uploads_arrive_keeps_no_other_away(space, tmp_path):
    """It is never followed: what it leads to is not the site's."""
    key = stage(space, "a", parquet(CUBE), name="core__count.cube.parquet")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "x.zip").write_bytes(b"not the site's")
    place = space.store.path(key).parent
    (place / "b.zip").symlink_to(tmp_path / "secret" / "x.zip")
    (place.parent / "001").symlink_to(tmp_path / "secret")
    os.mkfifo(place / "c.zip")
    (place / ".part").write_bytes(b"what a copying program has not finished")
    done = scan.scan(library.house(space))
    assert [u.accepted for u in done.uploads] == [True]
    assert {k.rpartition("/")[2]: e.kind for k, e in done.failed.items()} == {
        "b.zip": "not-a-file", "c.zip": "not-a-file"
    }  # fmt: skip
    assert [f.where for f in done.strays] == ["upload_staging/core/a/001"]
    assert published(space) == model({"a": CUBE})


def test_a_scan_does_what_it_can(space, monkeypatch):
    send_cube(space, "a", CUBE)
    house = library.house(space)
    stage(space, "b", parquet(CUBE), name="core__count.cube.parquet")
    with space.ledger.holding("studies/core"):
        monkeypatch.setattr(
            process, "resume", lambda *_: (_ for _ in ()).throw(Unavailable("away"))
        )
        done = scan.scan(house)
        assert done.busy == ["core"]
        assert list(done.failed) == ["core/b"]
        with pytest.raises(Unavailable):
            capability.run(space, "core")
        monkeypatch.undo()
        monkeypatch.setattr(process, "unfinished", lambda _: iter(()))
        with pytest.raises(Conflict, match="another worker"):
            capability.run(space, "core")
    monkeypatch.undo()
    stage(space, "c", parquet(CUBE), name="core__count.cube.parquet")
    with monkeypatch.context() as patch:
        patch.setattr(process, "take_in", lambda *_: (_ for _ in ()).throw(Unavailable("full")))
        assert "full" in str(scan.scan(house).failed)
        patch.setattr(process, "take_in", lambda *_: (_ for _ in ()).throw(NotFound("gone")))
        assert scan.scan(house).failed == {}
        patch.setattr(run, "settle", lambda *_: (_ for _ in ()).throw(Unavailable("away")))
        assert list(scan.scan(house).failed) == ["core"]
        patch.setattr(
            run, "settle", lambda *_: (_ for _ in ()).throw(Conflict("x", kind="key-taken"))
        )
        with pytest.raises(Conflict):
            scan.scan(house)
    assert scan.scan(house).failed == {}
    assert published(space) == model(dict.fromkeys("abc", CUBE))


def test_an_upload_that_is_replaced_while_it_is_read_is_not_removed(space, monkeypatch):
    real = process._take

    def slow(house, staged):
        taken = real(house, staged)
        stage(space, "a", parquet(OTHER), name="core__count.cube.parquet")
        return taken

    monkeypatch.setattr(process, "_take", slow)
    key = stage(space, "a", parquet(CUBE), name="core__count.cube.parquet")
    staged = Staged("a", "core", 0, "core__count.cube.parquet", "u", "t1", key)
    process.submit(library.house(space), staged)
    monkeypatch.undo()
    assert published(space) == model({"a": CUBE})
    scan.scan(library.house(space))
    assert published(space) == model({"a": OTHER})

    def vanishes(house, staged):
        taken = real(house, staged)
        space.store.delete(staged.key)
        return taken

    monkeypatch.setattr(process, "_take", vanishes)
    assert send_cube(space, "a", CUBE).accepted


def test_a_worker_waits_for_the_one_that_holds_the_study(space, monkeypatch):
    calls = []
    real = run.settle

    def busy(house, study):
        calls.append(study)
        if len(calls) == 1:
            raise Conflict("held", kind="lease-held")
        if len(calls) == 2:
            return real(house, study)
        raise Conflict("other", kind="key-taken")

    monkeypatch.setattr(run, "settle", busy)
    assert send_cube(space, "a", CUBE).accepted
    with pytest.raises(Conflict, match="other"):
        send_cube(space, "b", CUBE, tx="later")
    monkeypatch.undo()
    scan.scan(library.house(space))
    assert library.uploads(space, "later", "b")[0].accepted


def test_one_sites_change_costs_about_that_site(space, monkeypatch):
    """The parts of the other sites are not read, nor checked."""
    for n in range(5):
        send_cube(space, f"s{n}", CUBE)
    reads = []
    real = blocks.Blocks.read

    def counted(self, types):
        reads.append(self.key.split("/")[-2])
        return real(self, types)

    monkeypatch.setattr(blocks.Blocks, "read", counted)
    send_cube(space, "s3", OTHER)
    assert reads == ["s3", "s3"]
    monkeypatch.undo()
    assert published(space) == model({f"s{n}": CUBE if n != 3 else OTHER for n in range(5)})
    number = library.catalog(space, "core").snapshot
    send_cube(
        space, "s3", OTHER
    )  # the same bytes: nothing is merged, and nothing moves for readers
    assert package(space).updated_at == library.packages(space)[0].updated_at
    assert library.catalog(space, "core").snapshot == number + 1


def test_a_catalog_that_is_damaged_is_not_believed(space):
    send_cube(space, "a", CUBE)
    snapshot = space.ledger.latest("studies/core")
    key = snapshot.location + "catalog.json"
    data = space.store.read(key)
    catalog._load.cache_clear()
    space.store.put(key, data + b" ", mode="overwrite")
    with pytest.raises(Corrupt):
        library.catalog(space, "core")
    space.store.delete(key)
    with pytest.raises(Corrupt):
        library.catalog(space, "core")
    space.store.put(key, data)
    assert library.catalog(space, "core").snapshot == 1


def test_what_a_site_was_told_stands_until_it_sends_again(space):
    """Others' uploads mend nothing of it."""

    def told():
        latest = space.ledger.latest("studies/core")
        return sorted((f.site, f.code) for f in space.ledger.findings(run=latest.run))

    send_cube(space, "a", CUBE)
    assert codes(send(space, "b", b"no file", name="core__count.cube.parquet")) != []
    (refused,) = told()
    assert refused[0] == "b"
    send_cube(space, "c", OTHER)
    assert told() == [refused]
    send_cube(space, "b", OTHER)
    assert told() == []


def test_orphans_are_what_no_snapshot_names(space):
    send_cube(space, "a", CUBE)
    send_cube(space, "a", OTHER)
    assert list(capability.orphans(space, grace=timedelta(0))) == []
    stray = layout.merges("core", "count", 0, "f" * 64) + "merged.parquet"
    space.store.put(stray, b"x")
    assert list(capability.orphans(space, grace=timedelta(hours=1))) == []
    assert list(capability.orphans(space, grace=timedelta(seconds=-9))) == [stray]
    for name in ("provenance.json", "uds/table.parquet"):  # somebody's, and whole
        space.store.put(f"{layout.snapshots('core')}20260101-000000/{name}", b"x")
    assert list(capability.orphans(space, grace=timedelta(seconds=-9))) == [stray]
    with space.ledger.holding("studies/core"):
        assert list(capability.orphans(space, grace=timedelta(seconds=-9))) == []


@pytest.mark.parametrize("rebuilt", [True, False], ids=["rebuilt", "learnt by the next run"])
def test_a_lost_ledger_is_told_by_the_store(tmp_path, rebuilt):
    from catchment.core.provenance import read_all

    with workspace(tmp_path) as space:
        send_cube(space, "a", CUBE)
        send(space, "b", b"bad", name="core__count.cube.parquet")
        send_cube(space, "a", OTHER)
        states = state_of(space)
    (tmp_path / "ledger.db").unlink()
    for more in tmp_path.glob("ledger.db-*"):
        more.unlink()
    with workspace(tmp_path) as space:
        if rebuilt:
            space.ledger.restore(read_all(space.store))
            assert published(space) == model({"a": OTHER})
            assert state_of(space) == states
        send_cube(space, "b", CUBE)
        assert published(space) == model({"a": OTHER, "b": CUBE})
        assert space.ledger.restore(read_all(space.store)) == 0


def test_the_clock_of_the_house_is_told(space):
    """Views of history carry the time of the move."""
    house = replace(
        library.house(space), clock=lambda: datetime(2030, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    )
    key = stage(space, "a", b"x", name="core__count.cube.parquet")
    process.submit(house, Staged("a", "core", 0, "core__count.cube.parquet", "u", "t", key))
    assert below(space, "error/")[0].endswith(
        "/000/2030-01-02T03:04:05.000006Z.core__count.cube.parquet"
    )


def test_one_transaction_is_not_two_versions(space):
    """What it brought is known by name and digest: the second would be taken for done."""
    assert send_cube(space, "a", CUBE, version=0, tx="t").accepted
    with pytest.raises(Conflict) as error:
        send_cube(space, "a", CUBE, version=1, tx="t")
    assert error.value.kind == "upload-taken"
    assert package(space, version=1) is None
    assert send_cube(space, "a", CUBE, version=1, tx="u").accepted
    assert published(space, version=1) == model({"a": CUBE})


def fails(*_, **__):
    raise RuntimeError


def test_a_merge_of_which_a_collection_took_a_part_is_made_again(space, monkeypatch):
    """The entry is the youngest object of a merge, and may outlive the grace time of the others."""
    send_cube(space, "a", CUBE)
    named = {one["key"] for one in space.ledger.latest("studies/core").provenance["objects"]}
    with monkeypatch.context() as patched:
        patched.setattr(run._Run, "_publication", fails)
        with pytest.raises(RuntimeError):
            send_cube(space, "b", OTHER)
    left = {key for key in below(space, layout.merges_of("core")) if "/entry-" not in key} - named
    assert left
    for key in left:
        space.store.delete(key)
    run.settle(library.house(space), "core")
    assert published(space) == model({"a": CUBE, "b": OTHER})
    whole(space)


@pytest.mark.parametrize("undone", ["withdraw", "rollback"])
def test_what_a_reprocess_that_died_left_waiting_is_withdrawn_all_the_same(
    space, monkeypatch, undone
):
    send_cube(space, "b", OTHER)
    send_cube(space, "a", CUBE)
    house = library.house(space)
    with monkeypatch.context() as patched:
        patched.setattr(run._Run, "_merge_all", fails)
        with pytest.raises(RuntimeError):
            actions.reprocess(house, "core")
    assert state_of(space) == {"latest": 2}
    if undone == "withdraw":
        actions.withdraw(house, "core", "a")
    else:
        actions.rollback(house, "core", 1)
    assert published(space) == model({"b": OTHER})
    run.settle(house, "core")
    assert published(space) == model({"b": OTHER})
    assert state_of(space) == {"archive": 1, "last_valid": 1}


def test_a_file_that_its_reader_falls_over_stops_nobody_in_threads_either(space, monkeypatch):
    """Else no site of the study would be merged any more, whatever it sends."""
    send_cube(space, "b", CUBE)
    strange = pa.array([1], pa.timestamp("ms", tz="+25:00"))  # of a zone that is none
    dates = parquet(pa.table({"min_date": strange, "max_date": strange}))
    refused = send(space, "a", dates, name="core__meta_date.meta.parquet")
    assert codes(refused) == ["meta-date-values"]

    def falls(*_):
        raise AttributeError("of a patient")

    with monkeypatch.context() as patch:
        patch.setattr("catchment.studies.check._manifest", falls)
        patch.setattr("catchment.studies.intake._bare", falls)
        asked = send(space, "a", b"x = 1", name="manifest.toml")
        patch.undo()
        patch.setattr("catchment.studies.check._manifest", falls)
        checked = send(space, "a", b"x = 1", name="manifest.toml")
    for upload in (asked, checked):
        assert codes(upload) == ["unreadable"]
        (told,) = [one.message for file in upload.files for one in file.findings]
        assert told == "the reader failed with AttributeError"
    assert send_cube(space, "b", OTHER).accepted
    assert published(space) == model({"b": OTHER})
    whole(space)

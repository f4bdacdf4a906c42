"""What arrives: every member accounted for, nothing hostile kept, nothing of line-level data at all."""

from __future__ import annotations

import io
import json
import stat
import struct
import zipfile

import pytest

from catchment.core.errors import Conflict, Invalid
from catchment.studies import intake, layout, route
from catchment.studies.intake import Bounds
from catchment.studies.model import Kind, State, check_move
from catchment.testing.studies import archive, parquet
from tests.studies.studying import CUBE, STUDY, below, codes, raw_zip, send, send_zip, stage, whole

GOOD = {f"{STUDY}__count.cube.parquet": parquet(CUBE)}
CANARY = b"MRN-0042-canary"


def everything(space) -> bytes:
    return b"".join(space.store.read(stat.key) for stat in space.store.list())


@pytest.mark.parametrize(
    ("name", "kind", "package", "code"),
    [
        ("core__count_x.cube.parquet", Kind.CUBE, "count_x", None),
        ("core__count_x.annotated_cube.parquet", Kind.CUBE, "count_x", None),
        ("core__q.flat.parquet", Kind.FLAT, "q", None),
        ("core__meta_date.meta.parquet", Kind.META, "meta_date", None),
        ("core__meta_version.parquet", Kind.META, "meta_version", None),
        ("discovery__code_sources.parquet", Kind.META, "code_sources", None),
        ("catalog__all_tables.parquet", Kind.META, "all_tables", None),
        ("manifest.toml", Kind.MANIFEST, "manifest", None),
        ("core__patients.archive.parquet", Kind.LINES, "", None),
        ("discovery__x.ARCHIVE.parquet", Kind.LINES, "", None),
        ("core__count.parquet", Kind.OTHER, "", "unknown-kind"),
        ("notes.txt", Kind.OTHER, "", "unknown-kind"),
        ("other__count.cube.parquet", Kind.CUBE, "", "other-study"),
        ("core_b__count.cube.parquet", Kind.CUBE, "", "other-study"),
        ("core__.cube.parquet", Kind.CUBE, "", "bad-name"),
        ("core__a__b.cube.parquet", Kind.CUBE, "", "bad-name"),
        ("core__none.flat.parquet", Kind.FLAT, "", "bad-name"),
    ],
)
def test_the_name_tells_the_way(name, kind, package, code):
    found = route.route(STUDY, name)
    assert (found.kind, found.package) == (kind, package)
    assert (found.problem and found.problem.code) == code


def test_a_zip_becomes_its_members_and_is_gone(space):
    done = send_zip(space, "a", GOOD | {"notes.txt": b"hello", "x__y.flat.parquet": b""})
    assert [(f.name, f.accepted) for f in done.files] == [
        ("core__count.cube.parquet", True), ("notes.txt", False), ("x__y.flat.parquet", False),
    ]  # fmt: skip
    assert codes(done) == ["unknown-kind", "other-study"]
    assert not done.accepted
    assert below(space, "upload_staging/") == []
    errors = below(space, "error/")
    assert len(errors) == 4  # each with its reason beside it
    told = json.loads(space.store.read(errors[1]))
    assert (told["code"], told["kept"], told["transaction"]) == (
        "unknown-kind",
        True,
        done.transaction,
    )
    whole(space)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(archive(GOOD | {"core__patients.archive.parquet": CANARY}), id="member"),
        pytest.param(archive(GOOD | {"core__p.Archive.PARQUET": CANARY}), id="upper case"),
        pytest.param(archive(GOOD | {"inner.zip": archive({"core__p.archive.parquet": CANARY})}), id="in a zip"),
        pytest.param(archive({"core__p.archive.parquet": CANARY}) + archive(GOOD), id="before the zip"),
        pytest.param(archive({"core__p.archive.parquet": CANARY})[:60], id="broken off"),
        pytest.param(archive(GOOD | {"notes.txt": b"core__p.archive.parquet " + CANARY}), id="in a text"),
    ],
)  # fmt: skip
def test_line_level_data_is_refused_together_and_kept_in_no_form(space, data):
    done = send(space, "a", data)
    assert codes(done) == ["line-level-refused"]
    (file,) = done.files
    assert (file.kind, file.accepted, file.state) == (Kind.UPLOAD, False, State.ERROR)
    assert below(space, "upload_staging/") == []
    assert CANARY not in everything(space)
    assert b"PAR1" not in everything(space)
    assert b"PK\x03\x04" not in everything(space)


def test_a_bare_file_of_lines_is_not_kept_either(space):
    done = send(space, "a", CANARY, name="core__p.archive.parquet")
    assert codes(done) == ["line-level-refused"]
    assert CANARY not in everything(space)
    (told,) = below(space, "error/")
    assert told.endswith(".core__p.archive.parquet.json")


def link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("core__count.cube.parquet")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def encrypted() -> bytes:
    """The flag only: nothing here can make such a zip."""
    data = bytearray(archive(GOOD))
    data[6] |= 1
    at = data.index(b"PK\x01\x02")
    data[at + 8] |= 1
    return bytes(data)


def lying() -> bytes:
    """A directory that tells a smaller size than there is."""
    data = bytearray(archive({"core__x.flat.parquet": b"0" * 5000}))
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 10)
    return bytes(data)


def twice() -> bytes:
    with pytest.warns(UserWarning, match="Duplicate name"):
        return raw_zip(("core__a.flat.parquet", b"1"), ("core__a.flat.parquet", b"2"))


def unusual() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_LZMA) as file:
        file.writestr("core__a.flat.parquet", b"1")
    return sink.getvalue()


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: archive({}), "zip-empty"),
        (lambda: b"", "zip-unreadable"),
        (lambda: archive(GOOD)[9:], "zip-unreadable"),
        (lambda: archive(GOOD)[:-30], "zip-unreadable"),
        (lambda: archive(GOOD)[:40] + b"x" * 9 + archive(GOOD)[49:], "zip-unreadable"),
        (encrypted, "zip-unreadable"),
        (lying, "zip-unreadable"),
        (unusual, "zip-unreadable"),
        (lambda: raw_zip((link(), b"/etc/passwd")), "zip-unreadable"),
        (lambda: archive({"../up.cube.parquet": b"1"}), "zip-bad-name"),
        (lambda: archive({"/etc/core__x.cube.parquet": b"1"}), "zip-bad-name"),
        (lambda: archive({"a\\b.toml": b"1"}), "zip-bad-name"),
        (lambda: archive({"core__ä.cube.parquet": b"1"}), "zip-bad-name"),
        (lambda: archive({"x" * 300: b"1"}), "zip-bad-name"),
        (lambda: archive({"A.toml": b"1", "a.toml": b"2"}), "zip-bad-name"),
        (twice, "zip-bad-name"),
        (lambda: archive({f"core__a{n}.flat.parquet": b"" for n in range(2001)}), "zip-too-large"),
        (lambda: archive({"core__a.flat.parquet": b"0" * (9 << 20)}), "zip-too-large"),
        (lambda: archive({"inner.toml": archive(GOOD)}), "zip-nested"),
    ],
)
def test_a_hostile_zip_is_refused_as_a_whole(space, make, code):
    before = send_zip(space, "b", GOOD)
    done = send(space, "a", make())
    assert codes(done) == [code], done
    assert done.files[0].kind is Kind.UPLOAD
    assert before.accepted
    assert below(space, "upload_staging/") == []
    assert below(space, "last_valid/core/core__count/a/") == []
    assert (below(space, "studies/core/kept/a/") == []) is (code == "zip-nested")
    whole(space)


def test_bounds_are_counted_while_bytes_come(space):
    key = stage(
        space, "a", archive({f"core__a{n}.flat.parquet": bytes([n]) * 100 for n in range(9)})
    )
    for bounds in (Bounds(total=500), Bounds(member=99), Bounds(members=8)):
        found = intake.take_in(
            space.store, key, study=STUDY, site="a", filename="u.zip", bounds=bounds
        )
        assert found.members[0].problem.code == "zip-too-large"
    found = intake.take_in(
        space.store, key, study=STUDY, site="a", filename="u.zip", bounds=Bounds(upload=9)
    )
    assert (found.members[0].problem.code, found.members[0].kept) == ("upload-too-large", None)
    found = intake.take_in(space.store, key, study=STUDY, site="a", filename="u.zip")
    assert len(found.members) == 9
    assert found == intake.take_in(space.store, key, study=STUDY, site="a", filename="u.zip")


def test_a_reader_that_dies_is_told(space):
    from catchment.studies.model import Problem

    key = stage(space, "a", archive(GOOD))
    problem = Problem("reader-memory", "more than there is", "")
    found = intake.refuse(
        space.store, key, study=STUDY, site="a", filename="u.zip", problem=problem
    )
    assert found.members[0].kept == layout.kept(STUDY, "a", found.digest)
    key = stage(space, "a", archive({"x.archive.parquet": CANARY}))
    found = intake.refuse(
        space.store, key, study=STUDY, site="a", filename="u.zip", problem=problem
    )
    assert found.members[0].kept is None


@pytest.mark.parametrize("name", ["a__b", "a_", "A", "", "none", "../x", "\uff41", "a/b", "x" * 64])
def test_a_name_that_could_be_another_is_none(name):
    with pytest.raises(Invalid) as error:
        layout.check_part(name, "site")
    assert error.value.kind == "bad-name"


def test_keys_are_built_of_checked_parts():
    assert (
        layout.staging("core", "a_b", 7, "u_core.zip") == "upload_staging/core/a_b/007/u_core.zip"
    )
    assert layout.released("core", "n", 12, csv=True) == (
        "csv_aggregates/core/core__n/core__n__012/core__n__aggregate.csv"
    )
    for bad in (
        lambda: layout.staging("core", "a", 0, "../x"),
        lambda: layout.staging("core", "../b", 0, "x"),
        lambda: layout.staging("core", "a", -1, "x"),
        lambda: layout.check_version(10**6),
        lambda: layout.check_transaction("a/b"),
        lambda: layout.check_transaction(""),
    ):
        with pytest.raises(Invalid):
            bad()


def test_the_table_of_states_is_the_law():
    check_move(State.RECEIVED, State.LATEST)
    with pytest.raises(Exception, match="in error cannot become last_valid") as error:
        check_move(State.ERROR, State.LAST_VALID)
    assert error.value.kind == "bad-move"


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("core__count.cube.parquet", parquet(CUBE), parquet(CUBE.slice(0, 1))),
        ("u_core.zip", b"PK\x03\x04 no zip at all, kept as it is", b"PK\x03\x04 another one"),
    ],
)
def test_bytes_that_are_replaced_while_they_are_looked_at_are_looked_at_again(
    space, monkeypatch, name, first, second
):
    """Else others would be kept under the digest of the first."""
    key = stage(space, "a", first, name=name)
    scan = intake._scan

    def replaced(store, key):
        told = scan(store, key)
        store.put(key, second, mode="overwrite")
        return told

    monkeypatch.setattr(intake, "_scan", replaced)
    with pytest.raises(Conflict) as error:
        intake.take_in(space.store, key, study="core", site="a", filename=name)
    assert error.value.kind == "upload-moved"
    assert below(space, layout.INTERNAL) == []
    taken = intake.take_in(space.store, key, study="core", site="a", filename=name)
    assert [below(space, layout.INTERNAL)] == [[one.kept] for one in taken.members]


@pytest.mark.parametrize("size", [1, 5, 17, 100])
def test_line_level_names_are_found_however_the_bytes_come(space, monkeypatch, size):
    """A store may give bytes in chunks that are shorter than the name is."""
    hidden = b"PK\x03\x04 crafted " + b"x" * 50 + b"core__p.archive.parquet" + CANARY
    key = stage(space, "a", hidden)
    stream = type(space.store).stream

    def slowly(self, *args, **named):
        for chunk in stream(self, *args, **named):
            yield from (chunk[at : at + size] for at in range(0, len(chunk), size))

    monkeypatch.setattr(type(space.store), "stream", slowly)
    (one,) = intake.take_in(space.store, key, study="core", site="a", filename="u_core.zip").members
    assert (one.problem.code, one.kept) == ("line-level-refused", None)
    assert below(space, layout.INTERNAL) == []

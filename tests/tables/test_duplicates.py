from __future__ import annotations

import io
import json
import tempfile
import tracemalloc
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catchment.core.errors import Invalid, Unavailable
from catchment.core.finding import Finding, Severity
from catchment.core.store import open_store
from catchment.tables import duplicates, keys, repeated
from catchment.tables.criteria import check_criteria, read_criteria
from catchment.tables.duplicates import Candidates, Decision, decide, find, is_naccid
from catchment.tables.keys import scan
from catchment.tables.model import Center, CriteriaRule, OnDuplicate, Rule, TransferRule

ALPHA, BETA, ZERO = Center("alpha", 10, "A"), Center("beta", 20, "B"), Center("zero", 0, "Z")
ANNA, BERT, CARL = "NACC000001", "NACC000002", "NACC000003"
TYPES = {
    "naccid": pa.string(),
    "visitdate": pa.timestamp("us"),
    "packet": pa.float64(),
    "value": pa.int64(),
}
VISIT = CriteriaRule(("naccid", "visitdate"), OnDuplicate.ACTIVE_ONLY)
MODES = st.sampled_from(OnDuplicate)


def blob_of(table: pa.Table, rule: Rule, **options) -> bytes:
    store = open_store(f"memory://{uuid.uuid4()}")
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    store.put("k", file.getvalue())
    return scan(store, "k", rule, TYPES)


def found(files: list[tuple[Center, dict]], rule: Rule, mode: str = "prod") -> Candidates:
    blobs = [blob_of(pa.table(columns), rule) for _, columns in files]
    return find("uds", rule, [center for center, _ in files], blobs.__getitem__, mode=mode)


def decided(
    files: list[tuple[Center, dict]], rule: Rule, mode: str = "prod", **current: set[int]
) -> Decision:
    candidates = found(files, rule, mode)
    return decide(candidates, {name: frozenset(c) for name, c in current.items()})


def gone(decision: Decision) -> list[dict[int, str]]:
    """The reason of each row that goes, by file; and that each has one, in order, with its fate."""
    fates = {reason.slug: reason.fate for reason in duplicates.REASONS}
    files = []
    for removals in decision.removals:
        rows = {row: r.reason for r in removals for row in r.rows}
        assert len(rows) == sum(len(r.rows) for r in removals)
        assert all(r.rows == tuple(sorted(r.rows)) for r in removals)
        assert all(r.rows and r.fate is fates[r.reason] for r in removals)
        files.append(rows)
    assert decision.counts == Counter(reason for rows in files for reason in rows.values())
    return files


def codes(decision: Decision) -> list[tuple[str, str]]:
    return [(f.site, f.code) for f in decision.findings]


# --- the cases of the reference ------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("one_file", [True, False])
def test_cases_of_the_reference(shared, order, one_file):
    cases = json.loads((shared / "cases/tables.json").read_text())["cases"]
    assert len(cases) >= 6
    for case in cases:
        data = {"uds": {"criteria": case["criteria"], "on_duplicate": case["on_duplicate"]}}
        rule = read_criteria(json.dumps(data), "criteria.json")["uds"]
        rows = case["rows"][::order]
        parts = [rows] if one_file else [[row] for row in rows]
        files = []
        for part in parts:
            columns = dict(zip(case["columns"], zip(*part, strict=True), strict=True))
            columns["visitdate"] = [date.fromisoformat(d) for d in columns["visitdate"]]
            files.append((ALPHA, columns))
        current = {
            naccid: {e["adcid"] for e in entries if e["active"]}
            for naccid, entries in case["identifiers"].items()
        }
        removed = gone(decided(files, rule, **current))
        kept = [
            row
            for part, rows_gone in zip(parts, removed, strict=True)
            for i, row in enumerate(part)
            if i not in rows_gone
        ]
        assert sorted(kept) == sorted(case["expected_kept_rows"]), case["id"]


# --- the transfer rule -----------------------------------------------------------------------------


def test_rows_of_a_transferred_participant_stay_at_the_current_center_only():
    files = [
        (ALPHA, {"naccid": [ANNA, BERT, ANNA, None], "adcid": [10, 10, 10, 10]}),
        (BETA, {"naccid": [CARL, ANNA, None], "adcid": [20, 20, 20]}),
    ]
    candidates = found(files, TransferRule())
    assert candidates.participants == {ANNA}
    decision = decide(candidates, {ANNA: frozenset({20}), BERT: frozenset({20})})
    assert gone(decision) == [{0: "transferred", 2: "transferred"}, {}]
    assert decision.findings == ()


def test_the_center_of_a_row_is_its_own_number_and_else_the_sender():
    files = [
        (ZERO, {"naccid": [ANNA, ANNA, ANNA], "adcid": [10, None, 0]}),
        (ALPHA, {"naccid": [BERT]}),
    ]
    decision = decided(files, TransferRule(), **{ANNA: {0}})
    assert gone(decision) == [{0: "transferred"}, {}]
    assert gone(
        decided(
            [(ZERO, {"naccid": [ANNA]}), (ALPHA, {"naccid": [ANNA]})],
            TransferRule(),
            **{ANNA: {10}},
        )
    ) == [{0: "transferred"}, {}]


def test_several_files_of_one_center_are_no_transfer():
    files = [(ALPHA, {"naccid": [ANNA, BERT]}), (ALPHA, {"naccid": [BERT, ANNA]})]
    assert found(files, TransferRule()).participants == frozenset()
    assert gone(decided(files, TransferRule())) == [{}, {}]


@pytest.mark.parametrize(
    ("current", "reason"),
    [
        (set(), "no-current-center"),
        ({10, 20}, "several-current-centers"),
        ({30}, "current-center-absent"),
    ],
)
def test_rows_are_quarantined_where_no_center_has_them_now(current, reason):
    files = [
        (ALPHA, {"naccid": [ANNA, BERT]}),
        (BETA, {"naccid": [ANNA, CARL]}),
        (BETA, {"naccid": [ANNA]}),
    ]
    decision = decided(files, TransferRule(), **{ANNA: current})
    assert gone(decision) == [{0: reason}, {0: reason}, {0: reason}]
    assert [(f.site, f.severity, f.code, f.where) for f in decision.findings] == [
        ("alpha", Severity.WARNING, reason, "uds"),
        ("beta", Severity.WARNING, reason, "uds"),
    ]
    assert [f.message.split()[0] for f in decision.findings] == ["1", "2"]
    assert ANNA not in repr(decision.findings)


@pytest.mark.parametrize(
    ("naccid", "mode"),
    [
        ("TEST000001", "prod"),
        ("NACC000001", "dev"),
        ("NACC00001", "prod"),
        ("NACC0000001", "prod"),
        ("nacc000001", "prod"),
        ("NACC000001 ", "prod"),
        ("NACC000001\n", "prod"),
        ("NACC00000\u0661", "prod"),
        ("", "prod"),
    ],
)
def test_what_is_no_naccid_of_the_mode_is_never_asked_for(naccid, mode):
    files = [(ALPHA, {"naccid": [naccid]}), (BETA, {"naccid": [naccid, naccid]})]
    candidates = found(files, TransferRule(), mode)
    assert candidates.participants == frozenset()
    decision = decide(candidates, {})
    assert gone(decision) == [{0: "malformed-naccid"}, dict.fromkeys((0, 1), "malformed-naccid")]
    assert codes(decision) == [("alpha", "malformed-naccid"), ("beta", "malformed-naccid")]
    alone = [(ALPHA, {"naccid": [naccid, naccid]})]
    assert gone(decided(alone, TransferRule(), mode)) == [{}]


def test_naccids_of_each_mode():
    assert is_naccid("NACC123456", "prod")
    assert is_naccid("TEST123456", "dev")


def test_an_unknown_participant_stops_the_run():
    files = [
        (ALPHA, {"naccid": [ANNA, BERT, CARL]}),
        (BETA, {"naccid": [ANNA, ANNA, BERT]}),
        (ZERO, {"naccid": [CARL]}),
    ]
    with pytest.raises(Invalid) as caught:
        decided(files, TransferRule(), **{CARL: {0}})
    assert caught.value.kind == "unknown-naccid"
    assert "2 of 3 participants" in caught.value.message
    assert "alpha 2, beta 2" in caught.value.message
    assert "zero" not in caught.value.message
    assert "NACC0" not in f"{caught.value.message} {caught.value.hint}"
    assert "register them" in caught.value.hint
    with pytest.raises(Invalid) as caught:  # a service that is another one
        decided(files, TransferRule())
    assert "URL" in caught.value.hint


# --- the criteria rule -------------------------------------------------------------------------------


def test_only_duplicate_rows_of_centers_that_are_not_current_go():
    files = [
        (ALPHA, {"naccid": [ANNA, ANNA, BERT], "visitdate": [date(2020, 1, 1), date(2021, 1, 1), date(2021, 1, 1)]}),
        (BETA, {"naccid": [ANNA], "visitdate": [date(2021, 1, 1)]}),
    ]  # fmt: skip
    candidates = found(files, VISIT)
    assert candidates.participants == {ANNA}
    assert gone(decide(candidates, {ANNA: frozenset({20})})) == [{1: "duplicate"}, {}]
    assert gone(decide(candidates, {ANNA: frozenset({10})})) == [{}, {0: "duplicate"}]


def test_a_visit_that_the_current_center_lacks_is_not_lost():
    days = {"visitdate": [date(2021, 1, 1)]}
    files = [(ALPHA, {"naccid": [ANNA]} | days), (BETA, {"naccid": [ANNA]} | days)]
    decision = decided(files, VISIT, **{ANNA: {0}})
    assert gone(decision) == [{0: "current-center-absent"}, {0: "current-center-absent"}]


def test_a_duplicate_without_a_participant_is_quarantined():
    rule = CriteriaRule(("visitdate",), OnDuplicate.ACTIVE_ONLY)
    days = {"visitdate": [date(2021, 1, 1)]}
    files = [(ALPHA, {"naccid": [ANNA]} | days), (BETA, {"naccid": [None]} | days)]
    decision = decided(files, rule, **{ANNA: {10}})
    assert gone(decision) == [{}, {0: "missing-naccid"}]
    assert codes(decision) == [("beta", "missing-naccid")]


@pytest.mark.parametrize("mode", OnDuplicate)
def test_same_center_duplicates_are_kept_and_reported_in_every_mode(mode):
    day = date(2021, 1, 1)
    files = [
        (ALPHA, {"naccid": [ANNA, ANNA, BERT], "visitdate": [day] * 3}),
        (ALPHA, {"naccid": [ANNA, CARL], "visitdate": [day] * 2}),
        (BETA, {"naccid": [BERT], "visitdate": [date(2022, 1, 1)]}),
    ]
    candidates = found(files, CriteriaRule(("naccid", "visitdate"), mode))
    assert candidates.participants == frozenset()
    decision = decide(candidates, {})
    assert gone(decision) == [{}, {}, {}]
    (note,) = decision.findings
    assert (note.site, note.severity, note.code) == (
        "alpha",
        Severity.NOTE,
        "same-center-duplicates",
    )
    assert note.message.startswith("3 rows share 1 key with")


def test_repeats_at_the_current_center_are_kept_and_reported():
    days = {"visitdate": [date(2021, 1, 1)] * 2}
    files = [(ALPHA, {"naccid": [ANNA, ANNA]} | days), (BETA, {"naccid": [ANNA, ANNA]} | days)]
    decision = decided(files, VISIT, **{ANNA: {20}})
    assert gone(decision) == [{0: "duplicate", 1: "duplicate"}, {}]
    assert codes(decision) == [("beta", "same-center-duplicates")]


def test_a_rule_without_criteria_reads_nothing():
    def unread(index: int) -> bytes:
        raise AssertionError(index)

    decision = decide(find("uds", CriteriaRule(()), [ALPHA], unread), {})
    assert decision == Decision(((),), (), {})
    for rule in (TransferRule(), VISIT):
        assert decide(find("uds", rule, [], unread), {}) == Decision((), (), {})


def test_keys_that_only_meet_by_half_of_the_hash_are_different():
    blob = blob_of(pa.table({"naccid": [ANNA, BERT], "value": [1, 2]}), CriteriaRule(("value",)))
    header = keys._HEADER.unpack_from(blob)
    first = blob[: keys._HEADER.size + header[1]]
    rows = pa.table(
        {
            "pair": pa.array([0, 1, 0], pa.int32()),
            "low": pa.array([5, 5, 5], pa.uint64()),
            "high": pa.array([1, 2, 1], pa.uint64()),
            "row": pa.array([0, 1, 2], pa.uint32()),
        }
    )
    made = first + keys._stream(rows)
    candidates = find("uds", CriteriaRule(("value",)), [ALPHA, BETA], [blob, made].__getitem__)
    assert candidates.rows.row.tolist() == [0, 2]
    one = find("uds", CriteriaRule(("value",)), [ALPHA], [made].__getitem__)
    assert one.rows.row.tolist() == [0, 2]


# --- against a model -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A row as a site means it: a date and a number, however they are written."""

    naccid: str | None
    adcid: int | None
    day: int | None
    packet: int | None


@dataclass(frozen=True)
class File:
    """A file, and how the site writes it."""

    center: Center
    rows: tuple[Row, ...]
    day_type: pa.DataType
    packet_type: pa.DataType
    adcid_type: pa.DataType
    naccid_type: pa.DataType
    row_group_size: int

    def table(self) -> pa.Table:
        rows, day, packet = self.rows, self.day_type, self.packet_type
        days = pa.array([r.day for r in rows], pa.int32()).cast(pa.date32()).cast(day)
        columns = {
            "packet": _column([r.packet for r in rows], packet),
            "visitdate": days,
            "naccid": pa.array([r.naccid for r in rows], pa.string()).cast(self.naccid_type),
            "adcid": _column([r.adcid for r in rows], self.adcid_type),
        }
        missing = {"packet": packet, "adcid": self.adcid_type}
        return pa.table({k: v for k, v in columns.items() if missing.get(k) != pa.null()})


def _column(values: list, kind: pa.DataType) -> pa.Array:
    if pa.types.is_float32(kind):  # as pandas writes missing numbers
        return pa.array([float("nan") if v is None else v for v in values], kind)
    return pa.array(values).cast(kind) if kind != pa.null() else pa.nulls(len(values))


PEOPLE = [ANNA, BERT, CARL, "TEST000001", "NACC1", None]
CENTERS = [ZERO, ALPHA, BETA]
ROWS = st.builds(
    Row,
    st.sampled_from(PEOPLE),
    st.sampled_from([None, 0, 10, 20]),
    st.sampled_from([None, 18000, 18001]),
    st.sampled_from([None, 0, 1]),
)
FILES = st.builds(
    File,
    st.sampled_from(CENTERS),
    st.lists(ROWS, max_size=8).map(tuple),
    st.sampled_from([pa.date32(), pa.timestamp("s"), pa.timestamp("us")]),
    st.sampled_from([pa.int8(), pa.int64(), pa.float64(), pa.float32(), pa.null()]),
    st.sampled_from([pa.int16(), pa.int64(), pa.float32(), pa.string(), pa.null()]),
    st.sampled_from([pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]),
    st.sampled_from([1, 3, 100]),
)
CURRENT = st.fixed_dictionaries(
    {n: st.frozensets(st.sampled_from([0, 10, 20, 30]), max_size=2) for n in (ANNA, BERT, CARL)}
)
RULES = st.one_of(
    st.just(TransferRule()),
    st.builds(
        CriteriaRule,
        st.sampled_from(
            [("naccid", "visitdate"), ("naccid", "visitdate", "packet"), ("packet",), ("adcid", "packet")]
        ),
        MODES,
    ),
)  # fmt: skip
TYPES["adcid"] = pa.float64()


@cache
def blob_of_file(file: File, rule: Rule) -> bytes:
    return blob_of(file.table(), rule, row_group_size=file.row_group_size)


def keyed(files: list[File], rule: Rule) -> Iterator[list[tuple[int, int, str | None, int]]]:
    """File, row, participant and center of the rows of each key."""
    groups = defaultdict(list)
    for f, file in enumerate(files):
        for r, row in enumerate(file.rows):
            packet = None if file.packet_type == pa.null() else row.packet
            adcid = None if file.adcid_type == pa.null() else row.adcid
            values = {"naccid": row.naccid, "visitdate": row.day, "packet": packet, "adcid": adcid}
            columns = ("naccid",) if isinstance(rule, TransferRule) else rule.criteria
            key = tuple(values[c] for c in columns)
            if None not in key:
                center = file.center.adcid if adcid is None else adcid
                groups[key].append((f, r, row.naccid, center))
    yield from groups.values()


def fate(naccid: str | None, center: int, homes: frozenset[int] | None, moved: str) -> str | None:
    """Why a row of a key that several centers sent goes; None if it stays."""
    if naccid is None:
        return "missing-naccid"
    if homes is None:
        return "malformed-naccid"
    if len(homes) != 1:
        return "several-current-centers" if homes else "no-current-center"
    return None if homes == {center} else moved


def model(
    files: list[File], rule: Rule, current: dict[str, frozenset[int]]
) -> tuple[list[dict[int, str]], Counter, set[str]]:
    """The same decision in plain words: reasons by file, repeats kept by site, whom to ask for."""
    gone = [{} for _ in files]
    repeats, asked = Counter(), set()
    transfer = isinstance(rule, TransferRule)
    for members in keyed(files, rule):
        apart = len({center for *_, center in members}) > 1
        moved = "transferred" if transfer else "duplicate"
        if not any(current.get(n) == {c} for _, _, n, c in members):
            moved = "current-center-absent"
        for f, r, naccid, center in members:
            if not apart:
                continue
            if transfer or rule.on_duplicate is OnDuplicate.ACTIVE_ONLY:
                asked |= {naccid} & current.keys()
                reason = fate(naccid, center, current.get(naccid), moved)
                gone[f] |= {r: reason} if reason else {}
            elif rule.on_duplicate is OnDuplicate.DROP_ALL:
                gone[f][r] = "duplicate"
        if not transfer:
            kept = [(f, c) for f, r, _, c in members if r not in gone[f]]
            times = Counter(c for _, c in kept)
            repeats.update(files[f].center.id for f, c in kept if times[c] > 1)
    return gone, repeats, asked


@settings(max_examples=250, deadline=None)
@given(st.lists(FILES, max_size=5), RULES, CURRENT, st.randoms())
def test_decisions_are_those_of_a_model_in_any_order(files, rule, current, random):
    expected, repeats, asked = model(files, rule, current)
    for _ in range(2):
        order = list(range(len(files)))
        random.shuffle(order)
        shuffled = [files[i] for i in order]
        blobs = [blob_of_file(file, rule) for file in shuffled]
        candidates = find("uds", rule, [f.center for f in shuffled], blobs.__getitem__)
        assert candidates.participants == asked
        decision = decide(candidates, current)
        assert gone(decision) == [expected[i] for i in order]
        notes = {f.site: int(f.message.split()[0]) for f in decision.findings if f.code == "same-center-duplicates"}  # fmt: skip
        assert notes == repeats


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 40)), min_size=1, max_size=6),
    st.integers(1, 60),
    st.sampled_from([0, 52, 58]),
    st.sampled_from([1, 1 << 23]),
)
def test_repeated_hashes_are_found_in_parts(runs, part, shift, spool):
    counts = Counter(value for run in runs for value in run)
    arrays = [np.sort(np.array(run, np.uint64) << np.uint64(shift)) for run in runs]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeated, "PART", part)
        patch.setattr(repeated, "SPOOL_BYTES", spool)
        found = repeated.repeated(iter(arrays))
    totals = Counter(value << shift for value in counts.elements())
    assert found.tolist() == sorted(value for value, count in totals.items() if count > 1)


# --- limits ----------------------------------------------------------------------------------------------


def test_no_room_for_the_temporary_file(monkeypatch, tmp_path):
    blob = blob_of(pa.table({"naccid": [ANNA]}), TransferRule())
    monkeypatch.setattr(repeated, "SPOOL_BYTES", 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(Unavailable) as caught:
        find("uds", TransferRule(), [ALPHA], lambda _: blob)
    assert caught.value.kind == "no-scratch-space"


@pytest.mark.parametrize("kind", ["transfer", "criteria"])
def test_memory_does_not_grow_with_rows(kind, tmp_path):
    rule = {"transfer": TransferRule(), "criteria": CriteriaRule(("value",))}[kind]
    rows, files = 50_000, 40
    for i in range(files):
        number = np.arange(i * rows, (i + 1) * rows)
        number[:10] = np.arange(10) if i < 2 else number[:10]
        naccid = number if kind == "transfer" else np.zeros(rows, int)
        columns = {"naccid": naccid, "value": number, "adcid": np.full(rows, i)}
        (tmp_path / str(i)).write_bytes(blob_of(pa.table(columns), rule, use_dictionary=False))

    def peak(count: int) -> int:
        centers = [Center(f"c{i}", i, "C") for i in range(count)]
        default = pa.default_memory_pool()
        pool = pa.proxy_memory_pool(default)
        pa.set_memory_pool(pool)
        tracemalloc.start()
        try:
            candidates = find("uds", rule, centers, lambda i: (tmp_path / str(i)).read_bytes())
            return tracemalloc.get_traced_memory()[1] + pool.max_memory()
        finally:
            tracemalloc.stop()
            pa.set_memory_pool(default)
            assert len(candidates.rows.row) == 20

    # Past the first parts: a million rows more would be 8 MB, were a hash of each kept.
    assert peak(files) < peak(20) + 1e6


# --- criteria files -----------------------------------------------------------------------------------


def test_criteria_of_each_table():
    text = """{"uds": {"criteria": ["naccid", "visitdate"], "on_duplicate": "active_only"},
               "mri": {"criteria": ["uid"]}, "csf": {"criteria": null, "on_duplicate": null},
               "np": {"criteria": null, "on_duplicate": "keep_all"}, "ftld": {}}"""
    expected = {
        "uds": CriteriaRule(("naccid", "visitdate"), OnDuplicate.ACTIVE_ONLY),
        "mri": CriteriaRule(("uid",), OnDuplicate.DROP_ALL),
        "csf": CriteriaRule(()),
        "np": CriteriaRule((), OnDuplicate.KEEP_ALL),
        "ftld": CriteriaRule(()),
    }
    assert read_criteria(text, "criteria.json") == expected
    assert read_criteria(text.encode(), "criteria.json") == expected


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "c.json: expected JSON"),
        ("[]", "c.json: expected an object, got an array"),
        ('{"uds": []}', "c.json: 'uds': expected an object, got an array"),
        ('{"uds": {}, "uds": {}}', "c.json: 'uds' is there twice"),
        ('{"uds": {"criteria": [], "criteria": []}}', "'uds': 'criteria' is there twice"),
        ('{"uds": {"criterias": []}}', "nothing is called 'criterias' (did you mean criteria?)"),
        ('{"uds": {"criteria": []}}', "'uds'.criteria: expected column names, got none; null keeps"),
        ('{"uds": {"zzz": []}}', "nothing is called 'zzz'"),
        ('{"uds": {"criteria": "naccid"}}', "criteria: expected an array of column names, got a string"),
        ('{"uds": {"criteria": ["a", 1]}}', "criteria: expected an array of column names"),
        ('{"uds": {"criteria": [""]}}', "criteria: expected an array of column names"),
        ('{"uds": {"criteria": ["a", "a"]}}', "criteria: expected each column once"),
        ('{"uds": {"criteria": ["a"], "on_duplicate": "drop-all"}}', "got 'drop-all' (did you mean drop_all?)"),
        ('{"uds": {"criteria": ["a"], "on_duplicate": 1}}', "expected one of active_only, keep_all, drop_all, got a number"),
    ],
)  # fmt: skip
def test_criteria_that_are_wrong_say_where_and_how(text, part):
    with pytest.raises(Invalid) as caught:
        read_criteria(text, "c.json")
    assert caught.value.kind == "bad-criteria"
    assert part in caught.value.message


def test_criteria_name_columns_that_some_site_sends():
    check_criteria("uds", VISIT, {"naccid", "visitdate", "x"})
    check_criteria("uds", TransferRule(), set())
    with pytest.raises(Invalid) as caught:
        check_criteria("uds", VISIT, {"naccid", "visit_date", "x"})
    assert caught.value.kind == "unknown-criteria"
    assert caught.value.message.endswith("column 'visitdate' (did you mean visit_date?)")


def test_findings_hold_no_values():
    files = [(ALPHA, {"naccid": [ANNA, ANNA], "visitdate": [date(2021, 3, 4)] * 2})]
    (note,) = decided(files, VISIT).findings
    assert isinstance(note, Finding)
    assert not any(text in repr(note) for text in (ANNA, "2021"))

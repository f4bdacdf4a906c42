"""A merge that copies from an earlier table gives the bytes of a merge from the sources."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings

from catchment.tables.merge import Kept, Merged
from tests.tables.merging import File, Merging, sets


def both(merging: Merging, merged: Merged) -> tuple[bytes, bytes | None]:
    removed = merged.removed and merging.read(merged.removed.key)
    return merging.read(merged.table.key), removed


class Runs:
    """Merges of changing files; each copies what it can from the one before."""

    def __init__(self) -> None:
        self.merging = Merging()
        self.files: Sequence[File] = []
        self.merged: Merged | None = None
        self.copied = 0

    def next(self, files: Sequence[File]) -> None:
        full = Merging()
        expected = full.merge(files)
        fields = {field.name: field for field in full.unified.schema}
        kept: dict[int, Kept] = {}
        for number, file in enumerate(files):
            old = next((n for n, f in enumerate(self.files) if f is file), None)
            if old is not None and all(
                fields[name].equals(self.fields[name]) for name in self.schemas[old].names
            ):
                kept[number] = self.merging.keep(self.merged, old, file, number)
        self.copied += len(kept)
        merged = self.merging.merge(files, kept, full.schemas)
        assert both(self.merging, merged) == both(full, expected)
        assert [p.dumps() for p in merged.placed] == [p.dumps() for p in expected.placed]
        self.files, self.schemas, self.fields, self.merged = files, full.schemas, fields, merged


@settings(max_examples=60)
@given(sets(3))
def test_copied_and_fresh_inputs_give_the_same_bytes(drawn: list[list[File]]) -> None:
    first, second, third = drawn
    runs = Runs()
    runs.next(first)
    runs.next([*second, *first])
    runs.next([*first, *third])
    runs.next([*first[1:], *third])
    assert runs.copied or not any(f.rows for f in first)

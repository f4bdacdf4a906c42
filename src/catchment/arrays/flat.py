"""Appending along a dimension of positions, such as ``time``, and to stores that xarray made.

Chunks are written behind what readers see; the last chunk, where a new position shares it, is
replaced by one that has the same values and more. One object holds all metadata and replacing it
is the commit; a create-only record decides it. What was written is read back first: an encoding
of the store that cannot hold the values is found before anybody sees them.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from catchment.arrays import journal, layout, plan
from catchment.arrays.content import text_of
from catchment.arrays.flat_prepare import (
    Sent,
    along,
    check,
    check_chunks,
    digest_of,
    encodable,
    new_chunks,
    sent_of,
    texts,
    with_dim,
)
from catchment.arrays.foreign import Group, Overlay
from catchment.arrays.journal import Holder
from catchment.arrays.look import Facts, Look
from catchment.arrays.model import Decision, Entry, OnConflict, Outcome, Row, Status, Step
from catchment.arrays.stack import Stack
from catchment.core.errors import Conflict, Corrupt, Invalid, NotFound

if TYPE_CHECKING:
    import xarray as xr

PIECE = 64 << 20  # bytes that are encoded together
KIND = "positions"


class Flat:
    """A group that grows along one of its dimensions."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.store = stack.store

    # Looking

    def records(self) -> Iterator[dict[str, Any]]:
        """What was appended, in order."""
        return journal.since(self.store, 0)

    def entries(self) -> list[Entry]:
        """What was appended, as rows: a slot is the first position."""
        return [
            Entry(record["start"], Status.PRESENT, Row.from_json(record["row"]))
            for record in self.records()
        ]

    def heal(self) -> tuple[Group | None, int]:
        """Show what was committed and not shown; the group that readers see, and its commit."""
        group, number, pending = self._state()
        for record in pending:
            group, number = self._show(record), record["number"]
        return group, number

    def _state(self) -> tuple[Group | None, int, list[dict[str, Any]]]:
        """The group that readers see, our last commit in it, and those that it does not show."""
        group = Group.of(self.store)
        number = group.commit if group else 0
        behind = list(journal.since(self.store, number))
        if not behind or behind[0]["before"] == (group.digest if group else ""):
            return group, number, behind
        # Somebody else wrote the root, and may have left our number out.
        last = behind[-1]
        held = group is not None and self._stored_or_none(group, last) == last["stored_hash"]
        if not held:
            raise _changed(self.store.url)
        return group, last["number"], []

    def _stored_or_none(self, group: Group, record: Mapping[str, Any]) -> str | None:
        try:
            return self._stored(group, record["dim"], record["start"], record["stop"])
        except Exception:  # noqa: BLE001 - whatever a decoder raises
            return None

    def verify(self, *, quick: bool = False, repair: bool = False) -> tuple[int, int, list[str]]:
        """How many appends and positions, and what is wrong."""
        if repair:
            with self.stack.writing():
                self.heal()
                self._release()
        group, number, _ = self._state()
        if group is None:
            raise _absent(self.store.url)
        wrong, count, positions = [], 0, 0
        for record in self.records():
            if record["number"] > number:
                wrong.append(f"commit {record['number']} is not shown (the next append shows it)")
                continue
            count, positions = count + 1, positions + record["stop"] - record["start"]
            if quick:
                continue
            found = self._stored_or_none(group, record)
            if found != record["stored_hash"]:
                what = "cannot be read" if found is None else "does not hold what was appended"
                wrong.append(f"commit {record['number']} {what}")
        return count, positions, wrong

    # Writing

    def append(
        self,
        dataset: xr.Dataset,
        dim: str,
        *,
        chunks: Mapping[str, int] | None = None,
        on_conflict: OnConflict = "error",
        dry_run: bool = False,
        facts: Facts | None = None,
    ) -> Outcome:
        """Append a dataset: all of it is visible afterwards, or nothing.

        Raises:
            Conflict: ``session-differs``; ``claim-held`` while a writer elsewhere is at work.
            Invalid: ``chunks-fixed``, ``bad-chunks``; ``store-changed`` where somebody else wrote
                to the store while an append of ours was interrupted.
        """
        plan.check_choice(on_conflict)
        look = Look(dataset, dim, (), facts or Facts())
        if dry_run:
            group, _, _ = self._state()
            return self._planned(look, group, chunks, on_conflict)[0]
        end = time.monotonic() + self.stack.patience
        with self.stack.writing(), journal.holding() as holder:
            while True:
                group, number = self.heal()
                outcome, sent = self._planned(look, group, chunks, on_conflict)
                if (error := plan.conflict(outcome.steps)) is not None:
                    raise error
                if sent is None:
                    return replace(outcome, dry_run=False)
                done = self._write(outcome, sent, group, number + 1, chunks, holder, look)
                if done is not None:
                    return done
                if time.monotonic() > end:
                    raise _held(self.store.url)
                time.sleep(0.05)
                look.findings.clear()

    def _planned(
        self,
        look: Look,
        group: Group | None,
        chunks: Mapping[str, int] | None,
        on_conflict: OnConflict,
    ) -> tuple[Outcome, Sent | None]:
        """What an append comes to; what is to be written, if anything is."""
        dim = look.append_dim
        existing = group.dataset(self.store) if group else None
        commit = group.commit if group else None
        dataset = with_dim(look, existing)
        if existing is not None and dim not in existing.dims:
            look.error(
                "append-dim-missing", dim, "the store has no such dimension",
                "append it to a new store as a session of its own, then this one: "
                f"catchment arrays append {self.store.url} NEW --session ID",
            )  # fmt: skip
        if not look.failed():
            check(look, dataset, existing, dim)
        if group is not None and not look.failed():
            check_chunks(group, chunks)
        base = Outcome(self.store.url, commit, (), look.findings, dry_run=True)
        if look.failed():
            return base, None
        sent = sent_of(look, dataset, dim)
        if look.failed():
            return replace(base, findings=look.findings), None
        start = existing.sizes[dim] if existing is not None else 0
        step = Step(
            sent.session, Decision.APPEND, start, dataset.sizes[dim], sent.raw_bytes,
            content_hash=sent.content_hash,
        )  # fmt: skip
        step = self._known(step, sent, existing, dim, on_conflict)
        return replace(base, steps=[step], findings=look.findings), (
            sent if step.decision is Decision.APPEND else None
        )

    def _known(
        self, step: Step, sent: Sent, existing: xr.Dataset | None, dim: str, on_conflict: OnConflict
    ) -> Step:
        """The step, if the store has the session already."""
        record = self._record_of(sent.session)
        if record is not None:
            same, start = record["row"]["content_hash"] == sent.content_hash, record["start"]
        elif sent.labels and existing is not None:
            have = [text_of(label) for label in existing[dim].values]
            if not set(have) & set(sent.labels):
                return step
            start = have.index(next(label for label in have if label in sent.labels))
            there = existing.isel({dim: slice(start, start + len(sent.labels))})
            same = digest_of(along(there, dim))[0] == sent.content_hash
        else:
            return step
        if same:
            return replace(step, decision=Decision.UNCHANGED, slot=start)
        if on_conflict == "replace":
            raise Invalid(
                f"{step.session}: along {dim} nothing can be replaced",
                kind="replace-not-possible",
                hint=f"move to a store of sessions: catchment arrays append {self.store.url} NEW",
            )
        decision = Decision.SKIP if on_conflict == "skip" else Decision.CONFLICT
        return replace(step, decision=decision, slot=None, earlier=start)

    def _record_of(self, session: str) -> dict[str, Any] | None:
        """The record of a session's append: its marker is written before the record."""
        marker = journal.read(self.store, layout.marker(session))
        record = journal.read(self.store, layout.log(marker["number"])) if marker else None
        return record if record and record["row"]["session"] == session else None

    def _write(  # noqa: PLR0917 - what makes an append
        self,
        outcome: Outcome,
        sent: Sent,
        group: Group | None,
        number: int,
        chunks: Mapping[str, int] | None,
        holder: Holder,
        look: Look,
    ) -> Outcome | None:
        """Write and commit; None where another writer is at it, or was first."""
        (step,) = outcome.steps
        assert step.slot is not None  # noqa: S101 - it is to be appended
        dim = look.append_dim
        row = Row(sent.session, step.windows, sent.content_hash, site=look.facts.site or "",
                  transform=look.facts.transform or "")  # fmt: skip
        claim = journal.claim(self.store, number, row, holder)
        if claim is None:
            return None
        committed = False
        try:
            if journal.read(self.store, layout.log(number)) is not None:
                return None  # it ended since we looked
            documents = dict(group.documents) if group else {}
            size = self._chunks(documents, sent.dataset, dim, group, chunks)
            made = Group(group.version if group else 3, documents).with_commit(number)
            stored = self._written(made, sent, dim, step.slot)
            if not stored:
                look.error(
                    "encoding-loses", sent.session,
                    "the store's encoding cannot hold these values: read back, they differ",
                    "convert them to the store's units and types, or append to a new store: "
                    f"catchment arrays append {self.store.url} NEW",
                )  # fmt: skip
                refused = replace(step, decision=Decision.REFUSE, slot=None)
                return replace(outcome, steps=[refused], findings=look.findings, dry_run=False)
            record = {
                "kind": KIND,
                "dim": dim,
                "start": step.slot,
                "stop": step.slot + step.windows,
                "row": row.to_json(),
                "stored_hash": stored,
                "before": group.digest if group else "",
                "version": made.version,
                "documents": {k: json.loads(d) for k, d in made.documents.items()},
            }
            marker = json.dumps({"number": number}).encode()
            self.store.put(layout.marker(sent.session), marker, mode="overwrite")
            committed = journal.commit(self.store, number, record)
        finally:
            if not committed:
                journal.release(self.store, claim, row, holder)
        if not committed:
            return None
        self._show(record | {"number": number})
        return replace(outcome, commit=number, dry_run=False, written_bytes=size)

    def _show(self, record: Mapping[str, Any]) -> Group:
        """Put the root that a record says, then the arrays' own metadata."""
        documents = {
            key: json.dumps(told, ensure_ascii=False).encode()
            for key, told in record["documents"].items()
        }
        group = Group(record["version"], documents)
        key, data = group.together()
        self.store.put(key, data, mode="overwrite")
        for name, content in documents.items():
            if name != key:
                self.store.put(name, content, mode="overwrite")
        return replace(group, digest=hashlib.sha256(data).hexdigest())

    def _release(self) -> None:
        """Free the claim of a writer that is gone."""
        _, number, _ = self._state()
        with journal.holding() as holder:
            journal.release_all(self.store, number + 1, holder)

    def _chunks(
        self,
        documents: dict[str, bytes],
        dataset: xr.Dataset,
        dim: str,
        group: Group | None,
        chunks: Mapping[str, int] | None,
    ) -> int:
        """Write the chunks, and say how many bytes they take; metadata stay in ``documents``."""
        view = Overlay(self.store, documents, writes=True)
        variables = along(dataset, dim)
        first = 0
        if group is None:
            fixed = dict(new_chunks(variables, dim, chunks or {}))
            dataset = encodable(dataset)
        else:
            fixed = {n: c for n, c in group.chunks().items() if n in variables}
            dataset = dataset.drop_vars(
                [n for n in dataset.variables if dim not in dataset[n].dims]
            )
            dataset = texts(dataset)
            first = int(group.dataset(self.store).sizes[dim])
        step = max((sizes.get(dim, 1) for sizes in fixed.values()), default=1)
        each = max(1, sum(v.nbytes for v in variables.values()) // max(1, dataset.sizes[dim]))
        rows = max(step, PIECE // each // step * step)
        stop = min(dataset.sizes[dim], rows - first % step)
        start = 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of formats, of what is not consolidated
            while start < dataset.sizes[dim]:
                piece = dataset.isel({dim: slice(start, stop)}).load()
                for name in piece.variables:
                    piece[name].encoding.pop("chunks", None)
                if group is None and not start:
                    encoding = {n: {"chunks": tuple(c.values())} for n, c in fixed.items()}
                    piece.to_zarr(
                        view, mode="w-", consolidated=False, zarr_format=3, encoding=encoding
                    )
                else:
                    same = [n for n in piece.variables if dim not in piece[n].dims]
                    piece.drop_vars(same).to_zarr(
                        view, mode="a-", append_dim=dim, consolidated=False,
                        zarr_format=group.version if group else 3,
                    )  # fmt: skip
                start, stop = stop, min(dataset.sizes[dim], stop + rows)
        return sum(view.sizes.values())

    def _stored(self, group: Group, dim: str, start: int, stop: int) -> str:
        """The digest of what stands between two positions."""
        found = group.dataset(self.store).isel({dim: slice(start, stop)})
        return digest_of(along(found, dim))[0]

    def _written(self, group: Group, sent: Sent, dim: str, start: int) -> str:
        """The digest of what was written; empty if that is not what came."""
        try:
            stored = self._stored(group, dim, start, start + sent.dataset.sizes[dim])
            same = stored == sent.content_hash or self._close(group, sent, dim, start)
        except (ImportError, OverflowError, ValueError):  # of moments that were never meant
            return ""
        return stored if same else ""

    def _close(self, group: Group, sent: Sent, dim: str, start: int) -> bool:
        """Whether what stands there is what came, as near as a packed array says it."""
        import numpy as np

        found = group.dataset(self.store)
        for name, variable in along(sent.dataset, dim).items():
            there = found[name]
            tolerance = abs(float(there.encoding.get("scale_factor", 0)))
            here = there.isel({dim: slice(start, start + sent.dataset.sizes[dim])}).variable
            if not tolerance:
                same = digest_of({name: variable}) == digest_of({name: here})
            else:
                same = np.allclose(
                    here.values, variable.values, rtol=0, atol=tolerance, equal_nan=True
                )
            if not same:
                return False
        return True


def _absent(url: str) -> NotFound:
    return NotFound(
        f"there is no store at {url}", kind="no-store",
        hint="catchment arrays append FILE STORE makes one",
    )  # fmt: skip


def _held(url: str) -> Conflict:
    return Conflict(
        f"{url}: another writer is at work",
        kind="claim-held",
        hint=f"wait; if it is gone for good: catchment arrays verify {url} --repair",
    )


def _changed(url: str) -> Corrupt:
    return Corrupt(
        f"{url}: somebody else wrote to the store while an append of ours was interrupted",
        kind="store-changed",
        hint="compare the store with a backup",
    )

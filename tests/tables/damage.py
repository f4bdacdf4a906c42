"""What the damage tests share: a workspace to hurt, an observer of what is public, a nursery."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from catchment.cli import main
from catchment.core.account import Account
from catchment.core.errors import NotFound
from catchment.core.ledger import Ledger, Snapshot
from catchment.core.provenance import NAME, dumps
from catchment.core.store import Store, open_store
from catchment.tables import layout
from catchment.testing.centers import Made, make_centers
from tests.meanwhile import meanwhile
from tests.tables.damage_child import AGGREGATE, ALL, work

ROOT = Path(__file__).parents[2]
OUTPUT = "tables/main/"

SAMPLE = {
    "centers": 3, "columns": 6, "rows": (8, 14), "transfers": 0.2, "drift_columns": 2, "broken": 0,
}  # fmt: skip
TWO = {**SAMPLE, "tables": ("uds", "mds"), "broken": 1}
FEWER = {"tables.main.exclude_centers": ["center01"]}
OTHERS = {"tables.main.transfers": "none"}
CHANGES = [FEWER, OTHERS, ALL]  # what a child runs, one after the other; each brings a snapshot


class Place:
    """A workspace over made centers: its folder, its public state, a plain run."""

    def __init__(self, folder: Path, made: Made, **settings: str) -> None:
        self.folder, self.made = folder, made
        folder.mkdir(parents=True, exist_ok=True)
        datasets = settings.pop("datasets", made.datasets)
        identifiers = settings.pop("identifiers", made.identifiers)
        lines = ["[workspace]", *(f'{key} = "{value}"' for key, value in settings.items())]
        lines += ["[tables.main]", f'centers = "{made.centers}"', f'datasets = "{datasets}"']
        lines += [f'identifiers = "{identifiers}"']
        (folder / "catchment.toml").write_text("\n".join(lines))
        store = settings.get("store", str(folder / "data"))
        self.store: Store = open_store(Path(store).as_uri())
        self.ledger_url = settings.get("ledger", f"sqlite:///{folder}/.catchment/ledger.db")

    @cached_property
    def ledger(self) -> Ledger:
        if self.ledger_url.startswith("sqlite"):
            (self.folder / ".catchment").mkdir(exist_ok=True)
        return Ledger.open(self.ledger_url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if "ledger" in vars(self):
            self.ledger.close()

    def outlive(self) -> None:
        """Let the lease of a dead one expire; its fence stays."""
        if (lease := self.ledger.lease(AGGREGATE)) is not None:
            self.ledger.release(lease)

    def run(self, overrides: Any = ALL, **more: Any) -> Any:
        """A plain run, with the clock's date of all others, when all others are dead."""
        self.outlive()
        return work(self.folder, overrides, **more)

    def bytes(self) -> dict[str, bytes]:
        """What readers see of the latest snapshot, by key below its prefix."""
        latest = self.ledger.latest(AGGREGATE)
        return {
            o["key"].removeprefix(latest.location): self.store.read(o["key"])
            for o in latest.provenance["objects"]
            if o["role"] in {"table", "removed"}
        }

    def named(self) -> tuple[set[str], set[str]]:
        """The keys that published snapshots name: those that must be there, and the others."""
        snapshots = self.ledger.snapshots(AGGREGATE, provenance=True)
        keys = {o["key"] for s in snapshots for o in s.provenance["objects"]}
        keys |= {s.location + NAME for s in snapshots if s.sealed}
        return keys, {s.location + NAME for s in snapshots if not s.sealed}

    def keys(self) -> set[str]:
        return {stat.key for stat in self.store.list()}

    def collect(self) -> int:
        """``catchment gc --grace 0``; nothing is left but what snapshots name. How many went."""
        self.outlive()
        before, (must, may) = self.keys(), self.named()
        code, said = command("gc", "--grace", "0", "--json", "--workspace", str(self.folder))
        assert code == 0, said
        orphans = before - must - may
        assert set(json.loads(said)["objects"]) == orphans
        assert must <= self.keys() == before - orphans
        assert not list(self.folder.glob("data/.catchment/tmp/*"))
        return len(orphans)

    def mend(self, wanted: dict[str, bytes], overrides: Any = ALL) -> Any:
        """A plain run ends in the bytes of an undisturbed one, and leaves nothing over."""
        outcome = self.run(overrides)
        assert self.bytes() == wanted
        assert not self.ledger.unsealed(AGGREGATE)
        assert not self.ledger.runs(AGGREGATE, state="running")
        return outcome


def command(*arguments: str) -> tuple[int, str]:
    """The program, in this process: its exit code and what it said on either stream."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code = main.run(arguments)
    return code, said.getvalue()


def undisturbed(folder: Path, made: Made, overrides: Any = ALL) -> dict[str, bytes]:
    """The bytes of a first run in a place of its own."""
    with Place(folder, made) as place:
        place.run(overrides)
        return place.bytes()


# --- the observer --------------------------------------------------------------------------------


@dataclass
class Observer:
    """Looks at what is public, and at nothing else; remembers it, for it must never change."""

    place: Place
    snapshots: dict[int, Snapshot] = field(default_factory=dict)
    objects: dict[str, str] = field(default_factory=dict)  # etag of each that was verified
    looks: int = 0

    def look(self) -> None:
        """Every published snapshot is whole, unchanged, numbered on and accounted for."""
        store, ledger = self.place.store, self.place.ledger
        sealed = {}
        for prefix in layout.snapshot_prefixes(store, OUTPUT):
            try:
                sealed[prefix] = store.read(prefix + NAME)
            except NotFound:
                continue
        newest = ledger.snapshots(AGGREGATE, provenance=True)
        assert [s.number for s in newest] == list(range(len(newest), 0, -1))
        assert [s.parent for s in newest] == [s.number - 1 or None for s in newest]
        places = {s.location: s for s in newest}
        assert len(places) == len(newest)
        for prefix, data in sealed.items():
            assert data == dumps(places[prefix].provenance), f"{prefix} is of no snapshot"
        for snapshot in newest:
            known = self.snapshots.setdefault(snapshot.number, snapshot)
            assert (known.key, known.location) == (snapshot.key, snapshot.location)
            assert known.provenance == snapshot.provenance
            self._objects(store, snapshot)
            self._account(snapshot)
        assert self.snapshots.keys() == {s.number for s in newest}, "a snapshot is gone"
        self.looks += 1

    def _objects(self, store: Store, snapshot: Snapshot) -> None:
        for item in snapshot.provenance["objects"]:
            key, etag = item["key"], store.head(item["key"]).etag
            if key not in self.objects:
                data = store.read(key)
                found = len(data), f"sha256:{hashlib.sha256(data).hexdigest()}"
                assert found == (item["size"], item["digest"]), key
                self.objects[key] = etag
            assert self.objects[key] == etag, f"{key} was written again"

    def _account(self, snapshot: Snapshot) -> None:
        account = Account.from_json(snapshot.provenance["catchment"]["account"])
        account.check()
        for item in snapshot.provenance["objects"]:
            if item["role"] == "table":
                assert account.total("rows", part=item["table"]).kept == item["rows"]

    @contextmanager
    def always(self) -> Iterator[None]:
        """Look again and again while the block goes on, and once more at its end."""
        with meanwhile(self.look, 0.03):
            yield
        self.look()


# --- the nursery ---------------------------------------------------------------------------------


class Nursery:
    """A process that has all imports behind it, and forks a child for each order."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "tests.tables.damage_child"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip

    def send(self, place: Place, *overrides: Any, **order: Any) -> None:
        """Have a child make these runs, one after the other; see ``damage_child``."""
        told = {"folder": str(place.folder), "overrides": overrides or [ALL], **order}
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()

    def reply(self) -> dict[str, Any]:
        """How it ended: ``status`` (negative: a signal), and what its runs ``said``."""
        line = self._process.stdout.readline()
        assert line, "the nursery is gone"
        return json.loads(line)

    def ask(self, place: Place, *overrides: Any, **order: Any) -> dict[str, Any]:
        self.send(place, *overrides, **order)
        return self.reply()

    def go_on(self) -> dict[str, Any]:
        """Wake a child that stopped; how it ended."""
        self._process.stdin.write("go on\n")
        self._process.stdin.flush()
        return self.reply()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


# --- templates -----------------------------------------------------------------------------------


@dataclass
class Grounds:
    """Fresh places: copies of one whose ledger was made already, before or after a first run."""

    folder: Path
    made: Made
    wanted: dict[str, bytes] = field(default_factory=dict)
    _count: int = 0

    @classmethod
    def prepare(cls, folder: Path, sample: dict[str, Any]) -> Grounds:
        grounds = cls(folder, make_centers(folder / "made", **sample))
        grounds.wanted = undisturbed(folder / "calm", grounds.made)
        with Place(folder / "first", grounds.made) as place:
            assert place.ledger.latest(AGGREGATE) is None
        with Place(folder / "second", grounds.made) as place:
            place.run(FEWER)
        return grounds

    def fresh(self, which: str, **settings: str) -> Place:
        self._count += 1
        shutil.rmtree(self.folder / f"place-{self._count - 1}", ignore_errors=True)
        folder = self.folder / f"place-{self._count}"
        if (self.folder / which).exists():
            shutil.copytree(self.folder / which, folder)
        return Place(folder, self.made, **settings)

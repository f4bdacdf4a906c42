"""The whole house under damage: ``python -m tests.trust.soak --seed 17 --parts embedded``.

One seed draws a sequence of steps on one workspace with all five kinds of aggregates. In a step
sites change what they have, and processes that work on the workspace are hurt. After each step the
observer looks; at the end everything must equal one undisturbed run over what the sites have.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from math import exp, log
from pathlib import Path
from typing import Any, Self

from catchment.core.errors import CatchmentError, Unavailable
from catchment.core.workspace import Workspace
from catchment.testing import workspaces
from catchment.testing.postgres import Postgres
from catchment.testing.s3 import S3Server
from tests.trust.content import behind, contents, differences
from tests.trust.observer import Broken, Observer, promise
from tests.trust.proxy import BadLine
from tests.trust.world import SITES, STUDY, World, staged

ROOT = Path(__file__).parents[2]
AGGREGATES = (*workspaces.AGGREGATES, f"studies/{STUDY}")
# The lighter ones more often; a run of arrays opens files for a second.
WEIGHTS = {
    "tables/main": 4,
    "exports/claims": 4,
    "imaging/ct": 3,
    "arrays/eeg": 1,
    f"studies/{STUDY}": 4,
}
TTL = 1.0  # seconds of a lease
PATIENCE = 90  # seconds until a process that does not end has hung
MOST = {"store": 60, "ledger": 20, "disk": 80}  # operations of one run, about
STUDIES = f"""
[studies.{STUDY}]
min_cell = 0
"""
SETTINGS = {"executor.workers": 2, "exports.claims.threshold": 1.0}  # bad parts stop no export
SMALL = 24 << 20  # bytes of the disk that fills; 60 steps leave 8 MB


@dataclass
class Process:
    """A child at work."""

    number: int
    order: dict[str, Any]
    answer: Path
    pid: int = 0
    status: int | None = None
    _said: dict[str, Any] = field(default_factory=dict)

    def said(self) -> dict[str, Any]:
        """What it told at its end; nothing, if it was killed."""
        if self.answer.exists():
            self._said = json.loads(self.answer.read_text())
            self.answer.unlink()
        return self._said

    def stopped(self) -> bool:
        with suppress(OSError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        return False


class Mother:
    """The process that bears them; see ``mother.py``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._count = 0
        self._children: dict[int, Process] = {}
        self.log = (folder / "log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.trust.mother"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, bufsize=0,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self._pending = b""
        os.set_blocking(self._process.stdout.fileno(), False)
        self._wait_for(lambda: self._ready, 120)

    _ready = False

    def send(self, **order: Any) -> Process:
        self._count += 1
        answer = self.folder / f"{self._count}.json"
        order |= {"id": self._count, "answer": str(answer)}
        one = self._children[self._count] = Process(self._count, order, answer)
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._wait_for(lambda: one.pid, 30)
        return one

    def wait(self, children: list[Process], seconds: float) -> bool:
        """Until all have ended or stopped; whether they have in that time."""
        return self._wait_for(
            lambda: all(c.status is not None or c.stopped() for c in children), seconds
        )

    def _wait_for(self, true: Any, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline:
                return False
            select.select([self._process.stdout], [], [], 0.01)  # who stopped says nothing
            self._read()
        return True

    def _read(self) -> None:
        data = self._process.stdout.read()
        if data == b"":
            raise RuntimeError((self.folder / "log").read_text()[-3000:])
        *lines, self._pending = (self._pending + (data or b"")).split(b"\n")
        for line in lines:
            told = json.loads(line)
            if "ready" in told:
                self._ready = True
            elif "pid" in told:
                self._children[told["id"]].pid = told["pid"]
            else:
                self._children.pop(told["id"]).status = told["status"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children.values():
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self.log.close()


@dataclass
class Parts:
    """What a workspace stands on; ``server`` and ``database`` are None where it is embedded."""

    server: S3Server | None = None
    database: Postgres | None = None

    @property
    def name(self) -> str:
        return "production" if self.server else "embedded"


@dataclass
class Tally:
    """What happened in a soak."""

    seeds: list[int] = field(default_factory=list)
    steps: int = 0
    hurts: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)
    looks: int = 0
    snapshots: int = 0
    seconds: float = 0.0

    @property
    def damage(self) -> int:
        """Kills and faults."""
        return sum(n for name, n in self.hurts.items() if not name.startswith(("rival", "clock")))

    def to_json(self) -> dict[str, Any]:
        return {
            "seeds": self.seeds, "steps": self.steps, "kills_and_faults": self.damage,
            "hurts": dict(sorted(self.hurts.items())),
            "outcomes": dict(sorted(self.outcomes.items())),
            "changes_of_sites": dict(sorted(self.changes.items())),
            "looks": self.looks, "snapshots": self.snapshots, "seconds": round(self.seconds, 1),
        }  # fmt: skip


class Soak:
    """One seed."""

    def __init__(
        self, seed: int, mother: Mother, template: Path, folder: Path, parts: Parts
    ) -> None:
        self.seed, self.mother, self.parts, self.folder = seed, mother, parts, folder
        self.draw = random.Random(seed)
        self.tally = Tally([seed])
        self.template = template
        self.trace: list[str] = []
        self.line: BadLine | None = None
        self.disk = False
        self.open_job = False
        self._stack = ExitStack()

    def run(self, steps: int) -> Tally:
        """All of it. Broken, with the command that does it again, if a promise was."""
        start = time.monotonic()
        try:
            with self._stack:
                self._open()
                for number in range(steps):
                    self.trace.append(f"step {number}")
                    self._step()
                    self.tally.steps += 1
                self._end()
        except Exception as error:
            said = "\n".join(self.trace[-25:])
            raise Broken(
                f"{error}\n\n{said}\n\nagain: python -m tests.trust.soak --seed {self.seed} "
                f"--steps {steps} --parts {self.parts.name}"
            ) from error
        self.tally.seconds = time.monotonic() - start
        return self.tally

    # --- the place -------------------------------------------------------------------------------

    def _open(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        home = self.folder / "disk"
        home.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(home)]
        if (
            not self.parts.server
            and not subprocess.run(mount, check=False, capture_output=True).returncode
        ):
            self.disk = True
            self._stack.callback(subprocess.run, ["umount", "-l", str(home)], check=True)
        lines = ['store = "data"']
        self.overrides: dict[str, Any] = dict(SETTINGS)
        if self.parts.server and self.parts.database:
            server = self.parts.server
            self.line = self._stack.enter_context(BadLine(server.endpoint, self.draw))
            lines = [
                f'store = "s3://{server.bucket}/{self.folder.name}-{time.time_ns()}"',
                f'ledger = "{self.parts.database.database()}"',
                "", "[s3]",
                *(f'{name} = "{value}"'.replace('"true"', "true") for name, value in server.options.items()),
            ]  # fmt: skip
        self.home = workspaces.make_workspace(
            home / "w", self.folder / "in", workspace="\n".join(lines), more=STUDIES
        )
        if not self.parts.server:
            self.overrides["workspace.store"] = (home / "w/data").as_uri()
        self.space = self._stack.enter_context(Workspace.open(self.home, self.overrides))
        self.world = World(self.template, self.folder / "in", self.draw, self.space.store)
        self.observer = Observer(self.space)

    def _order(self, do: str, **more: Any) -> Process:
        settings = dict(self.overrides)
        if self.line is not None:
            settings["s3.endpoint"] = self.line.endpoint
        return self.mother.send(folder=str(self.home), settings=settings, do=do, ttl=TTL, **more)

    # --- one step --------------------------------------------------------------------------------

    def _step(self) -> None:
        for _ in range(self.draw.choice([0, 1, 1, 2, 3])):
            self.trace.append(f"  site: {self.world.change()}")
        hurts = [self._killed, self._killed, self._killed, self._failing, self._failing,
                 self._rivals, self._rivals, self._paused, self._clock, self._collecting,
                 self._withdrawing, self._database]  # fmt: skip
        hurts += [self._bad_line] * 3 if self.line else [self._full] * 2
        touched = self.draw.choice(hurts)()
        self._calm()
        if self.open_job and self.draw.random() < 0.5:
            self._cancel()
        self.observer.look()
        for aggregate in touched:
            if behind(self.space, aggregate):  # what the dead had committed, the next run shows
                self._freed(aggregate)
                self._wait([self._order(f"run {aggregate}")])
            self.observer.verify(aggregate)

    def _cancel(self) -> None:
        """A job of other members was left open by the dead: its operator cancels it, as he is told."""
        self.open_job = False
        fault = {"fault": self._fault("kill")} if self.draw.random() < 0.3 else {}
        self._wait([self._order("cancel exports/claims", **fault)])
        self._freed("exports/claims")

    def _aggregate(self) -> str:
        return self.draw.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]

    def _fault(self, kind: str, on: str = "") -> dict[str, Any]:
        on = on or self.draw.choice(["store", "ledger", "disk"])
        at = int(exp(self.draw.uniform(0, log(MOST[on]))))
        return {"kind": kind, "on": on, "at": at, "when": self.draw.choice(["before", "after"])}

    def _killed(self) -> list[str]:
        """One dies at an operation, and the next one, and perhaps the next."""
        aggregate = self._aggregate()
        for _ in range(self.draw.randint(2, 7)):
            child = self._order(f"run {aggregate}", fault=self._fault("kill"))
            self._wait([child])
            self._freed(aggregate)
        return [aggregate]

    def _failing(self) -> list[str]:
        """An operation fails, or is done and its answer is lost."""
        aggregate = self._aggregate()
        for _ in range(self.draw.randint(2, 5)):
            self._wait([self._order(f"run {aggregate}", fault=self._fault("fail"))])
            self._freed(aggregate)
        return [aggregate]

    def _rivals(self) -> list[str]:
        """Several at the same work or at others', some of them killed, while readers read."""
        one, many = self._aggregate(), self.draw.random() < 0.5
        chosen = [one if many else self._aggregate() for _ in range(self.draw.randint(2, 4))]
        children = []
        with self.observer.always():
            for aggregate in chosen:
                fault = {"fault": self._fault("kill")} if self.draw.random() < 0.5 else {}
                children.append(self._order(f"run {aggregate}", **fault))
            if self.draw.random() < 0.4:
                self.trace.append(f"  site: {self.world.change()}")
            if self.draw.random() < 0.4:
                self.mother.wait(children, exp(self.draw.uniform(log(0.01), log(0.5))))
                self._kill(self.draw.choice(children))
            self._wait(children)
        self._count("rivals", len(children))
        return sorted(set(chosen))

    def _paused(self) -> list[str]:
        """One stops past its lease; another takes over and works; the first one wakes."""
        aggregate = self._aggregate()
        sleeper = self._order(f"run {aggregate}", fault=self._fault("stop"))
        self._settled([sleeper])
        if sleeper.stopped():
            self._count("pause")
            after = ["gc"] if self.draw.random() < 0.5 else []
            for do in [f"run {aggregate}", *after]:
                self._wait([self._order(do, clock=60)])  # for it, the lease is over
            self.observer.look()
            os.kill(sleeper.pid, signal.SIGCONT)
        self._wait([sleeper])
        self._freed(aggregate)
        return [aggregate]

    def _clock(self) -> list[str]:
        """Hosts whose clocks are off by up to two days, one after the other and beside."""
        aggregate = self._aggregate()
        jumps = [self.draw.uniform(-2e5, 2e5) for _ in range(2)]
        children = [self._order(f"run {aggregate}", clock=jumps[0])]
        if self.draw.random() < 0.5:
            self._wait(children)
        children.append(self._order(f"run {aggregate}", clock=jumps[1], fault=self._fault("kill")))
        self._wait(children)
        self._count("clock", 2)
        self._freed(aggregate)
        return [aggregate]

    def _collecting(self) -> list[str]:
        """Collection without any grace, beside a run, either of them killed or paused."""
        aggregate = self._aggregate()
        kind = self.draw.choice(["kill", "stop", "stop"])
        collector = self._order("gc", fault=self._fault(kind, "store"))
        if kind == "stop":
            self._settled([collector])
        run = self._order(f"run {aggregate}", clock=60 if collector.stopped() else 0)
        self._wait([run])
        if collector.stopped():
            self._count("pause")
            os.kill(collector.pid, signal.SIGCONT)
        self._wait([collector])
        for name in AGGREGATES:
            self._freed(name)
        return list(AGGREGATES)

    def _withdrawing(self) -> list[str]:
        """A site leaves the study; its owner asks until it is done."""
        aggregate, site = f"studies/{STUDY}", self.draw.choice(SITES)
        for _ in range(20):
            self._wait([child := self._order(f"run {aggregate}")])
            if child.said().get("state") in {"unchanged", "published"} and not self._waits(site):
                break
            self._freed(aggregate)
        for attempt in range(20):
            fault = {"fault": self._fault("kill")} if attempt < 2 else {}
            child = self._order(f"withdraw {site}", **fault)
            self._wait([child])
            self._freed(aggregate)
            said = child.said()
            if said.get("state") or said.get("error") in {"no-contribution", "no-study"}:
                self.world.expected.pop(site, None)
                return [aggregate]
        raise Broken(f"{site} could not be withdrawn: {said}")

    def _waits(self, site: str) -> bool:
        return any(True for _ in self.space.store.list(f"upload_staging/{STUDY}/{site}/"))

    def _database(self) -> list[str]:
        """The database restarts as after a crash; an embedded one is held by somebody else."""
        aggregate = self._aggregate()
        child = self._order(f"run {aggregate}")
        self.mother.wait([child], self.draw.uniform(0, 0.3))
        if self.parts.database is not None:
            self.parts.database.stop()
            time.sleep(self.draw.uniform(0, 0.3))
            self.parts.database.start()
        else:
            self._hold(self.draw.uniform(0.05, 0.5))
        self._count("database")
        self._wait([child])
        self._freed(aggregate)
        return [aggregate]

    def _hold(self, seconds: float) -> None:
        file = self.home / ".catchment/ledger.db"
        if file.exists():
            with suppress(sqlite3.OperationalError):
                other = sqlite3.connect(file, timeout=5, isolation_level=None)
                try:
                    other.execute("BEGIN EXCLUSIVE")
                    time.sleep(seconds)
                    other.execute("ROLLBACK")
                finally:
                    other.close()

    def _full(self) -> list[str]:
        """The disk fills, and stays full for a run or two."""
        aggregate = self._aggregate()
        if not self.disk or self.draw.random() < 0.5:  # within the process
            self._wait([self._order(f"run {aggregate}", fault=self._fault("full", "disk"))])
        else:
            filler = self.home.parent / "filler"
            with suppress(OSError), filler.open("wb") as file:
                while True:
                    file.write(bytes(1 << 16))
                    file.flush()
            with filler.open("rb+") as file:
                left = int(exp(self.draw.uniform(log(4096), log(400_000))))
                file.truncate(max(0, filler.stat().st_size - left))
            for _ in range(self.draw.randint(1, 2)):
                self._wait([self._order(f"run {aggregate}")])
                self._count("full")
            filler.unlink()
        self._freed(aggregate)
        return [aggregate]

    def _bad_line(self) -> list[str]:
        """S3 answers 500, 503, late, half, or has done what it says it has not."""
        aggregate = self._aggregate()
        assert self.line is not None
        before = self.line.done.copy()
        self.line.rate = exp(self.draw.uniform(log(0.02), log(0.5)))
        self._wait([self._order(f"run {aggregate}")])
        self.line.rate = 0.0
        for kind, count in (self.line.done - before).items():
            self._count(f"s3-{kind}", count)
        self._freed(aggregate)
        return [aggregate]

    # --- how children end ------------------------------------------------------------------------

    def _settled(self, children: list[Process]) -> None:
        if not self.mother.wait(children, PATIENCE):
            for child in children:
                with suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGUSR1)  # tells where it is
            time.sleep(0.5)
            raise Broken(f"a process hangs; see {self.mother.folder / 'log'}")

    def _wait(self, children: list[Process]) -> None:
        self._settled(children)
        for child in children:
            if child.stopped():
                os.kill(child.pid, signal.SIGCONT)
        self._settled(children)
        for child in children:
            self._ended(child)

    def _ended(self, child: Process) -> None:
        said, order = child.said(), child.order
        what = order["do"]
        fault = order.get("fault", {})
        told = f"  {what} {fault or ''} {order.get('clock') or ''} -> {child.status} {said}"
        self.trace.append(told[:600])
        if child.status == -signal.SIGKILL:
            self._count("kill")
            self.tally.outcomes["killed"] += 1
            return
        promise(child.status == 0 and "traceback" not in said, "errors", str(said.get("traceback")))
        if said["fired"] and fault["kind"] != "stop":
            self._count(f"{fault['kind']}-{fault['on']}")
        self.tally.outcomes[said.get("state") or said["error"]] += 1
        self.open_job |= said.get("error") == "job-open"
        promise(said.get("class") != "Corrupt", "errors", f"{what}: {said.get('message')}")
        if said.get("state") == "published" and what.startswith("run"):
            self.observer.acknowledged.add((what.split()[1], said["number"]))

    def _kill(self, child: Process) -> None:
        with suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)

    def _freed(self, aggregate: str) -> None:
        """The lease of the dead: another host waits until it is over, and so need not we."""
        with self._patient():
            lease = self.space.ledger.lease(aggregate)
            if lease is not None:
                self.space.ledger.release(lease)

    @contextmanager
    def _patient(self) -> Iterator[None]:
        try:
            yield
        except Unavailable:
            time.sleep(0.2)

    def _calm(self) -> None:
        """The parent's own connections may have been cut: the first question after that may fail."""
        for _ in range(50):
            with suppress(CatchmentError):
                self.space.ledger.aggregates()
                return
            time.sleep(0.1)

    def _count(self, what: str, number: int = 1) -> None:
        self.tally.hurts[what] += number

    # --- the end ---------------------------------------------------------------------------------

    def _end(self) -> None:
        """Nobody is hurt any more: what is there must be what a first run would make of it."""
        self.trace.append("the end")
        for aggregate in AGGREGATES:
            self._finish(aggregate)
        self.observer.all()
        for aggregate in AGGREGATES:
            self.observer.verify(aggregate)
        self._wait([self._order("gc")])
        self.observer.all()
        self.tally.looks = self.observer.looks
        self.tally.snapshots = sum(len(s.provenances) for s in self.observer.seen.values())
        self.tally.changes.update(self.world.changes)
        calm = workspaces.make_workspace(self.folder / "calm", self.folder / "in", more=STUDIES)
        with Workspace.open(calm, SETTINGS) as fresh:
            for site, data in self.world.expected.items():
                fresh.store.put(staged(site), data)
        order = {"folder": str(calm), "settings": SETTINGS, "ttl": 60}
        for aggregate in AGGREGATES:
            latest = self.space.ledger.latest(aggregate)  # rows tell the day of its run's clock
            off = latest.published_at.timestamp() - time.time() if latest else 0
            child = self.mother.send(do=f"run {aggregate}", clock=off, **order)
            self._settled([child])
            said = child.said()
            promise(
                "state" in said or said.get("class") == "Invalid",
                "clean run",
                f"{aggregate}: {said}",
            )
        with Workspace.open(calm, SETTINGS) as fresh:
            for aggregate in AGGREGATES:
                found, wanted = contents(self.space, aggregate), contents(fresh, aggregate)
                differing = sorted(
                    name for name in {*found, *wanted} if found.get(name) != wanted.get(name)
                )
                told = [(n, found.get(n), wanted.get(n)) for n in differing][:3]
                rows = differences(self.space, fresh, aggregate)[:6] if differing else []
                what = "\n".join([f"{aggregate}: {told}"[:3000], *rows])
                promise(not differing, "the same in the end", what)
        shutil.rmtree(self.folder / "in", ignore_errors=True)

    def _finish(self, aggregate: str) -> None:
        for _ in range(20):
            child = self._order(f"run {aggregate}")
            self._wait([child])
            said = child.said()
            if said.get("state") == "unchanged":
                return
            if said.get("error") == "job-open":
                self._wait([self._order(f"cancel {aggregate}")])
            self._freed(aggregate)
        raise Broken(f"{aggregate} does not come to rest: {said}")


@contextmanager
def running(parts: str, folder: Path) -> Iterator[Parts]:
    """The servers of a soak, of its own."""
    if parts == "embedded":
        yield Parts()
        return
    from catchment.testing import postgres, s3

    with ExitStack() as stack:
        database = stack.enter_context(postgres.running())
        factory = stack.enter_context(_factory(folder))
        server = s3.ministack.__wrapped__(factory)  # the fixture's function
        stack.callback(lambda: next(server, None))
        yield Parts(next(server), database)


@contextmanager
def _factory(folder: Path) -> Iterator[Any]:
    class Factory:
        def mktemp(self, name: str) -> Path:
            (folder / name).mkdir(parents=True, exist_ok=True)
            return folder / name

    yield Factory()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1, help="so many, from that one on")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--parts", choices=["embedded", "production"], default="embedded")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no seed after that")
    parser.add_argument("--record", type=Path, help="append what happened, as JSON lines")
    told = parser.parse_args()
    from tests.trust.world import make_template

    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="catchment-soak-") as name:
        folder = Path(name)
        template = make_template(folder / "template")
        with running(told.parts, folder) as parts, Mother(folder / "children") as mother:
            for seed in range(told.seed, told.seed + told.seeds):
                if time.monotonic() - begun > told.seconds:
                    break
                soak = Soak(seed, mother, template, folder / f"seed-{seed}", parts)
                tally = soak.run(told.steps)
                line = json.dumps({"parts": told.parts, **tally.to_json()})
                print(line, flush=True)  # noqa: T201 - a program of its own
                if told.record:
                    with told.record.open("a") as file:
                        file.write(line + "\n")


if __name__ == "__main__":
    main()

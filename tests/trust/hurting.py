"""Copies of a small house, hurt at one operation each: what the tests of trust share."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catchment.core.workspace import Workspace
from catchment.testing import workspaces
from tests.trust.content import contents
from tests.trust.observer import Observer
from tests.trust.soak import AGGREGATES, STUDIES, Mother, Process
from tests.trust.world import World

PATIENCE = 90
SETTINGS = {"executor.workers": 1, "exports.claims.threshold": 1.0}


@dataclass
class Grounds:
    """A house before a change of its sites was taken up, to be copied; and what must come of it.

    Attributes:
        home: the workspace, whose inputs have changed since its last run.
        wanted: what an undisturbed run makes of them, by aggregate.
    """

    home: Path
    mother: Mother
    wanted: dict[str, Mapping[str, str]] = field(default_factory=dict)
    _count: int = 0

    @contextmanager
    def fresh(self) -> Iterator[Place]:
        """A copy, removed at the end of the block."""
        self._count += 1
        folder = self.home.parent / f"copy{self._count}"
        shutil.copytree(self.home, folder)
        try:
            with Workspace.open(folder, SETTINGS) as workspace:
                yield Place(self, folder, workspace)
        finally:
            shutil.rmtree(folder)

    def learn(self) -> None:
        """What an undisturbed run comes to."""
        with self.fresh() as place:
            for aggregate in AGGREGATES:
                workspaces.run(place.workspace, aggregate)
                self.wanted[aggregate] = contents(place.workspace, aggregate)


@dataclass
class Place:
    """One copy."""

    grounds: Grounds
    folder: Path
    workspace: Workspace

    def __post_init__(self) -> None:
        self.observer = Observer(self.workspace)
        self.observer.look()

    def start(self, do: str, **more: Any) -> Process:
        """A process at work, which may stop or die."""
        given = {"ttl": 60} | more
        return self.grounds.mother.send(folder=str(self.folder), settings=SETTINGS, do=do, **given)

    def until(self, *children: Process) -> None:
        """They have ended, or stopped."""
        assert self.grounds.mother.wait(list(children), PATIENCE), "a process hangs"

    def do(self, do: str, **more: Any) -> dict[str, Any]:
        """What a process said; ``killed`` if it died."""
        child = self.start(do, **more)
        self.until(child)
        return self.end(child)

    def end(self, child: Process) -> dict[str, Any]:
        """Wake it, if it stopped; what it said."""
        with suppress(ProcessLookupError):
            if child.stopped():
                os.kill(child.pid, signal.SIGCONT)
                time.sleep(0.001)
        self.until(child)
        if child.status == -signal.SIGKILL:
            return {"killed": True, "fired": True}
        said = child.said()
        assert child.status == 0, said
        assert said.get("class") != "Corrupt", said
        return said

    def outlive(self) -> None:
        """The leases of the dead are over."""
        for aggregate in AGGREGATES:
            if (lease := self.workspace.ledger.lease(aggregate)) is not None:
                self.workspace.ledger.release(lease)

    def mend(self, aggregate: str) -> None:
        """A plain run ends where an undisturbed one does; collection takes nothing of it."""
        self.outlive()
        for _ in range(3):
            said = self.do(f"run {aggregate}")
            if said.get("state") == "unchanged":
                break
            self.outlive()
        assert said.get("state") == "unchanged", said
        self.do("gc")
        self.same(aggregate)

    def same(self, aggregate: str) -> None:
        """All promises hold, and what readers see is what it should be."""
        self.observer.all()
        self.observer.verify(aggregate)
        found, wanted = contents(self.workspace, aggregate), self.grounds.wanted[aggregate]
        differing = {n for n in {*found, *wanted} if found.get(n) != wanted.get(n)}
        assert not differing, [(n, found.get(n), wanted.get(n)) for n in differing]


def grow(folder: Path, template: Path) -> tuple[Path, World]:
    """A house with all five kinds published, and sites that have something new since."""
    import random

    from catchment.core.store import open_store

    home = workspaces.make_workspace(folder / "w", folder / "in", more=STUDIES)
    world = World(template, folder / "in", random.Random(3), open_store((home / "data").as_uri()))
    world.site_upload()
    with Workspace.open(home, SETTINGS) as workspace:
        for aggregate in AGGREGATES:
            workspaces.run(workspace, aggregate)
    for change in (
        "dataset_new",
        "records_new",
        "image_new",
        "image_damaged",
        "recording_new",
        "upload",
    ):
        getattr(world, f"site_{change}")()
    return home, world

"""A small house of all five kinds, made once; and a copy of it for each test."""

from __future__ import annotations

import random
import shutil

import pytest

from catchment.core.store import open_store
from catchment.core.workspace import Workspace
from catchment.testing import workspaces
from catchment.testing.postgres import postgres  # noqa: F401 - a fixture
from catchment.testing.s3 import moto  # noqa: F401 - a fixture
from tests.trust.soak import AGGREGATES, STUDIES, Mother
from tests.trust.world import World, make_template

SETTINGS = {"executor.workers": 1, "exports.claims.threshold": 1.0}


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """What the sites have."""
    return make_template(tmp_path_factory.mktemp("trust") / "template")


@pytest.fixture(scope="session")
def mother(tmp_path_factory):
    """One for all tests: what she imports takes seconds."""
    with Mother(tmp_path_factory.mktemp("children")) as made:
        yield made


@pytest.fixture(scope="session")
def grown(template, tmp_path_factory):
    """A workspace with all five kinds published, some of them twice."""
    folder = tmp_path_factory.mktemp("grown")
    home = workspaces.make_workspace(folder / "w", folder / "in", more=STUDIES)
    world = World(template, folder / "in", random.Random(3), open_store((home / "data").as_uri()))
    for _ in range(2):
        for change in ("dataset_new", "records_new", "image_new", "upload", "image_damaged"):
            getattr(world, f"site_{change}")()
        with Workspace.open(home, SETTINGS) as workspace:
            for aggregate in AGGREGATES:
                workspaces.run(workspace, aggregate)
    return home


@pytest.fixture
def home(grown, tmp_path):
    """A copy of it, to be hurt."""
    shutil.copytree(grown, tmp_path / "w")
    return tmp_path / "w"


@pytest.fixture
def house(home):
    with Workspace.open(home, SETTINGS) as workspace:
        yield workspace

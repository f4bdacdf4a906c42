"""A workspace with sites, and its application."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from catchment.testing.s3 import ministack, moto
from catchment.web.app import create_app
from tests.web.serving import Sites, make_workspace

__all__ = ["ministack", "moto"]


@pytest.fixture
def workspace(tmp_path):
    with make_workspace(tmp_path) as opened:
        yield opened


@pytest.fixture
def sites(workspace):
    with TestClient(create_app(workspace)) as client:
        yield Sites(workspace, client)


@pytest.fixture
def quiet(workspace):
    """The same, but nothing processes what arrives."""
    with TestClient(create_app(workspace, process=False)) as client:
        yield Sites(workspace, client)

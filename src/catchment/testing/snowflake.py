"""Snowflake for tests: ``fakesnow``, which acts like it on DuckDB, or a real account.

Import the fixture where it is needed: ``from catchment.testing.snowflake import fakesnow``. It is
no Snowflake: that the official connector and the statements are understood is shown, no more. A
real account is what ``CATCHMENT_TEST_SNOWFLAKE_ACCOUNT``, ``..._USER``, ``..._PASSWORD``,
``..._DATABASE``, ``..._COMPUTE`` and ``..._ROLE`` say.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from catchment.core.sections import WarehouseSettings

VARIABLE = "CATCHMENT_TEST_SNOWFLAKE_ACCOUNT"
_PATIENCE = 30  # seconds
# Its MERGE writes a comment into another database, which DuckDB allows in no transaction.
_PROGRAM = """
import sys, fakesnow.cli, fakesnow.info_schema as known
known.insert_table_comment_sql = lambda *_: "SELECT 1"
fakesnow.cli.main(sys.argv[1:])
"""


@pytest.fixture(scope="session")
def fakesnow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarehouseSettings]:
    """The settings that reach a server of fakesnow's, in a process of its own."""
    pytest.importorskip("snowflake.connector", reason="pip install 'catchment[snowflake]'")
    pytest.importorskip("fakesnow", reason="fakesnow is not installed (pip install fakesnow)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("fakesnow") / "log"
    command = [sys.executable, "-c", _PROGRAM, "--server", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own Python
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TMPDIR": str(log.parent)},  # its stages
        )
    try:
        end = time.monotonic() + _PATIENCE
        while not _listens(port):
            assert time.monotonic() < end, log.read_text()
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield WarehouseSettings.model_validate(
            {
                "kind": "snowflake",
                "account": "fakesnow",
                "user": "fake",
                "password": "snow",
                "database": "CATCHMENT",
                "endpoint": f"http://127.0.0.1:{port}",
            }
        )
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def real_snowflake() -> WarehouseSettings:
    """The settings of the account that the environment names."""
    start = VARIABLE.removesuffix("ACCOUNT")
    names = ("account", "user", "password", "database", "compute", "role")
    given = {name: os.environ.get(f"{start}{name.upper()}") for name in names}
    return WarehouseSettings.model_validate({"kind": "snowflake", **given})


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0

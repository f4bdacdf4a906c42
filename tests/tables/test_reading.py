"""What a worker loads before its first task: little, and no database."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from catchment.core.store import open_store
from tests.tables.running import People, Sites, Work, visits


@pytest.mark.parametrize(
    ("module", "task"),
    [
        ("catchment.tables.reading", "read"),
        ("catchment.tables.parquet", "vouch"),
        ("catchment.tables.keys", "scan"),
        ("catchment.tables.rewrite", "rewrite"),
    ],
)
def test_the_tasks_of_workers_need_no_database(module, task):
    code = (
        f"import sys; from {module} import {task}\n"
        f"print({task}.__module__, 'sqlalchemy' in sys.modules, 'alembic' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [module, "False", "False"]


def test_a_run_gives_its_workers_those_tasks_only(tmp_path):
    modules = set()

    class Watched(ThreadPoolExecutor):
        def submit(self, fn, /, *args, **kwargs):
            modules.add(fn.__module__)
            return super().submit(fn, *args, **kwargs)

    sites = Sites(open_store((tmp_path / "sites").as_uri()))
    rows = ("NACC000001", 10, "2020-01-01", 1), ("NACC000002", 20, "2020-01-01", 2)
    sites.add("alpha", 10, visits(*rows))
    sites.add("beta", 20, visits(*rows[:1]).set_column(3, "value", [["text"]]))
    people = People({"NACC000001": {10}})
    with Watched(2) as executor, Work(tmp_path, sites, people, executor=executor) as work:
        work.run()
    names = ("reading", "parquet", "rewrite")
    assert modules == {f"catchment.tables.{name}" for name in names}

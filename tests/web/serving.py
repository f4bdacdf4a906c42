"""A served workspace as its sites meet it, and what they upload."""

from __future__ import annotations

import io
import time
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq

from catchment.core import passwords
from catchment.core.ledger.access import Access
from catchment.core.workspace import Workspace
from catchment.studies import library

SECRET = "correct horse battery staple"
HASH = passwords.hash_secret(SECRET)  # one for all: it costs
SETTINGS = """
[executor]
kind = "threads"
workers = 4
[studies.flu]
min_cell = 0
"""


class Sites:
    """The served workspace as its sites meet it."""

    slowest = 0.2  # seconds between two questions

    def __init__(self, workspace, client):
        self.workspace, self.client = workspace, client

    def auth(self, user="anna"):
        return (user, SECRET)

    def ask(self, user="anna", study="flu", filename="flu.zip", version=None, path="/", **more):
        body = {"study": study, "filename": filename} | more.pop("body", {})
        if version is not None:
            body["data_package_version"] = version
        return self.client.post(path, json=body, auth=(user, SECRET), **more)

    def send(self, form, data, name="flu.zip", **fields):
        return self.client.post(
            form["url"], data=form["fields"] | fields, files={"file": (name, data)}
        )

    def show(self, transaction, user="anna"):
        return self.client.get(f"/uploads/{transaction}", auth=(user, SECRET))

    def wait(self, transaction, user="anna"):
        """What the site is told in the end."""
        deadline, pause = time.monotonic() + 240, 0.05
        while True:
            told = self.show(transaction, user).json()
            if told["state"] == "done" or time.monotonic() > deadline:
                return told
            time.sleep(pause)
            pause = min(2 * pause, self.slowest)

    def upload(self, data, user="anna", **asked):
        """Ask, send, wait; what the site is told."""
        offer = self.ask(user, **asked)
        assert offer.status_code == 200, offer.text
        sent = self.send(offer.json(), data)
        assert sent.status_code == 204, sent.text
        return self.wait(offer.headers["transaction-id"], user)


def cube(*counts):
    """A cube of one column: the total, then a count for each of a, b, ..."""
    names = [None, *"abcdefgh"[: len(counts)]]
    return pa.table(
        {
            "cnt": pa.array([sum(counts), *counts], pa.int64()),
            "letter": pa.array(names, pa.string()),
        }
    )


def parquet(table):
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def zipped(*members):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return data.getvalue()


def study(*counts, name="flu"):
    """What the library of a site exports of a study."""
    dates = pa.table({"min_date": ["2024-01-01"], "max_date": ["2024-06-30"]})
    return zipped(
        (f"{name}__letters.cube.parquet", parquet(cube(*counts))),
        (f"{name}__meta_date.meta.parquet", parquet(dates)),
    )


def published(workspace, package="letters", name="flu"):
    """The merged counts by site and letter."""
    (found,) = [p for p in library.packages(workspace) if (p.study, p.name) == (name, package)]
    table = pq.read_table(io.BytesIO(workspace.store.read(found.merged.key)))
    return {(r["site"], r["letter"]): r["cnt"] for r in table.to_pylist()}


def wait_until(look, seconds=120):
    """What it looks for, as soon as there is some."""
    deadline = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def make_workspace(folder, **settings):
    text = SETTINGS + "".join(f"[{key}]\n{value}\n" for key, value in settings.items())
    (folder / "catchment.toml").write_text(text)
    workspace = Workspace.open(folder)
    access = Access(workspace.ledger)
    for user, site in (("anna", "boston"), ("ben", "boston"), ("carl", "chicago")):
        access.add(site, user, HASH)
    return workspace

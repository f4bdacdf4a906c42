"""Take the pictures of the tour: Chromium looks at the workspace that ``make demo`` makes.

``make pictures`` writes them to ``docs/images``. Look at each before it is committed.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from shutil import which
from typing import Any
from urllib.parse import quote

from catchment.arrays import browse as sessions
from catchment.core import passwords
from catchment.core.ledger.access import Access
from catchment.core.ledger.people import People
from catchment.core.workspace import Workspace
from catchment.imaging import browse as imaging
from catchment.imaging.snapshot import open_snapshot
from catchment.testing.web import serving
from catchment.web.app import create_app

IMAGES = Path(__file__).parents[1] / "docs" / "images"
PASSWORD = passwords.new_secret()
WHERE = (
    '{"all":[["onset_month","sameMonthOrAfter","2024-01-01"],'
    '{"any":[["gender","strEq","female"],["race","strEq","asian"]]}]}'
)


def places(workspace: Workspace) -> dict[str, tuple[str, str]]:
    """Of each picture: where it is taken, and what shows that the page is drawn."""
    series = imaging.series_of(open_snapshot(workspace.store, workspace.ledger, "scans"))
    # Of the body: a head would show a face.
    longest = max((s for s in series if s["modality"] == "CT"), key=lambda one: one["images"])
    folder = sessions.folder_of(workspace, "recordings")
    store = sessions.partitions(folder)[0]["store"]
    session = sessions.sessions(folder, store)["sessions"][0]["session"]
    job = workspace.ledger.runs("exports/records", state="published")[0].id
    chart = f"column=onset_month&stratifier=gender&where={quote(WHERE)}"
    return {
        "overview": ("/ui/", "main .matrix"),
        "table": ("/ui/tables/nacc/2", "main h1"),
        "chart": (f"/ui/charts/core__count_patient__000?{chart}", "#plot[data-drawn]"),
        "series": (f"/ui/imaging/scans/series/{longest['series']}", "#picture[data-shown]"),
        "job": (f"/ui/exports/{job}", "#outputs tr"),
        "session": (f"/ui/arrays/recordings/{store}/sessions/{session}", "#canvas[data-drawn]"),
        "findings": ("/ui/findings?severity=error", "tbody tr"),
        "site": ("/ui/site", "main h1"),
    }


def take(folder: Path) -> None:
    """All of them, small in bytes."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    with (
        Workspace.open(folder) as workspace,
        serving(create_app(workspace, process=False)) as url,
        sync_playwright() as playwright,
    ):
        hashed = passwords.hash_secret(PASSWORD)
        people, access = People(workspace.ledger), Access(workspace.ledger)
        people.add("otto", "operator", hashed)
        access.add("boston", "anna", hashed)
        browser = playwright.chromium.launch(
            executable_path=which("chromium"), args=["--no-sandbox"]
        )
        for name, (path, drawn) in places(workspace).items():
            page = _signed_in(browser, url, "anna" if name == "site" else "otto")
            page.goto(path)
            page.wait_for_selector(drawn)
            page.wait_for_load_state("networkidle")
            if name == "series":  # in the middle there is most to see
                page.focus("#stage")
                for n in range(2, int(page.get_attribute("#at", "max") or 0) // 2 + 2):
                    page.keyboard.press("ArrowDown")
                    page.wait_for_selector(f"#picture[data-shown='{n}']")
            whole = Image.open(io.BytesIO(page.screenshot()))
            whole.resize((1000, 781)).quantize(256).save(IMAGES / f"{name}.png", optimize=True)
            page.context.close()
        browser.close()
        people.remove("otto")
        access.remove("anna")


def _signed_in(browser: Any, url: str, user: str) -> Any:
    view = {"width": 1280, "height": 1000}
    page = browser.new_context(base_url=url, color_scheme="light", viewport=view).new_page()
    page.goto("/ui/sign-in")
    page.fill("#user", user)
    page.fill("#password", PASSWORD)
    page.click("main button")
    page.wait_for_url(lambda found: "sign-in" not in found)
    return page


if __name__ == "__main__":
    take(Path(sys.argv[1]))

"""A person at Chromium walks through the workspace that `make demo` makes, page by page.

They build charts, scroll a series, zoom a signal, watch a job, and sign in as a site.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from shutil import which

import pytest

from catchment.arrays import browse as sessions
from catchment.exports import capability as exports
from catchment.imaging import browse as imaging
from catchment.imaging.snapshot import open_snapshot
from catchment.testing.web import serving
from catchment.web.app import create_app
from tests.web import demo as made
from tests.web.demo import PASSWORD

CHROMIUM = which("chromium")
AXE = Path(__file__).parent / "axe" / "axe.min.js"
SERIOUS = {"serious", "critical"}
CHART = "/ui/charts/core__count_patient__000"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    pytest.importorskip("playwright.sync_api")
    with made.demo(tmp_path_factory) as workspace:
        yield workspace


@pytest.fixture(scope="module")
def url(demo):
    with serving(create_app(demo, process=False)) as found:
        yield found


@pytest.fixture(scope="module")
def browser(demo):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Person:
    """Somebody at a browser; what the browser complains of is remembered."""

    def __init__(self, browser, url, *, scheme="light", width=1280):
        self.context = browser.new_context(
            base_url=url, color_scheme=scheme, viewport={"width": width, "height": 800}
        )
        self.context.set_default_timeout(30_000)
        self.page = self.context.new_page()
        self.complaints = []
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _said(self, message):
        if message.type == "error":
            self.complaints.append(message.text)

    def sign_in(self, user):
        self.page.goto("/ui/sign-in")
        self.page.fill("#user", user)
        self.page.fill("#password", PASSWORD)
        self.page.click("main button")
        self.page.wait_for_url(lambda found: "sign-in" not in found)
        return self

    def go(self, path):
        return self.page.goto(path).status  # loaded, with all that it names

    def axe(self):
        """What is seriously wrong for people who use a page otherwise."""
        self.page.evaluate(AXE.read_text())
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            (one["impact"], one["id"], [node["html"][:200] for node in one["nodes"][:3]])
            for one in found["violations"]
            if one["impact"] in SERIOUS
        ]


@pytest.fixture(scope="module")
def otto(browser, url):
    return Person(browser, url).sign_in("otto")


@pytest.fixture(scope="module")
def stack(demo):
    """The longest series."""
    found = imaging.series_of(open_snapshot(demo.store, demo.ledger, "scans"))
    return max(found, key=lambda one: one["images"])


@pytest.fixture(scope="module")
def pages(demo, stack):
    folder = sessions.folder_of(demo, "recordings")
    store = sessions.partitions(folder)[0]["store"]
    name = sessions.sessions(folder, store)["sessions"][0]["session"]
    run, job = (demo.ledger.runs(one)[0].id for one in ("tables/nacc", "exports/records"))
    return [
        "/ui/", "/ui/tables", "/ui/tables/nacc", "/ui/tables/nacc/1", "/ui/tables/nacc/2/since/1",
        "/ui/tables/nacc/2/rows/uds", "/ui/studies", "/ui/studies/core",
        f"{CHART}?column=race&stratifier=gender", "/ui/imaging", "/ui/imaging/scans/patients",
        "/ui/imaging/scans/series", f"/ui/imaging/scans/series/{stack["series"]}", "/ui/exports",
        f"/ui/exports/{job}", "/ui/arrays", f"/ui/arrays/recordings/{store}",
        f"/ui/arrays/recordings/{store}/sessions/{name}", "/ui/runs", f"/ui/runs/{run}",
        "/ui/findings", "/ui/sites", "/ui/sites/boston", "/ui/people", "/ui/audit",
    ]  # fmt: skip


def test_every_page_is_shown_without_a_complaint_and_is_open_to_all(otto, pages):
    for path in pages:
        assert otto.go(path) == 200, path
        assert otto.page.locator("h1").count() == 1, path
        assert otto.axe() == [], path
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert otto.page.evaluate(wide) <= 0, path
    assert otto.complaints == []


def test_in_the_dark_and_on_a_narrow_screen_too(browser, url, pages):
    for scheme, width in (("dark", 1280), ("light", 360)):
        person = Person(browser, url, scheme=scheme, width=width).sign_in("otto")
        for path in (pages[0], pages[2], pages[8], pages[12], "/ui/findings"):
            assert person.go(path) == 200
            assert person.axe() == [], (scheme, width, path)
            wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert person.page.evaluate(wide) <= 0, (scheme, width, path)
        assert person.complaints == []
        person.context.close()


def test_what_is_drawn_can_be_read_on_a_narrow_screen(browser, url):
    someone = Person(browser, url, width=375).sign_in("vera")
    someone.go("/ui/")
    someone.page.wait_for_selector("#throughput svg text")
    told = "all => all.map(one => one.getBoundingClientRect().height)"
    assert min(someone.page.eval_on_selector_all("#throughput svg text", told)) >= 10
    someone.page.set_viewport_size({"width": 1200, "height": 800})
    someone.page.wait_for_function(
        "document.querySelector('#throughput svg').viewBox.baseVal.width > 375"
    )
    assert someone.complaints == []
    someone.context.close()


def test_the_theme_is_chosen_and_kept(otto):
    otto.go("/ui/runs")
    otto.page.click("[data-theme-switch]")
    assert otto.page.evaluate("document.documentElement.dataset.theme") == "dark"
    otto.go("/ui/findings")
    assert otto.page.evaluate("document.documentElement.dataset.theme") == "dark"
    otto.page.click("[data-theme-switch]")
    assert otto.page.evaluate("document.documentElement.dataset.theme") == "light"


def test_a_keyboard_is_enough(otto):
    otto.go("/ui/")
    otto.page.keyboard.press("Tab")
    assert otto.page.evaluate("document.activeElement.className") == "skip"
    otto.page.keyboard.press("Enter")
    assert otto.page.evaluate("document.activeElement.id") == "main"


def test_a_chart_is_built_and_its_link_makes_it_again(otto, browser, url):
    page = otto.page
    otto.go(f"{CHART}?column=race")
    page.wait_for_selector("#plot[data-drawn]")
    page.select_option("#stratifier", "gender")
    page.click("text=Add a condition")
    page.select_option(".cond [data-is=column]", "onset_month")
    page.select_option(".cond [data-is=operator]", "sameMonthOrAfter")
    page.fill(".cond [data-is=value]", "2024-03-01")
    page.click("text=Add a group")
    second = page.locator(".group .group")
    second.locator("[data-is=column]").select_option("gender")
    second.locator("[data-is=value]").fill("female")
    page.click("#builder >> text=Show")
    page.wait_for_selector("#plot[data-drawn]")
    rows = page.locator("#counts tbody tr").count()
    assert rows > 2
    said = json.loads(page.input_value("#where"))
    assert said == {
        "all": [
            ["onset_month", "sameMonthOrAfter", "2024-03-01"],
            {"any": [["gender", "strEq", "female"]]},
        ]
    }
    assert page.locator(".group").count() == 2  # the form is as it was
    assert page.get_attribute("#png", "href").startswith("data:image/png;base64,")
    link, table = page.get_attribute("#link", "href"), page.inner_text("#counts")
    other = Person(browser, url).sign_in("vera")
    other.go(link)
    assert other.page.inner_text("#counts") == table
    with other.page.expect_download() as download:
        other.page.click("text=CSV")
    assert len(Path(download.value.path()).read_text().splitlines()) == rows + 1
    assert other.complaints == []
    other.context.close()


def test_a_form_that_was_sent_can_be_used_again(otto):
    """As after a way back, when a browser shows the page as it was left."""
    otto.go(CHART)
    otto.page.evaluate("document.addEventListener('submit', (one) => one.preventDefault())")
    otto.page.click("#builder >> text=Show")
    assert otto.page.locator("#builder [name]:disabled").count() == 0
    otto.go(CHART)
    otto.page.click("#builder >> text=Show")
    otto.page.wait_for_url(lambda found: "column=" in found)
    assert "where" not in otto.page.url, "what is empty makes no link longer"
    assert "stratifier" not in otto.page.url


def test_groups_are_nested_by_the_keyboard_alone(otto):
    """Built, shown, built again from the address, and taken apart; the focus is never lost."""
    page, keys = otto.page, otto.page.keyboard
    focused = "document.activeElement.dataset.is || document.activeElement.textContent"

    def press(name):
        for _ in range(80):
            if page.evaluate(focused) == name:
                return keys.press("Enter")
            keys.press("Tab")
        raise AssertionError(name)

    def typed(column, value):
        assert page.evaluate(focused) == "column"
        keys.type(column)
        keys.press("Tab")  # strEq stands there
        keys.press("Tab")
        keys.type(value)

    otto.go(f"{CHART}?column=race")
    page.focus(".group [data-is=word]")
    keys.type("any")
    press("Add a condition")
    typed("race", "white")
    press("Add a group")
    assert page.evaluate(focused) == "word"
    keys.press("Tab")
    typed("gender", "female")
    press("Add a group")
    keys.press("Tab")
    typed("race", "asian")
    tree = {
        "any": [
            ["race", "strEq", "white"],
            {"all": [["gender", "strEq", "female"], {"any": [["race", "strEq", "asian"]]}]},
        ]
    }
    assert json.loads(page.input_value("#where")) == tree
    press("Show")
    page.wait_for_url("**where=*")
    page.wait_for_selector("#plot[data-drawn]")
    assert json.loads(page.input_value("#where")) == tree
    assert page.locator(".group .group .group .cond").count() == 1
    assert otto.axe() == []
    assert page.locator("#counts tbody tr").count() == 2
    page.locator(".group .group .group >> text=Remove this group").focus()
    keys.press("Enter")
    assert page.evaluate(focused) == "column"  # of the condition before it
    for _ in range(3):
        keys.press("Tab")
    keys.press("Enter")  # the cross of that condition
    assert page.evaluate(focused) == "Add a condition"
    assert json.loads(page.input_value("#where")) == {"any": [["race", "strEq", "white"]]}
    assert otto.complaints == []


def test_a_filter_as_json_fills_the_form(otto):
    otto.go(f"{CHART}?column=race")
    otto.page.click("text=Filters as JSON")
    otto.page.fill("#where", '["gender","isNotNone"]')
    otto.page.press("#where", "Tab")
    assert otto.page.locator(".cond").count() == 1
    assert otto.page.locator(".cond [data-is=value]").is_hidden()
    otto.page.fill("#where", "{")
    otto.page.press("#where", "Tab")
    assert otto.page.locator(".cond").count() == 0
    assert otto.complaints == []


@pytest.mark.parametrize("kind", ["bar", "line", "map"])
def test_shapes_of_charts(otto, kind):
    otto.go(f"{CHART}?column=onset_month&kind={kind}")
    otto.page.wait_for_selector("#plot[data-drawn] canvas")
    drawn = otto.page.evaluate(
        "(() => { const c = document.querySelector('#plot canvas');"
        " const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        " const seen = new Set(); for (let i = 0; i < d.length; i += 4)"
        " if (d[i + 3]) seen.add(`${d[i]},${d[i + 1]},${d[i + 2]}`); return seen.size; })()"
    )
    assert drawn > 5  # something is painted, in more than one colour
    assert otto.complaints == []


def test_suppressed_cells_are_marked(otto):
    otto.go(f"{CHART}?column=onset_month&stratifier=gender")
    marked = otto.page.locator("#counts tbody tr", has_text="✕")
    told = otto.page.evaluate("JSON.parse(document.getElementById('plot').dataset.chart).rows")
    assert marked.count() == sum(1 for row in told if row["cells"] or row["hidden"]) > 0
    assert 0 < sum(1 for row in told if row["cells"]) < len(told)
    assert "suppressed" in otto.page.inner_text("main")


def test_a_map_of_what_is_no_month_says_so(otto):
    otto.go(f"{CHART}?column=race&kind=map")
    otto.page.wait_for_selector("#plot >> text=needs a column of days")


def test_a_series_is_scrolled_and_windowed(otto, stack):
    page = otto.page
    otto.go(f"/ui/imaging/scans/series/{stack['series']}")
    page.wait_for_selector("#picture[data-shown='1']")
    page.focus("#stage")
    slices = stack["images"]
    assert slices > 3
    for n in range(2, slices + 1):
        page.keyboard.press("ArrowDown")
        page.wait_for_selector(f"#picture[data-shown='{n}']")
    page.keyboard.press("ArrowDown")  # there is no further one
    assert page.inner_text("#where") == f"{slices} of {slices}"
    page.hover("#stage")
    page.mouse.wheel(0, -100)
    page.wait_for_selector(f"#picture[data-shown='{slices - 1}']")
    before = page.get_attribute("#picture", "src")
    page.select_option("#preset", "-600,1500")
    page.wait_for_function(
        "before => document.getElementById('picture').src !== before", arg=before
    )
    assert page.inner_text("#width-value") == "1500"
    assert otto.complaints == []


def test_signals_are_drawn_and_zoomed(otto, pages):
    page = otto.page
    otto.go(pages[17])
    page.wait_for_selector("#canvas[data-drawn]")
    whole = page.inner_text("#span")
    page.click("#in")
    page.wait_for_function(
        "told => document.getElementById('span').textContent !== told", arg=whole
    )
    assert "25 % to 75 %" in page.inner_text("#span")
    page.focus("#canvas")
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "() => document.getElementById('span').textContent.includes('50 % to 100 %')"
    )
    page.select_option("#variable", index=0)
    page.wait_for_function(
        "() => document.getElementById('span').textContent.includes('0 % to 100 %')"
    )
    assert otto.complaints == []


def test_lists_go_on(otto, demo):
    for n in range(60):
        run = demo.ledger.start_run("tables/many", {"n": n})
        demo.ledger.finish_run(run.id, "unchanged")
    otto.go("/ui/runs?aggregate=tables%2Fmany")
    assert otto.page.locator("tbody tr").count() == 51
    otto.page.click("text=Show more")
    otto.page.wait_for_function("() => document.querySelectorAll('tbody tr').length === 60")
    otto.page.wait_for_selector("#told >> text=More is shown.", state="attached")


def test_findings_are_searched(otto):
    otto.go("/ui/findings")
    otto.page.fill("#q", "Parquet")
    otto.page.press("#q", "Enter")
    otto.page.wait_for_url("**/findings?q=Parquet*")
    otto.page.select_option("#severity", "error")
    otto.page.wait_for_url("**severity=error*")
    assert otto.page.locator("tbody tr").count() >= 1


def test_a_live_job_is_watched_to_its_end(otto, demo, monkeypatch):
    """Batches wait for the test, so that the page is seen while the job runs."""
    from catchment.exports import batch

    gate, fetched = threading.Event(), batch.fetch

    def slowly(task):
        if task.number:
            gate.wait(60)
        return fetched(task)

    import catchment.exports.run as coordinator

    monkeypatch.setattr(coordinator, "fetch", slowly)
    settings = demo.settings.exports["records"].model_copy(update={"batch": 6})
    monkeypatch.setitem(demo.settings.exports, "records", settings)
    worker = threading.Thread(target=exports.run, args=(demo, "records"))
    worker.start()
    try:
        while not (found := demo.ledger.runs("exports/records", state="running")):
            assert worker.is_alive()
            worker.join(0.1)
        otto.page.goto(f"/ui/exports/{found[0].id}")
        otto.page.wait_for_function("() => document.getElementById('bar').value >= 6")
        assert otto.page.locator("#state").inner_text().endswith("running")
        otto.page.wait_for_selector("#live[data-events]")
    finally:
        gate.set()
        worker.join()
    otto.page.wait_for_function(
        "() => document.getElementById('state').textContent.includes('published')"
    )
    assert otto.page.inner_text("#done") == "40"
    assert otto.page.locator("#outputs tr").count() >= 1
    assert otto.complaints == []


def test_a_site_signs_in_and_is_refused_another_sites_page(browser, url):
    anna = Person(browser, url).sign_in("anna")
    assert anna.page.url.endswith("/ui/site")
    assert anna.page.inner_text("h1") == "boston"
    assert "seattle" not in anna.page.content()
    assert anna.axe() == []
    assert anna.go("/ui/sites/seattle") == 403
    assert "Not for you" in anna.page.inner_text("h1")
    assert anna.axe() == []
    anna.go("/ui/site")
    anna.page.click("text=Sign out")
    anna.page.wait_for_url("**/ui/sign-in")
    assert anna.axe() == []
    anna.go("/ui/site")
    assert "/ui/sign-in" in anna.page.url
    anna.context.close()

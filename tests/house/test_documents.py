"""The documents say what the program does: generated pages, names, and blocks that are run."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "catchment"
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
ROOMS = sorted(SOURCE.glob("*/README.md"))  # one of each capability, and of the core

# A fenced block. A comment before it may say why it is not run, or that it serves until it is
# stopped; blocks inside of a comment prepare what the reader of a page has already.
BLOCK = re.compile(
    r"(?:<!-- (?P<word>not run|serves)(?:: (?P<reason>[^\n]+))? -->\n)?"
    r"^```(?P<language>python|sh)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
# What else may stand in a fence: it is shown, and there is nothing to run.
SHOWN = {"text", "json", "toml", "yaml", "http", "sql"}
# Why blocks are not run, all of them. A reason that is not here has to be thought about first.
REASONS = {
    "make runs the tests, and this is one of them",
    "installs packages",
    "stands for your own bucket",
    "stands for your own FHIR server and its certificates",
    "stands for your own cluster",
    "listens on every address of the machine",
    "needs a client that is no part of this program",
    "needs Dagster's processes; tests/flows runs the same in one",
    "goes on until it is interrupted; tests/studies interrupts it",
}
SLUG = re.compile(r"[a-z]+[0-9]*(-[a-z0-9]+)+")
# Text that looks like a kind or a code and is none.
NOT_SLUGS = {
    "detail-type",  # of an event
    "not-supported",  # an issue type of FHIR
    "session-token",
    "secret-access-key",
    "force-virtual-addressing",
    "access-key-id",
    "accept-encoding",
    "if-none-match",
    "if-range",
    "catchment-put",
    "catchment-readiness",
    "catchment-digest",
    "catchment-remove",
    "catchment-safe",
    "center-id",
    "content-length",
    "content-length-range",
    "content-type",
    "is-active",
    "list-identifiers-for-naccid-lambda-function",
    "hx-request",
    "latin-1",
    "no-cache",
    "no-store",
    "retry-after",
    "same-origin",
    "sec-fetch-site",
    "transaction-id",
    "utf-8",
    "utf-8-sig",
    "vlen-utf8",
    "x-csrf-token",
    "x-forwarded-for",
}


def load_reference():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "tools" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", sorted(load_reference().PAGE))
def test_the_reference_is_what_the_code_says(page):
    made = load_reference().PAGE[page]()
    assert (REFERENCE / page).read_text("utf-8") == made, "run: make reference"


def test_every_slug_of_the_code_is_explained():
    """Kinds of errors, codes of findings, reasons: each has its place in the reference."""
    told = "\n".join(page.read_text("utf-8") for page in REFERENCE.glob("*.md"))
    unknown = {}
    for path in SOURCE.rglob("*.py"):
        if "testing" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            value = node.value if isinstance(node, ast.Constant) else None
            slug = isinstance(value, str) and SLUG.fullmatch(value) and value not in NOT_SLUGS
            if slug and f"`{value}`" not in told:
                unknown[value] = path.name
    assert unknown == {}


class Block(NamedTuple):
    """One fence of a page."""

    language: str
    code: str
    word: str  # "not run", "serves", or nothing
    reason: str


def blocks(page: Path) -> list[Block]:
    """The shell and Python of a page, in order."""
    return [
        Block(one["language"], one["code"], one["word"] or "", one["reason"] or "")
        for one in BLOCK.finditer(page.read_text("utf-8"))
    ]


def test_blocks_that_are_not_run_say_why():
    told = {b.reason for page in PAGES for b in blocks(page) if b.word == "not run"}
    assert told <= REASONS, "a new reason; is there no way to run the block?"
    assert told >= REASONS, "a reason that no block gives any more"


def test_every_fence_is_run_or_only_shown():
    """No block goes unseen because of how its fence is spelt."""
    odd = []
    for page in PAGES:
        text = page.read_text("utf-8")
        fences = re.findall(r"^ *```([^\n]*)\n.*?^ *```$", text, re.MULTILINE | re.DOTALL)
        odd += [f"{page.name}: {word}" for word in fences if word not in {*SHOWN, "python", "sh"}]
        assert len(blocks(page)) == sum(word in {"python", "sh"} for word in fences), page
    assert odd == []


def test_settings_in_the_documents_are_settings(tmp_path):
    """Each block of TOML can be loaded as ``catchment.toml``, but one that is a project's."""
    from catchment.core.settings import Settings

    count = 0
    for page in PAGES:
        text = page.read_text("utf-8")
        for code in re.findall(r"^ *```toml\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL):
            if not code.startswith("[project."):
                file = tmp_path / "catchment.toml"
                file.write_text(textwrap.dedent(code))
                assert Settings.load(file), page.name
                count += 1
    assert count > 10


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(b.word != "not run" for b in blocks(page))],
    ids=lambda page: page.stem,
)
def test_the_blocks_of_a_page_run(page, tmp_path):
    """One after the other, in a folder of their own, as a reader would type them.

    A block may leave variables for those after it in ``.env``, and processes that are to end with
    the page in ``*.pid``.
    """
    ours = ("CATCHMENT_", "PYTHON")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment["XDG_STATE_HOME"] = str(tmp_path / "state")
    folder = tmp_path / "reader"
    folder.mkdir()
    try:
        for block in blocks(page):
            if block.word != "not run":
                _run(block, folder, environment)
    finally:
        for pid in folder.rglob("*.pid"):
            with suppress(ProcessLookupError):
                os.kill(int(pid.read_text()), signal.SIGKILL)


def _run(block: Block, folder: Path, environment: dict[str, str]) -> None:
    python = block.language == "python"
    command = [sys.executable, "-c", block.code] if python else ["sh", "-euc", block.code]
    variables = folder / ".env"
    known = variables.read_text().splitlines() if variables.exists() else []
    told = folder.parent / "told"  # a file, since what goes on behind would hold a pipe
    with told.open("w") as out:
        child = subprocess.Popen(
            command, cwd=folder, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            env=environment | dict(line.split("=", 1) for line in known),
        )  # fmt: skip
        try:
            if block.word == "serves":
                deadline = time.monotonic() + 60
                while "http://" not in told.read_text() and time.monotonic() < deadline:
                    assert child.poll() is None, f"{block.code}\n{told.read_text()}"
                    time.sleep(0.1)
                assert "http://" in told.read_text()
            else:
                assert child.wait(120) == 0, f"{block.code}\n{told.read_text()}"
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


def test_links_between_pages_lead_somewhere():
    broken = [
        f"{page.name}: {target}"
        for page in [*PAGES, *ROOMS, ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md"]
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert broken == []


def test_the_site_builds_strictly(tmp_path):
    """As ``make docs`` builds it: links and anchors lead somewhere, or it fails."""
    program = Path(sys.executable).with_name("mkdocs")
    done = subprocess.run(
        [program, "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "tutorial" / "index.html").stat().st_size > 10_000


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    pages = [p.relative_to(DOCS).as_posix() for p in PAGES[1:] if not p.name.startswith("_")]
    assert [page for page in pages if page not in navigation] == []


def test_each_capability_has_a_page_that_names_its_modules_as_they_are():
    from catchment.core.capability import NAMES

    assert [page.parent.name for page in ROOMS] == sorted([*NAMES, "core"])
    for page in ROOMS:
        told = re.findall(r"`([a-z_/0-9]+(?:\.py|/))`", page.read_text("utf-8"))
        assert len(told) > 5
        assert [name for name in told if not (page.parent / name).exists()] == []
        modules = {path.name for path in page.parent.glob("*.py")} - {"__init__.py"}
        assert modules <= set(told), page


def test_architecture_names_what_there_is():
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    told = re.findall(r"`([a-z_]+/[a-z_/]*(?:\.py)?)`", text)
    assert told
    assert [name for name in told if not (SOURCE / name).exists()] == []
    folders = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
    assert folders == set(re.findall(r"^  ([a-z]+)/ ", text, re.MULTILINE))


def test_the_tour_goes_where_the_menu_leads():
    menu = (SOURCE / "web" / "pages" / "templates" / "base.html").read_text("utf-8")
    names = re.findall(r'{{ nav\("[^"]+", "([^"]+)"\) }}', menu)
    headings = " ".join(
        re.findall(r"^## (.*)", (DOCS / "tour.md").read_text("utf-8"), re.MULTILINE)
    )
    assert len(names) > 10
    assert [name for name in names[1:] if name.lower() not in headings.lower()] == []


def test_architecture_has_ten_sentences_that_begin_with_never():
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    assert len(re.findall(r"^\d+\. \*\*Never\*\* ", text, re.MULTILINE)) == 10
    assert len(text.splitlines()) <= 100


def test_benchmarks_are_recorded():
    text = (DOCS / "benchmarks.md").read_text("utf-8")
    for result in (ROOT / "bench" / "results").glob("*.json"):
        assert f"`{result.stem}`" in text


def test_the_names_of_python_are_there():
    from pydoc import locate

    told = set(re.findall(r"`(catchment(?:\.\w+)+)", (REFERENCE / "python.md").read_text("utf-8")))
    assert len(told) > 15
    told.remove("catchment.toml")
    assert [name for name in told if locate(name) is None] == []


def test_scale_tells_what_was_measured():
    """The tables of the page are those that ``python -m bench.scale`` prints."""
    from bench import scale

    file = ROOT / "bench" / "results" / "scale" / "constants.json"
    found = json.loads(file.read_text("utf-8"))["constants"]
    text = (DOCS / "explanation" / "scale.md").read_text("utf-8")
    assert scale.told(found) in text
    assert scale.model(found) in text


NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def test_every_invariant_has_the_test_that_is_named():
    """I1 to I10 in the words of the table, and every other test that a page of trust names."""
    text = (DOCS / "explanation" / "trust.md").read_text("utf-8")
    rows = re.findall(r"^\| I(\d+) \|[^|]+\| `(test_\w+)` \|", text, re.MULTILINE)
    assert [int(number) for number, _ in rows] == [*range(1, 11)]
    assert all(f"i{number}_" in name for number, name in rows)
    there = {
        node.name
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    for page in [*PAGES, ROOT / "ARCHITECTURE.md", *ROOMS]:
        told = page.read_text("utf-8")
        paths = set(re.findall(r"`(tests/[\w/]+(?:\.py)?)[`:]", told))
        assert [path for path in paths if not (ROOT / path).exists()] == [], page
        names = set(re.findall(r"`(?:[\w/.]+::)?(test_\w+)`", told))
        assert names - there == set(), page


def test_every_test_that_the_threat_model_names_is_there():
    text = (DOCS / "explanation" / "security.md").read_text("utf-8")
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and cells[0] != "attack":
            assert NAMED_TEST.search(cells[-1]), f"a line without a test: {line}"
    named = NAMED_TEST.findall(text)
    assert len(named) > 60
    for path, name in named:
        tree = ast.parse((ROOT / path).read_text("utf-8"))
        assert name in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}, name

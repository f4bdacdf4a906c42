"""The documents say what the program does: generated pages, names, and blocks that are run."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "catchment"
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

# A fenced block, and the comment that excuses it from being run: <!-- not run: reason -->.
BLOCK = re.compile(
    r"(?P<excuse><!-- not run: [^\n]+ -->\n)?^```(?P<language>python|sh)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
SLUG = re.compile(r"[a-z]+[0-9]*(-[a-z0-9]+)+")
# Text that looks like a kind or a code and is none.
NOT_SLUGS = {
    "detail-type",  # of an event
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


@pytest.mark.parametrize("page", ["cli.md", "settings.md", "errors.md", "pages.md"])
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


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and code of the blocks of a page that are to be run."""
    found = BLOCK.finditer(page.read_text("utf-8"))
    return [(block["language"], block["code"]) for block in found if not block["excuse"]]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem
)
def test_the_blocks_of_a_page_run(page, tmp_path):
    """One after the other, in a folder of their own, as a reader would type them."""
    ours = ("CATCHMENT_", "PYTHON")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment["XDG_STATE_HOME"] = str(tmp_path / "state")
    folder = tmp_path / "reader"
    folder.mkdir()
    for language, code in blocks(page):
        command = [sys.executable, "-c", code] if language == "python" else ["sh", "-euc", code]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"


def test_links_between_pages_lead_somewhere():
    broken = [
        f"{page.name}: {target}"
        for page in [*PAGES, ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md"]
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert broken == []


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    pages = [p.relative_to(DOCS).as_posix() for p in PAGES[1:] if not p.name.startswith("_")]
    assert [page for page in pages if page not in navigation] == []


def test_architecture_has_ten_sentences_that_begin_with_never():
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    assert len(re.findall(r"^\d+\. \*\*Never\*\* ", text, re.MULTILINE)) == 10
    assert len(text.splitlines()) <= 100


def test_benchmarks_are_recorded():
    text = (DOCS / "benchmarks.md").read_text("utf-8")
    for result in (ROOT / "bench" / "results").glob("*.json"):
        assert f"`{result.stem}`" in text

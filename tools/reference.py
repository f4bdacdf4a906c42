"""Write the reference pages that follow from the code: commands, settings, errors, HTTP, layout.

``make reference`` writes them; a test compares them with what is there.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "catchment"
PAGES = ROOT / "docs" / "reference"
NOTICE = "<!-- Written by `make reference` from the code; do not edit. -->"
CATEGORIES = {"Invalid", "NotFound", "Conflict", "Unavailable", "Corrupt"}


def cli() -> str:
    """Every command with its help."""
    os.environ["COLUMNS"] = os.environ["TERMINAL_WIDTH"] = "80"
    from typer.main import get_command

    from catchment.cli.main import app

    lines = [NOTICE, "# Commands", "", _intro("cli")]
    root = get_command(app)
    for path, command in _commands(root, ("catchment",), None):
        lines += [f"## {' '.join(path)}", "", "```text", command, "```", ""]
    return "\n".join(lines)


def _commands(
    command: Any, path: tuple[str, ...], parent: Any
) -> Iterator[tuple[tuple[str, ...], str]]:
    context = command.make_context(path[-1], [], parent=parent, resilient_parsing=True)
    yield path, command.get_help(context).rstrip()
    if hasattr(command, "list_commands"):
        for name in command.list_commands(context):
            yield from _commands(command.get_command(context, name), (*path, name), context)


def settings() -> str:
    """Every table of ``catchment.toml`` with its keys."""
    from catchment.core.settings import Settings

    lines = [NOTICE, "# Settings", "", _intro("settings")]
    for name, field in Settings.model_fields.items():
        section: Any = field.annotation
        title, variable = f"[{name}]", f"CATCHMENT_{name.upper()}__"
        if not hasattr(section, "model_fields"):  # a table of tables, by name
            section = section.__args__[1]
            title, variable = f"[{name}.NAME]", f"CATCHMENT_{name.upper()}__NAME__"
        lines += [f"## `{title}`", "", section.__doc__.replace("``", "`").strip(), ""]
        lines += ["| key | default | meaning |", "|---|---|---|"]
        for key, of in section.model_fields.items():
            default = "required" if of.is_required() else _toml(of.get_default())
            lines.append(f"| `{key}` | {default} | {of.description} |")
        lines += ["", f"In the environment: `{variable}<KEY>`.", ""]
    return "\n".join(lines)


def _toml(value: Any) -> str:
    return "" if value in (None, ()) else f"`{json.dumps(value)}`"


def errors() -> str:
    """Every kind of error, with what it says and what to do."""
    found: dict[str, set[tuple[str, str, str]]] = defaultdict(set)
    for path in sorted(SOURCE.rglob("*.py")):
        if "testing" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and (category := ast.unparse(node.func)) in CATEGORIES:
                named = {k.arg: k.value for k in node.keywords}
                if (kind := _text(named.get("kind"))) not in ("", "…"):
                    message, hint = (
                        _text(node.args[0]) if node.args else "",
                        _text(named.get("hint")),
                    )
                    found[kind].add((category, message, hint))
    lines = [NOTICE, "# Errors", "", _intro("errors")]
    for kind, uses in sorted(found.items()):
        lines += [f"## `{kind}`", ""]
        for category, message, hint in sorted(uses):
            said = f"“{message}”" if message else ""
            lines.append(f"- **{category}**: {said}" + (f" *{hint}*" if hint else ""))
        lines.append("")
    return "\n".join(lines)


def pages() -> str:
    """Every route of the pages with its role."""
    from inspect import getdoc

    from catchment.web import pages as parts
    from catchment.web.pages.route import PLACES

    known = {part.__name__.rpartition(".")[2]: (getdoc(part) or "") for part in parts.PARTS}
    lines = [NOTICE, "# Pages and their JSON", "", _intro("pages")]
    for name, told in known.items():
        lines += [f"## {told.partition(':')[0].rstrip('.')}", ""]
        lines += ["| page | JSON | role | what |", "|---|---|---|---|"]
        rows: dict[str, list[str]] = {}
        for place in PLACES:
            if place.part == name:
                path = place.path.partition("/")[2].partition("/")[2]
                row = rows.setdefault(f"{place.method} {path}", ["", "", place.role, place.told])
                row[0 if place.path.startswith("/ui") else 1] = (
                    f"`{'' if place.method == 'GET' else f'{place.method} '}{place.path}`"
                )
        lines += [f"| {' | '.join(row)} |" for row in rows.values()]
        lines.append("")
    return "\n".join(lines)


def http() -> str:
    """Every route that is not a page's: what it is for, its parameters, what it answers."""
    import tempfile

    from catchment.core.workspace import Workspace
    from catchment.web.app import create_app

    lines = [NOTICE, "# HTTP", "", _intro("http")]
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "workspace.store": Path(folder).as_uri(),
            "workspace.ledger": f"sqlite:///{folder}/ledger.db",
        }
        with Workspace.described(settings) as workspace:
            whole = create_app(workspace, process=False).openapi()
    parts: dict[str, list[str]] = {}
    for path, verbs in whole["paths"].items():
        for verb, of in verbs.items():
            (tag,) = of["tags"]
            if tag != "pages":
                parts.setdefault(tag, []).append(_route(f"{verb.upper()} {path}", of))
    for tag, rows in parts.items():
        lines += [f"## `{tag}`", "", "| route | what | parameters | answers |", "|---|---|---|---|"]
        lines += [*rows, ""]
    return "\n".join(lines)


def _route(name: str, of: dict[str, Any]) -> str:
    given = ", ".join(f"`{one['name']}`" for one in of.get("parameters", []))
    answers = sorted(set(of["responses"]) - {"422"})  # FastAPI's own word for our 400
    told = of.get("description") or of.get("summary", "")
    what = " ".join(told.partition("\n\n")[0].split()).replace("``", "`").replace("|", "\\|")
    return f"| `{name}` | {what} | {given} | {', '.join(answers)} |"


def layout() -> str:
    """Where each capability keeps what, as the modules say that alone spell the paths."""
    from catchment.core import capability
    from catchment.core.ledger.schema import metadata

    lines = [NOTICE, "# On disk", "", _intro("layout")]
    for name in capability.NAMES:
        text = ast.get_docstring(ast.parse((SOURCE / name / "layout.py").read_text("utf-8")))
        lines += [f"## {name.capitalize()}", "", *_prose((text or "").partition("\n\n")[2])]
    lines += ["## The ledger", "", "| table | columns |", "|---|---|"]
    for table in sorted(metadata.tables.values(), key=lambda one: one.name):
        keys = {column.name for column in table.primary_key}
        told = ", ".join(f"**{c.name}**" if c.name in keys else c.name for c in table.columns)
        lines.append(f"| `{table.name}` | {told} |")
    return "\n".join([*lines, ""])


def _prose(text: str) -> Iterator[str]:
    """A docstring as Markdown: what is indented stands as it is."""
    for part in text.replace("``", "`").split("\n\n"):
        lines = part.splitlines()
        if part.startswith("    "):
            yield from ["```text", *(line[4:] for line in lines), "```", ""]
        else:
            yield from [*(line.replace("::", ":") for line in lines), ""]


def codes() -> str:
    """Every code of a finding, and every reason of an account: where in the code it is given."""
    told = "".join((PAGES / f"{name}.md").read_text("utf-8") for name in ("findings", "imaging"))
    rows = [line.split("|")[1] for line in told.splitlines() if line.startswith("| `")]
    known = {code for row in rows for code in re.findall(r"`([a-z0-9-]+)`", row)}
    places: dict[str, set[str]] = defaultdict(set)
    for path in sorted(SOURCE.rglob("*.py")):
        if "testing" not in path.parts:
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Constant) and str(node.value) in known:
                    places[str(node.value)].add(path.relative_to(SOURCE).as_posix())
    lines = [NOTICE, "# Codes", "", _intro("codes"), "| code | given in |", "|---|---|"]
    for code, found in sorted(places.items()):
        lines.append(f"| `{code}` | {', '.join(f'`{one}`' for one in sorted(found))} |")
    return "\n".join([*lines, ""])


def _text(node: ast.expr | None) -> str:
    """The text of an expression, with ``…`` for what is known at run time only."""
    match node:
        case ast.Constant(str(value)):
            return value
        case ast.JoinedStr(values):
            return "".join(map(_text, values))
        case ast.BinOp(left, ast.Add(), right):
            return _text(left) + _text(right)
        case None:
            return ""
        case _:
            return "…"


def _intro(name: str) -> str:
    return (PAGES / f"_{name}.md").read_text("utf-8")


def licences() -> str:
    """Every package of an install without extras, with its licence."""
    lines = [NOTICE, "# Licences", "", _intro("licences")]
    lines += ["| package | licence | asked for by |", "|---|---|---|"]
    for name, (licence, by) in sorted(installed().items()):
        lines.append(f"| {name} | {licence} | {', '.join(sorted(by))} |")
    return "\n".join([*lines, ""])


def installed() -> dict[str, tuple[str, set[str]]]:
    """What an install without extras brings on Linux: licences, and who asks for each package."""
    from importlib.metadata import distribution

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, tuple[str, set[str]]] = {}
    left = [("catchment", "")]
    while left:
        name, extra = left.pop()
        for text in distribution(name).requires or ():
            wanted = Requirement(text)
            if wanted.marker and not wanted.marker.evaluate({"extra": extra}):
                continue
            one = canonicalize_name(wanted.name)
            if one not in found:
                found[one] = (_licence(distribution(one).metadata), set())
                left += [(one, more) for more in ["", *wanted.extras]]
            found[one][1].add(name)
    return found


def _licence(metadata: Any) -> str:
    """As the package says: an expression, else its classifiers, else a short text."""
    if expression := metadata.get("License-Expression"):
        return str(expression)
    named = [
        one.rpartition(" :: ")[2]
        for one in metadata.get_all("Classifier") or ()
        if one.startswith("License :: ") and one != "License :: OSI Approved"
    ]
    return ", ".join(named) or str(metadata.get("License", "")).partition("\n")[0] or "unknown"


PAGE = {
    "cli.md": cli,
    "settings.md": settings,
    "errors.md": errors,
    "pages.md": pages,
    "http.md": http,
    "layout.md": layout,
    "codes.md": codes,
    "licences.md": licences,
}


def main() -> None:
    """Write every page."""
    for name, make in PAGE.items():
        (PAGES / name).write_text(make(), "utf-8")


if __name__ == "__main__":
    main()

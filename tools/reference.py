"""Write the reference pages that follow from the code: commands, settings, errors.

``make reference`` writes them; a test compares them with what is there.
"""

from __future__ import annotations

import ast
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
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
    for path in sorted((ROOT / "src" / "catchment").rglob("*.py")):
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


PAGE = {"cli.md": cli, "settings.md": settings, "errors.md": errors, "pages.md": pages}


def main() -> None:
    """Write every page."""
    for name, make in PAGE.items():
        (PAGES / name).write_text(make(), "utf-8")


if __name__ == "__main__":
    main()

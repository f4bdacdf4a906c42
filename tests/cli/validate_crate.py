"""Validates crates without a network: ``python validate_crate.py FOLDER...``, beside roc-validator.

The context of RO-Crate comes from the package ``rocrate`` instead of its address.
"""

from __future__ import annotations

import contextlib
import json
import sys
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import rdflib.plugins.parsers.jsonld as parser
import requests.adapters
from rdflib.plugins.shared.jsonld import context, util
from rocrate_validator.cli import cli

CONTEXT = "https://w3id.org/ro/crate/1.1/context"
TEXT = files("rocrate").joinpath("data", "ro-crate.jsonld").read_bytes()
real_json, real_send = util.source_to_json, requests.adapters.HTTPAdapter.send


def carried(source, *more, **options):
    if source == CONTEXT:
        return json.loads(TEXT), None
    return real_json(source, *more, **options)


def send(self, request, *more, **options):
    if request.url != CONTEXT:
        return real_send(self, request, *more, **options)
    answer = requests.Response()
    answer.status_code, answer._content, answer.url = 200, TEXT, CONTEXT
    answer.request = request
    answer.headers["Content-Type"] = "application/ld+json"
    return answer


for module in (util, context, parser):
    module.source_to_json = carried
requests.adapters.HTTPAdapter.send = send

issues = []
with TemporaryDirectory() as place:
    for folder in sys.argv[1:]:
        out = Path(place, "out.json")
        sys.argv = [
            "x",
            "-y",
            "validate",
            "--no-paging",
            "--no-cache",
            "-f",
            "json",
            "-o",
            str(out),
        ]
        sys.argv += ["-p", "ro-crate-1.1", folder]
        with contextlib.suppress(SystemExit):
            cli()
        told = json.loads(out.read_text())
        issues += [f"{folder}: {one['message']}" for one in told["issues"]]
        assert told["statistics"]["total_checks"] > 30, told["statistics"]
sys.exit("\n".join(issues) or 0)

"""Whatever is asked: no answer is a fault of the program, and the OpenAPI document tells the truth."""

from __future__ import annotations

import base64

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import status_code_conformance

from catchment.web.app import create_app
from tests.web.serving import SECRET, make_workspace

CHECKS = [not_a_server_error, status_code_conformance]
LOGIN = {"Authorization": "Basic " + base64.b64encode(f"anna:{SECRET}".encode()).decode()}


def test_no_question_breaks_the_site_api(tmp_path):
    with make_workspace(tmp_path) as workspace:
        app = create_app(workspace, process=False)
        api = schemathesis.openapi.from_asgi("/openapi.json", app)
        asked = []
        for found in api.get_all_operations():
            operation = found.ok()
            if "sites" not in operation.definition.raw.get("tags", []):
                continue  # what dashboards ask is tested where it is made

            @given(case=operation.as_strategy())
            @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
            def ask(case):
                case.call_and_validate(headers=LOGIN, checks=CHECKS)

            ask()
            asked.append(operation.label)
    assert sorted(asked) == [
        "GET /uploads/{transaction}", "POST /", "POST /uploads/form", "POST /{network}",
    ]  # fmt: skip

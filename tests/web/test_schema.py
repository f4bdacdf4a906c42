"""Whatever is asked: no answer is a fault of the program, and the OpenAPI document tells the truth."""

from __future__ import annotations

import base64

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import status_code_conformance

from catchment.web.app import create_app
from tests.web.looking import add_people, signed_in
from tests.web.serving import SECRET, make_workspace

CHECKS = [not_a_server_error, status_code_conformance]
LOGIN = {"Authorization": "Basic " + base64.b64encode(f"anna:{SECRET}".encode()).decode()}


def test_no_question_breaks_the_pages(tmp_path):
    """Nor what a page shows of it; the JSON answers with what its document says."""
    with make_workspace(tmp_path) as workspace:
        add_people(workspace)
        app = create_app(workspace, process=False)
        looker = signed_in(app, "operator")
        cookie = {"Cookie": f"catchment-session={looker.client.cookies['catchment-session']}"}
        api = schemathesis.openapi.from_asgi("/openapi.json", app)
        asked = 0
        for found in api.get_all_operations():
            operation = found.ok()
            if "pages" not in operation.definition.raw.get("tags", []):
                continue

            @given(case=operation.as_strategy())
            @settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
            def ask(case):
                case.call_and_validate(headers=cookie, checks=CHECKS)

            ask()
            asked += 1
    assert asked > 25


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

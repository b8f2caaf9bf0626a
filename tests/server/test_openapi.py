"""The OpenAPI page says what is really served, and nothing made from it gets an answer that it does not tell of."""

import re
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.server.served import Served

EXAMPLES = 15
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]


def test_it_lists_every_route_and_no_other(onnx_server: Served) -> None:
    app = onnx_server.service.server._app
    served = {(path, method.lower()) for path, methods in app._pages.items() for method in methods}
    served |= {(path, "post") for path in app.inference}
    document = onnx_server.call("GET", "/openapi.json").json
    told = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert told == served
    assert document["openapi"].startswith("3.1") and document["info"]["title"] == "digits on modelramp"
    for path, method in told - {(path, "post") for path in app.inference}:
        assert onnx_server.call(method.upper(), path).status == (404 if path.endswith("/example") else 200), path


def test_its_examples_are_answered(onnx_server: Served, lookup_server: Served, echo_server: Served) -> None:
    for server in (onnx_server, lookup_server, echo_server):
        document = server.call("GET", "/openapi.json").json
        bodies = {
            path: methods["post"]["requestBody"]["content"]["application/json"]["example"]
            for path, methods in document["paths"].items()
            if "requestBody" in methods.get("post", {})
        }
        assert len(bodies) == 4
        for path, body in bodies.items():
            assert server.call("POST", path, body).status == 200, path


def test_the_page_for_people_needs_no_other_host(onnx_server: Served) -> None:
    reply = onnx_server.call("GET", "/docs")
    text = reply.body.decode()
    assert reply.headers["content-type"].startswith("text/html")
    assert not re.search(r"<(script|link|img|iframe)|https?://|@import|url\(", text)
    for path in onnx_server.call("GET", "/openapi.json").json["paths"]:
        assert f"<code>{path}</code>" in text


def test_pages_of_a_model_that_is_loading(start: Any, lookup_model: Any) -> None:
    server = start(lookup_model, wait=False)
    for path in ("/openapi.json", "/docs", "/info", "/healthz"):
        assert server.call("GET", path).status == 200


def test_who_is_served_and_by_what(sklearn_server: Served) -> None:
    info = sklearn_server.call("GET", "/info").json
    assert (info["state"], info["runtime"], info["device"]) == ("ready", "sklearn", "cpu")
    assert info["model"] == {"name": "digits", "version": "3", "revision": "aaaaaaaa"}
    model = sklearn_server.call("GET", "/model/info").json
    assert model["inputs"] == [{"name": "input", "datatype": "FP64", "shape": [-1, 64]}]
    assert model["batch_rows"] >= 1 and model["params"] == []


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_nothing_made_from_it_breaks_the_server(onnx_server: Served, mode: str, subtests: Any) -> None:
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{onnx_server.port}/openapi.json")
    tried = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if "/versions/" in operation.path or not (operation.body or mode == "positive"):
            continue
        tried += 1
        with subtests.test(operation.label):
            probe(operation, schemathesis.GenerationMode(mode), EXAMPLES if operation.body else 1)
    assert tried >= (20 if mode == "positive" else 3)


def probe(operation: Any, mode: Any, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        response = case.call()
        assert response.status_code < 500 or response.status_code in (503, 504), response.text
        case.validate_response(response, checks=CHECKS)

    check()

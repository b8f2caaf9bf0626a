"""Asking a Prometheus server. The bodies of the answers are those of Prometheus 2.42, labels shortened."""

import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from modelramp.adapters.credentials import Credentials
from modelramp.adapters.prometheus import Prometheus
from modelramp.ports import QueryError

Handler = Callable[[web.Request], web.StreamResponse]
NO_LOGIN = Credentials()


def success(kind: str, result: Any) -> web.Response:
    return web.json_response({"status": "success", "data": {"resultType": kind, "result": result}})


def sample(value: str, **labels: str) -> dict[str, Any]:
    return {"metric": labels, "value": [1795277160.983, value]}


@asynccontextmanager
async def server(answer: Handler, credentials: Credentials = NO_LOGIN) -> AsyncIterator[Prometheus]:
    """An adapter for a server that answers so, at a path of its own."""

    async def handle(request: web.Request) -> web.StreamResponse:
        await request.post()
        return answer(request)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with Prometheus(f"http://127.0.0.1:{runner.addresses[0][1]}/prom/", credentials) as adapter:
            yield adapter
    finally:
        await runner.cleanup()


async def asked(answer: web.Response, query: str = "up") -> float:
    async with server(lambda _: answer) as prometheus:
        return await prometheus.value(query)


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (success("scalar", [1795277160.993, "1"]), 1.0),
        (success("vector", [sample("0.099")]), 0.099),
        (success("vector", [sample("-1.5e-07", job="self")]), -1.5e-07),
    ],
)
async def test_one_value_is_told(answer: web.Response, value: float) -> None:
    assert await asked(answer) == value


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (success("vector", []), "no data: nothing matches the query"),
        (success("vector", [sample("1", code="200"), sample("2", code="400")]), "2 series where one is wanted"),
        (success("vector", [sample("NaN")]), "the value is NaN"),
        (success("scalar", [1795277146.663, "NaN"]), "the value is NaN"),
        (success("vector", [sample("+Inf")]), "the value is \\+Inf"),
        (success("matrix", []), "a matrix where a vector or a scalar is wanted"),
        (success("string", [1795277146.815, "x"]), "a string where"),
        (success("vector", [{"metric": {}, "histogram": [1, {}]}]), "not as Prometheus does"),
        (success("vector", 3), "not as Prometheus does"),
        (web.json_response([]), "answered 200, and not as Prometheus does"),
        (web.json_response({"status": "success", "data": None}), "not as Prometheus does"),
        (web.Response(text="<html>Log in</html>", status=401), "answered 401, and not as Prometheus does"),
        (web.Response(status=302, headers={"Location": "http://elsewhere.invalid/"}), "answered 302, and not"),
        (web.Response(body=b"x" * (2 << 20)), "more than 1048576 bytes"),
        (
            web.json_response(
                {
                    "status": "error",
                    "errorType": "bad_data",
                    "error": 'invalid parameter "query": 1:5: parse error: unclosed left parenthesis',
                },
                status=400,
            ),
            'answered 400: invalid parameter "query": 1:5: parse error: unclosed left parenthesis',
        ),
    ],
)
async def test_everything_else_is_an_error_in_words(answer: web.Response, words: str) -> None:
    with pytest.raises(QueryError, match=words):
        await asked(answer)


async def test_nobody_there_is_an_error() -> None:
    async with Prometheus("http://127.0.0.1:9", NO_LOGIN) as prometheus:
        with pytest.raises(QueryError, match=r"127\.0\.0\.1:9"):
            await prometheus.value("up")


async def test_the_query_is_posted_whole_below_the_servers_path() -> None:
    seen: list[tuple[str, str, dict[str, Any]]] = []

    def answer(request: web.Request) -> web.Response:
        form = request._post or {}
        seen.append((request.method, request.path, dict(form)))
        return success("scalar", [1, "1"])

    query = 'sum(rate(x{a="b&c=d",e=~"f+"}[1m])) > bool 0'
    async with server(answer) as prometheus:
        await prometheus.value(query)
    assert seen == [("POST", "/prom/api/v1/query", {"query": query, "timeout": "5s"})]


async def test_the_login_is_read_anew_for_each_query(tmp_path: Path) -> None:
    token, seen = tmp_path / "token", []

    def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return success("scalar", [1, "1"])

    async with server(answer, Credentials(token_file=token)) as prometheus:
        with pytest.raises(QueryError, match="cannot read the token in"):
            await prometheus.value("up")
        for content in ("first", "second\n"):
            token.write_text(content)
            await prometheus.value("up")
    assert seen == ["Bearer first", "Bearer second"]


async def test_a_user_and_a_password_do_as_well(tmp_path: Path) -> None:
    user, password = tmp_path / "user", tmp_path / "password"
    user.write_text("oper\u00e4tor")
    password.write_text("a:b\n")
    seen: list[str | None] = []

    def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return success("scalar", [1, "1"])

    async with server(answer, Credentials(username_file=user, password_file=password)) as prometheus:
        await prometheus.value("up")
    assert seen == ["Basic " + base64.b64encode("oper\u00e4tor:a:b".encode()).decode()]


async def test_without_a_login_none_is_sent() -> None:
    async with server(lambda r: success("scalar", [1, str(len(r.headers.getall("Authorization", [])))])) as prometheus:
        assert await prometheus.value("up") == 0.0


async def test_the_authorities_of_its_certificate_are_those_of_the_file(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.crt"
    bundle.write_text("no certificate")
    async with server(lambda _: success("scalar", [1, "1"]), Credentials(ca_file=bundle)) as prometheus:
        with pytest.raises(QueryError):
            await prometheus.value("up")

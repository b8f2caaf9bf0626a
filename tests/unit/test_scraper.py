"""Reading what pods count: the contract's series, and pods that answer rubbish, too much, or too late."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from modelramp.adapters import scraper
from modelramp.adapters.exposition import pod_metrics
from modelramp.adapters.kube_api import KubeApi
from modelramp.adapters.pod_http import DirectFetch, ProxyFetch
from modelramp.adapters.scraper import Scraper
from modelramp.domain.world import Pod, PodMetrics, SplitCounts

LABELS = 'model="digits",version="3",revision="3f2a9c01"'


def split_requests(side: str, salt: str, outcome: str, count: float) -> str:
    labels = f'{LABELS},side="{side}",target="aaaaaaaa",salt="{salt}",outcome="{outcome}"'
    return f"modelramp_split_requests_total{{{labels}}} {count}"


def service_seconds(side: str, salt: str, le: str, count: float, target: str = "aaaaaaaa") -> str:
    """As prometheus_client writes it: labels by name, the bound first."""
    labels = f'le="{le}",{LABELS},salt="{salt}",side="{side}",target="{target}"'
    return f"modelramp_split_service_seconds_bucket{{{labels}}} {count}"


def predictions(side: str, salt: str, name: str, count: float, target: str = "aaaaaaaa") -> str:
    labels = f'{LABELS},side="{side}",target="{target}",salt="{salt}",class="{name}"'
    return f"modelramp_predictions_total{{{labels}}} {count}"


def shadow_answers(salt: str, result: str, count: float) -> str:
    labels = f'{LABELS},target="aaaaaaaa",salt="{salt}",result="{result}"'
    return f"modelramp_shadow_answers_total{{{labels}}} {count}"


OUTCOMES = ("ok", "bad", "slow", "neutral", "error", "skipped")
TEXT = "\n".join(
    [
        "# HELP modelramp_split_requests_total Requests by the side they were dealt to.",
        "# TYPE modelramp_split_requests_total counter",
        split_requests("stable", "", "ok", 900),
        split_requests("stable", "", "bad", 2),
        split_requests("stable", "", "refused", 3),
        split_requests("stable", "8f", "ok", 90),
        split_requests("candidate", "8f", "ok", 7),
        split_requests("candidate", "8f", "bad", 2),
        split_requests("candidate", "8f", "slow", 3),
        split_requests("candidate", "8f", "neutral", 4),
        split_requests("candidate", "8f", "error", 5),
        split_requests("candidate", "8f", "skipped", 6),
        split_requests("candidate", "8f", "something new", 99),
        "# TYPE modelramp_split_requests_created gauge",
        f'modelramp_split_requests_created{{{LABELS},side="stable",target="",salt="",outcome="ok"}} 1.7e+09',
        "# TYPE modelramp_split_service_seconds histogram",
        service_seconds("stable", "", "0.01", 880.0),
        service_seconds("stable", "", "0.016", 899.0),
        service_seconds("stable", "", "+Inf", 900.0),
        f"modelramp_split_service_seconds_sum{{{LABELS}}} 7.5",
        service_seconds("stable", "8f", "+Inf", 90),
        service_seconds("candidate", "8f", "0.01", 0),
        service_seconds("candidate", "8f", "+Inf", 7),
        service_seconds("a third", "8f", "+Inf", 7),
        predictions("stable", "8f", "7", 60),
        predictions("stable", "8f", 'a \\"b\\"', 30),
        predictions("candidate", "8f", "7", 5),
        predictions("candidate", "8f", "7", 2, target="bbbbbbbb"),
        predictions("a third", "8f", "7", 5),
        *(split_requests("shadow", "8f", outcome, 20 + n) for n, outcome in enumerate(OUTCOMES)),
        service_seconds("shadow", "8f", "+Inf", 20),
        *(shadow_answers("8f", result, 1 + n) for n, result in enumerate(("agree", "disagree", "incomparable", "?"))),
        f'modelramp_request_duration_seconds_bucket{{{LABELS},route="infer",le="+Inf"}} 999',
        "# TYPE modelramp_traffic_generation gauge",
        f"modelramp_traffic_generation{{{LABELS}}} 17",
        f"modelramp_traffic_weight{{{LABELS}}} 10",
        f"modelramp_traffic_shadow{{{LABELS}}} 20",
        f"modelramp_bad_window_seconds{{{LABELS}}} 3600",
        f"modelramp_bad_window_sum{{{LABELS}}} 12",
        f"modelramp_bad_window_squares{{{LABELS}}} 20",
        f"modelramp_failed_window_sum{{{LABELS}}} 15",
        f"modelramp_failed_window_squares{{{LABELS}}} 29",
        "process_start_time_seconds 1.7952e+09",
        "",
    ]
)
METRICS = PodMetrics(
    generation=17,
    weight=10,
    shadow=20,
    started=1.7952e9,
    splits={
        "": SplitCounts(
            stable_ok=900, stable_bad=2, stable_refused=3, stable_service={0.01: 880, 0.016: 899, inf: 900}
        ),
        "8f": SplitCounts(
            candidate_ok=7,
            candidate_bad=5,
            candidate_neutral=4,
            candidate_error=5,
            candidate_skipped=6,
            shadow_ok=20,
            shadow_bad=21 + 22,
            shadow_error=24,
            shadow_skipped=25,
            agree=1,
            disagree=2,
            incomparable=3,
            stable_ok=90,
            candidate_service={0.01: 0, inf: 7},
            shadow_service={inf: 20},
            stable_service={inf: 90},
            candidate_classes={"7": 7},
            stable_classes={"7": 60, 'a "b"': 30},
        ),
    },
    bad_seconds=3600,
    bad_sum=12,
    bad_squares=20,
    failed_sum=15,
    failed_squares=29,
)


def test_the_contracts_series_are_read_and_others_ignored() -> None:
    assert pod_metrics(TEXT) == METRICS


def test_an_older_server_has_its_refusals_among_what_is_bad() -> None:
    older = "\n".join(line for line in TEXT.split("\n") if "failed_window" not in line)
    assert pod_metrics(older) == replace(METRICS, failed_sum=12, failed_squares=20)


def test_targets_of_one_salt_are_added_up() -> None:
    text = (
        split_requests("candidate", "8f", "ok", 7)
        + "\n"
        + split_requests("candidate", "8f", "ok", 3).replace("aaaa", "b")
    )
    assert pod_metrics(text).splits["8f"].candidate_ok == 10


def test_histograms_of_one_salt_are_added_up_whatever_the_order_of_labels_and_bounds() -> None:
    bound_last = f'salt="8f",{LABELS},side="candidate",target="bb}} 7,le=\\"1\\"",le="%s"'
    text = [
        service_seconds("candidate", "8f", "+Inf", 5),
        service_seconds("candidate", "8f", "0.1", 4),
        f"modelramp_split_service_seconds_bucket{{{bound_last % '0.1'}}} 1",
        f"modelramp_split_service_seconds_bucket{{{bound_last % '+Inf'}}} 2",
    ]
    assert pod_metrics("\n".join(text)).splits["8f"].candidate_service == {0.1: 5, inf: 7}


@pytest.mark.parametrize(
    ("lines", "version"),
    [
        ([], 0),
        (["modelramp_traffic_generation 3"], 1),
        (["modelramp_traffic_generation 3", "modelramp_split_version 2"], 2),
        (['python_info{version="3.11"} 1', "http_requests_total 7"], 0),
    ],
)
def test_which_split_a_server_reads(lines: list[str], version: int) -> None:
    assert pod_metrics("\n".join([*lines, ""])).split_version == version


def test_a_pod_that_counts_nothing_yet_has_empty_counts() -> None:
    assert pod_metrics("") == PodMetrics(split_version=0)


@pytest.mark.parametrize(
    "text",
    [
        split_requests("stable", "", "ok", float("nan")),
        split_requests("stable", "", "ok", -1),
        "modelramp_traffic_generation +Inf",
        "modelramp_traffic_generation seventeen",
        "modelramp_split_requests_total{side=",
        pytest.param(service_seconds("stable", "", "+Inf", float("nan")), id="buckets of nan"),
        pytest.param(service_seconds("stable", "", "+Inf", float("inf")), id="infinitely many"),
        pytest.param(service_seconds("stable", "", "fast", 1), id="a bound that is no number"),
        pytest.param("modelramp_split_service_seconds_bucket{} 1", id="a bucket without bound"),
        pytest.param(service_seconds("stable", "", "0.1", 1), id="no total"),
        pytest.param(
            f"{service_seconds('stable', '', '0.1', 2)}\n{service_seconds('stable', '', '+Inf', 1)}",
            id="more within a bound than in all",
        ),
    ],
)
def test_counts_that_no_counter_can_have_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        pod_metrics(text)


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(answer: Answer, path: str = "/metrics") -> AsyncIterator[int]:
    """A pod on loopback (or the API server, by the path); its port."""
    application = web.Application()
    application.router.add_get(path, answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def read(port: int, *pods: Pod) -> dict[str, PodMetrics]:
    async with DirectFetch(port) as fetch:
        return dict(await Scraper(fetch).read("shop", pods or [Pod("p", "3f2a9c01", ip="127.0.0.1")]))


async def well(_: web.Request) -> web.StreamResponse:
    return web.Response(text=TEXT)


async def test_a_pod_is_read_over_http() -> None:
    async with serving(well) as port:
        assert await read(port) == {"p": METRICS}


async def test_pods_that_do_not_answer_are_absent_and_hide_no_others() -> None:
    async with serving(well) as port:
        pods = (Pod("p", "3f2a9c01", ip="127.0.0.1"), Pod("gone", "3f2a9c01", ip="127.0.0.2"), Pod("new", "3f2a9c01"))
        assert await read(port, *pods) == {"p": METRICS}


async def broken(_: web.Request) -> web.StreamResponse:
    return web.Response(status=500, text=TEXT)


async def elsewhere(request: web.Request) -> web.StreamResponse:
    if request.query:
        return await well(request)
    raise web.HTTPFound(f"{request.path}?followed")


async def rubbish(_: web.Request) -> web.StreamResponse:
    return web.Response(body=b"\xff\xfe<html>")


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(1000):
        await response.write(b"# filling\n" * 1000)
    return response


async def silent(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


@pytest.mark.parametrize("answer", [broken, elsewhere, rubbish, endless, silent], ids=lambda a: a.__name__)
async def test_an_answer_that_cannot_be_used_is_none(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraper, "SECONDS", 0.2 if answer is silent else 10.0)
    async with serving(answer) as port:
        assert await read(port) == {}


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with serving(well) as port:
        assert await read(port) == {"p": METRICS}


@pytest.mark.parametrize(("answer", "expected"), [(well, {"p": METRICS}), (broken, {}), (elsewhere, {}), (endless, {})])
async def test_a_pod_is_read_through_the_api_servers_proxy(
    answer: Answer, expected: dict[str, PodMetrics], tmp_path: Path
) -> None:
    async with serving(answer, "/api/v1/namespaces/shop/pods/p:8080/proxy/metrics") as port:
        api = await KubeApi.connect(kubeconfig(tmp_path, f"http://127.0.0.1:{port}"))
        assert await Scraper(ProxyFetch(api)).read("shop", [Pod("p", "3f2a9c01")]) == expected
        await api.close()


def kubeconfig(folder: Path, server: str) -> Path:
    named: dict[str, Any] = {"name": "it"}
    path = folder / "kubeconfig"
    written = {
        "clusters": [{**named, "cluster": {"server": server}}],
        "users": [{**named, "user": {}}],
        "contexts": [{**named, "context": {"cluster": "it", "user": "it"}}],
        "current-context": "it",
    }
    path.write_text(yaml.safe_dump(written))
    return path

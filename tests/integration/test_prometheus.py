"""The queries of docs/operations.md, asked of a real Prometheus that scrapes stand-ins for pods and an ingress."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from modelramp.adapters.credentials import Credentials
from modelramp.adapters.prometheus import Prometheus
from modelramp.domain.findings import Answer, Question
from modelramp.domain.world import Unreachable
from modelramp.edge.settings import PrometheusSettings
from modelramp.engine.sources import Sources
from modelramp.ports import Key, QueryError
from tests.integration.prometheus_server import prometheus

ROOT = Path(__file__).resolve().parents[2]
KEY = Key("shop", "digits")
CANDIDATE, STABLE, IDLE = "3f2a9c01", "77b1e0d2", "00000000"
LONGEST = 30.0
NOTHING = Unreachable("default: the value is NaN: nothing to judge")


def offered() -> PrometheusSettings:
    """The configuration of the page, as the operator reads it."""
    page = (ROOT / "docs/operations.md").read_text()
    block = re.search(r"```yaml\n(prometheus:.*?)```", page, flags=re.DOTALL)
    assert block
    return PrometheusSettings.model_validate(yaml.safe_load(block[1])["prometheus"]["default"])


class Exporters:
    """What is scraped. Counters have grown by 100 requests, 3 of them failed, whenever it is scraped again."""

    def __init__(self, *, failing: bool = True) -> None:
        self.scrapes = 0
        self.failing = failing

    async def candidate(self, _: web.Request) -> web.Response:
        self.scrapes += 1
        return durations({"0.1": 90 * self.scrapes, "0.25": 100 * self.scrapes, "+Inf": 100 * self.scrapes})

    async def stable(self, _: web.Request) -> web.Response:
        """Much slower."""
        return durations({"0.25": 0, "30": 100 * self.scrapes, "+Inf": 100 * self.scrapes})

    async def idle(self, _: web.Request) -> web.Response:
        return durations({"0.25": 7, "+Inf": 7})

    async def ingress(self, _: web.Request) -> web.Response:
        counts = {("digits", "200"): 97, ("digits", "502"): 3, ("other", "502"): 100}
        return web.Response(
            text="".join(
                f'nginx_ingress_controller_requests{{namespace="shop",service="{service}",status="{status}"}}'
                f" {count * self.scrapes}\n"
                for (service, status), count in counts.items()
                if self.failing or status == "200"
            )
        )


def durations(buckets: Mapping[str, int]) -> web.Response:
    name = "modelramp_request_duration_seconds_bucket"
    return web.Response(text="".join(f'{name}{{route="infer",le="{le}"}} {n}\n' for le, n in buckets.items()))


@asynccontextmanager
async def exporting(exporters: Exporters) -> AsyncIterator[list[dict[str, Any]]]:
    """What Prometheus is to scrape; namespace and pod as a PodMonitor has them."""
    application = web.Application()
    pods = {CANDIDATE: exporters.candidate, STABLE: exporters.stable, IDLE: exporters.idle}
    for revision, handler in pods.items():
        application.router.add_get(f"/{revision}", handler)
    application.router.add_get("/ingress", exporters.ingress)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    target = f"127.0.0.1:{runner.addresses[0][1]}"
    every = {"scrape_interval": "200ms", "scrape_timeout": "200ms"}
    found = [
        {
            "job_name": revision,
            "metrics_path": f"/{revision}",
            "static_configs": [
                {"targets": [target], "labels": {"namespace": "shop", "pod": f"digits-{revision}-7d5f-x2x4z"}}
            ],
            **every,
        }
        for revision in pods
    ]
    ingress = {
        "job_name": "ingress",
        "metrics_path": "/ingress",
        "honor_labels": True,
        "static_configs": [{"targets": [target]}],
    }
    try:
        yield [*found, {**ingress, **every}]
    finally:
        await runner.cleanup()


async def answered(sources: Sources, revision: str, query: str, done: Callable[[Answer], bool]) -> Answer:
    """What is said of a query, once it is that."""
    about: Mapping[str, str] = {"revision": revision, "stable": STABLE}
    answer: Answer = None
    async with asyncio.timeout(LONGEST):
        while not done(answer):
            await asyncio.sleep(0.1)
            answer = (await sources.ask(KEY, [Question("default", query, about)]))[query]
    return answer


def a_number(answer: Answer) -> bool:
    return isinstance(answer, float)


async def test_the_queries_that_the_docs_offer_give_what_they_say(tmp_path: Path) -> None:
    async with (
        exporting(Exporters()) as scrapes,
        prometheus(tmp_path, scrapes, {}) as uri,
        Prometheus(uri, Credentials()) as adapter,
    ):
        sources = Sources({"default": offered().config()}, {"default": adapter})
        slowest = await answered(sources, CANDIDATE, "p99-latency", a_number)
        assert slowest == pytest.approx(0.1 + 0.15 * 0.9, rel=1e-6), "the slow pods of stable are not in it"
        failed = await answered(sources, CANDIDATE, "error-rate", a_number)
        assert failed == pytest.approx(0.03, rel=0.2), "nor is another Service"
        await answered(sources, IDLE, "p99-latency", lambda it: it == NOTHING)  # nobody asks it anything


async def test_no_failed_request_at_all_is_a_rate_of_zero(tmp_path: Path) -> None:
    async with (
        exporting(Exporters(failing=False)) as scrapes,
        prometheus(tmp_path, scrapes, {}) as uri,
        Prometheus(uri, Credentials()) as adapter,
    ):
        sources = Sources({"default": offered().config()}, {"default": adapter})
        assert await answered(sources, CANDIDATE, "error-rate", a_number) == 0.0


NO_VALUE = {
    "sum(": 'answered 400: invalid parameter "query": .*parse error',
    "up[1m]": "a matrix where a vector or a scalar is wanted",
    "absent_metric": "no data",
    "1/0": r"the value is \+Inf",
    "vector(1) or label_replace(vector(2), 'a', 'b', '', '')": "2 series where one is wanted",
}


async def test_what_has_no_single_value_is_an_error(tmp_path: Path) -> None:
    async with prometheus(tmp_path, [], {}) as uri, Prometheus(uri, Credentials()) as adapter:
        assert await adapter.value("scalar(vector(0.5))") == 0.5
        for query, words in NO_VALUE.items():
            with pytest.raises(QueryError, match=words):
                await adapter.value(query)


async def test_a_server_with_tls_of_its_own_is_believed_with_its_bundle_only(
    tmp_path: Path, self_signed: tuple[Path, Path]
) -> None:
    certificate, key = self_signed
    tls = {"tls_server_config": {"cert_file": str(certificate), "key_file": str(key)}}
    async with prometheus(tmp_path, [], tls) as uri:
        async with Prometheus(uri, Credentials(ca_file=certificate)) as adapter:
            assert await adapter.value("vector(2)") == 2.0
        async with Prometheus(uri, Credentials()) as stranger:
            with pytest.raises(QueryError, match="certificate verify failed"):
                await stranger.value("vector(2)")

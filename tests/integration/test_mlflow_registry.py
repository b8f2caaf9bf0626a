"""The registry adapter on a real MLflow server, and on servers that answer rubbish."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from aiohttp import web
from mlflow import MlflowClient

from modelramp.adapters import mlflow_registry
from modelramp.adapters.clock import SystemClock
from modelramp.adapters.mlflow_registry import MlflowRegistry
from modelramp.api.spec import ModelRef
from modelramp.desired.marks import Mark, State
from modelramp.domain.world import Resolved
from modelramp.engine.registries import Registries, RegistryConfig
from modelramp.engine.writeback import WriteBack
from modelramp.ports import Key, RegistryError
from tests.integration.mlflow_server import MODELS, MlflowServer

pytestmark = pytest.mark.timeout(400)  # importing MLflow and starting its server take their time


@pytest.fixture
def registry(mlflow: MlflowServer) -> Iterator[MlflowRegistry]:
    registry = MlflowRegistry("default", mlflow.uri)
    yield registry
    registry.close()


async def test_a_search_of_a_thousand_models_is_at_most_two_requests(
    registry: MlflowRegistry, mlflow: MlflowServer
) -> None:
    before = mlflow.served()
    found = await registry.search()
    assert mlflow.served() - before <= 2
    assert len(found) == MODELS
    aliases = {model.name: model.aliases for model in found}
    assert aliases["model-0000"] == {"prod": 1}
    assert aliases["model-0999"] == {}


async def test_one_poll_for_two_hundred_objects_is_at_most_two_requests(
    registry: MlflowRegistry, mlflow: MlflowServer
) -> None:
    configs = {"default": RegistryConfig(mlflow.uri)}
    registries = Registries(configs, {"default": registry}, SystemClock(), lambda _: None)
    refs = {Key("shop", f"object-{n}"): ModelRef(name=f"model-{n:04d}", alias="prod") for n in range(200)}
    for key, ref in refs.items():
        assert registries.resolve(key, ref) is None
    before = mlflow.served()
    await registries._poll("default", 0.0)
    assert mlflow.served() - before <= 8  # not one for each version
    resolved = [registries.resolve(key, ref) for key, ref in refs.items()]
    assert [answer.model.name for answer in resolved if isinstance(answer, Resolved)] == [r.name for r in refs.values()]
    before = mlflow.served()
    await registries._poll("default", 0.0)
    assert 1 <= mlflow.served() - before <= 2


async def test_a_version_is_told_with_what_identifies_it(registry: MlflowRegistry) -> None:
    version = await registry.version("model-0007", 1)
    assert version is not None
    assert (version.registry, version.name, version.version) == ("default", "model-0007", 1)
    assert (version.run_id, version.source) == ("run-7", "s3://models/7")
    assert version.created > 1_700_000_000_000


async def test_versions_asked_for_together_are_told_as_if_asked_for_alone(registry: MlflowRegistry) -> None:
    wanted = [("model-0007", 1), ("model-0008", 1), ("model-0009", 99), ("model-0999", 99), ("no such model", 1)]
    found = await registry.versions(wanted)
    assert sorted(found, key=lambda it: it.name) == [await registry.version(*it) for it in wanted[:2]]


@pytest.mark.parametrize(("name", "number"), [("model-0007", 99), ("model-0999", 1), ("no such model", 1)])
async def test_a_version_that_does_not_exist_is_none(registry: MlflowRegistry, name: str, number: int) -> None:
    assert await registry.version(name, number) is None


async def test_a_versions_metrics_are_its_runs_last_ones_and_its_tags_those_of_now(registry: MlflowRegistry) -> None:
    client = MlflowClient(registry._uri)
    run = client.create_run("0").info.run_id
    for step, value in enumerate((0.5, 0.87)):
        client.log_metric(run, "val_dice", value, step=step)
    number = client.create_model_version("model-0999", "s3://models/999", run).version
    assert await registry.metrics("model-0999", int(number)) == {"val_dice": 0.87}
    assert await registry.tags("model-0999", int(number)) == {}
    client.set_model_version_tag("model-0999", number, "validated", "true")
    assert await registry.tags("model-0999", int(number)) == {"validated": "true"}


@pytest.mark.parametrize(("name", "number"), [("model-0001", 1), ("model-0001", 99)])  # its run-1 is none of MLflow's
async def test_a_version_without_a_run_has_no_metrics(registry: MlflowRegistry, name: str, number: int) -> None:
    assert await registry.metrics(name, number) == {}
    assert await registry.tags(name, number) == {}


async def test_tags_are_written_found_again_and_removed(registry: MlflowRegistry, mlflow: MlflowServer) -> None:
    tag = "modelramp.shop.object-1.state"
    assert await registry.marked(tag) == {}
    await registry.set_tags("model-0001", 1, {"modelramp.shop.object-1.reason": None, tag: "stable"})
    await registry.set_tags("model-0002", 1, {"other": "x", tag: "canary"})
    await registry.set_tags("model-0003", 1, {"modelramp.shop.object-11.state": "stable"})
    before = mlflow.served()
    assert await registry.marked(tag) == {
        ("model-0001", 1): {tag: "stable"},
        ("model-0002", 1): {tag: "canary", "other": "x"},
    }
    assert mlflow.served() - before == 1
    await registry.set_tags("model-0002", 1, {tag: None})
    assert list(await registry.marked(tag)) == [("model-0001", 1)]
    with pytest.raises(RegistryError, match=r"tags to version 99 of model 'model-0001': .*not found"):
        await registry.set_tags("model-0001", 99, {tag: "stable"})


async def test_what_became_of_a_version_is_written_once(registry: MlflowRegistry, mlflow: MlflowServer) -> None:
    configs, counted = {"default": RegistryConfig(mlflow.uri, write=True)}, list[tuple[str, str]]()
    found = await registry.version("model-0005", 1)
    assert found is not None
    wanted = {found: Mark(State.REJECTED, datetime(2026, 1, 1, tzinfo=UTC), "OOMKilled: killed")}
    for _ in range(2):
        back = WriteBack(configs, {"default": registry}, lambda: None, lambda *how: counted.append(how))
        back.note(Key("shop", "object-5"), wanted)
        await back.write(Key("shop", "object-5"))
    assert counted == [("default", "written")]
    prefix = "modelramp.shop.object-5."
    assert await registry.tags("model-0005", 1) == {
        f"{prefix}state": "rejected",
        f"{prefix}time": "2026-01-01T00:00:00.000000Z",
        f"{prefix}reason": "OOMKilled: killed",
    }
    back.gone(Key("shop", "object-5"))
    await back.write(Key("shop", "object-5"))
    assert await registry.tags("model-0005", 1) == {}


@asynccontextmanager
async def answering(status: int, text: str, content_type: str = "application/json") -> AsyncIterator[str]:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=text, content_type=content_type)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://user:secret@127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


RUBBISH = {
    "a login page": (200, "<html>please log in</html>", "text/html"),
    "truncated": (200, '{"registered_models": [{"name": "dig', "application/json"),
    "another shape": (200, '{"registered_models": 7}', "application/json"),
    "not found, by a proxy": (404, "<html>no such page</html>", "text/html"),
    "an error": (500, '{"error_code": "INTERNAL_ERROR", "message": "disk full"}', "application/json"),
    "no rights": (403, '{"error_code": "PERMISSION_DENIED", "message": "not yours"}', "application/json"),
    "an error page": (502, "<html>bad gateway</html>", "text/html"),
}


@pytest.mark.parametrize(("status", "text", "content_type"), RUBBISH.values(), ids=RUBBISH)
async def test_an_answer_that_makes_no_sense_is_told_in_a_sentence(
    status: int, text: str, content_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    async with answering(status, text, content_type) as uri:
        registry = MlflowRegistry("default", uri)
        about = ("digits", 1)
        calls = (registry.search(), registry.version(*about), registry.metrics(*about), registry.tags(*about))
        for call in calls:
            with pytest.raises(RegistryError) as told:
                await call
            sentence = str(told.value)
            assert sentence.startswith("MLflow at http://127.0.0.1:")
            assert "secret" not in sentence and "\n" not in sentence and len(sentence) < 500
        registry.close()


@pytest.mark.parametrize("value", ["stable", None])
async def test_a_registry_that_refuses_tags_says_so(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    async with answering(*RUBBISH["no rights"]) as uri:
        registry = MlflowRegistry("default", uri)
        with pytest.raises(RegistryError, match=r"tags to version 1 of model 'digits': .*not yours"):
            await registry.set_tags("digits", 1, {"tag": value})
        with pytest.raises(RegistryError, match=r"versions with the tag tag: .*not yours"):
            await registry.marked("tag")
        registry.close()


async def test_a_registry_that_is_down_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    registry = MlflowRegistry("default", "http://user:secret@127.0.0.1:9")
    with pytest.raises(RegistryError, match=r"http://127\.0\.0\.1:9: .*cannot connect: .*refused") as told:
        await registry.search()
    assert "secret" not in str(told.value)
    registry.close()


async def test_a_registry_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_registry, "CALL_SECONDS", 0.5)
    release = asyncio.Event()

    async def hang(_: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.Response()

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", hang)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    registry = MlflowRegistry("default", f"http://127.0.0.1:{runner.addresses[0][1]}")
    with pytest.raises(RegistryError, match="no answer"):
        await registry.search()
    release.set()
    registry.close()
    await runner.cleanup()

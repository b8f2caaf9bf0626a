"""Which credentials a registry is shown, over plain HTTP and TLS, and what a wrong file does."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from modelramp.adapters.credentials import Credentials
from modelramp.adapters.mlflow_registry import MlflowRegistry
from modelramp.ports import RegistryError
from tests.integration.conftest import TLS_GOODBYE

pytestmark = pytest.mark.timeout(400)  # importing MLflow takes its time


def basic(login: str) -> str:
    return f"Basic {base64.b64encode(login.encode()).decode()}"


@asynccontextmanager
async def recording(tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[str, list[str | None]]]:
    """A registry without models: its address, and the Authorization header of each request."""
    seen: list[str | None] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization"))
        answer = web.json_response({})
        answer.force_close()  # MLflow's sessions last as long as the process
        return answer

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}", seen
    finally:
        await runner.cleanup()
        await asyncio.sleep(TLS_GOODBYE)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


async def test_each_registry_is_shown_its_own_login_and_a_replaced_one_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "everybody")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    mounted, first, second = tmp_path / "..data", tmp_path / "..1", tmp_path / "..2"
    for folder, token in ((first, "one"), (second, "two")):
        folder.mkdir()
        (folder / "token").write_text(f"{token}\n")
        (folder / "name").write_text("team")
        (folder / "word").write_text("pass:word")
    mounted.symlink_to(first)  # as the kubelet mounts a Secret
    login = Credentials(username_file=mounted / "name", password_file=mounted / "word")
    async with recording() as (uri, seen):
        registries = [
            MlflowRegistry("token", uri, Credentials(token_file=mounted / "token")),
            MlflowRegistry("login", uri, login),
            MlflowRegistry("environment", uri),
        ]
        for registry in registries:
            await registry.search()
        mounted.unlink()
        mounted.symlink_to(second)
        await registries[0].search()
        assert seen == [
            "Bearer one",
            basic("team:pass:word"),
            basic("everybody:hunter2"),
            "Bearer two",
        ]
        mounted.unlink()
        with pytest.raises(RegistryError, match=r"cannot read the token in .*No such file") as told:
            await registries[0].search()
        assert "two" not in str(told.value) and len(seen) == 4, "without its own login it shows no other"
        for registry in registries:
            registry.close()


async def test_a_registry_of_a_private_authority_is_believed_with_its_bundle_only(
    tmp_path: Path, self_signed: tuple[Path, Path]
) -> None:
    certificate, bundle = self_signed[0], tmp_path / "ca"
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*self_signed)
    async with recording(tls) as (uri, seen):
        registry = MlflowRegistry("default", uri, Credentials(ca_file=bundle))
        with pytest.raises(RegistryError, match=r"cannot read the CA bundle in .*No such file"):
            await registry.search()
        bundle.write_text("no certificate")
        with pytest.raises(RegistryError, match=f"MLflow at {uri}: search"):
            await registry.search()
        bundle.write_text(certificate.read_text())
        await registry.search()
        assert len(seen) == 1
        stranger = MlflowRegistry("default", uri)
        with pytest.raises(RegistryError, match="certificate verify failed"):
            await stranger.search()
        registry.close()
        stranger.close()

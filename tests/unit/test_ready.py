"""What the operator says when it cannot start."""

from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from modelramp.adapters.kube_api import KubeApi
from modelramp.adapters.ready import await_resource
from modelramp.ports import ClusterError
from tests.unit.test_scraper import kubeconfig


async def test_an_api_server_without_the_resource_is_told_with_what_to_apply(tmp_path: Path) -> None:
    async with TestServer(web.Application()) as server:
        api = await KubeApi.connect(kubeconfig(tmp_path, str(server.make_url(""))))
        with pytest.raises(ClusterError, match=r"does not know ModelDeployment .*apply crds/modeldeployments\.yaml"):
            await await_resource(api, patience=0)
        await api.close()


async def test_an_api_server_that_cannot_be_reached_is_told_by_its_address(tmp_path: Path) -> None:
    api = await KubeApi.connect(kubeconfig(tmp_path, "http://127.0.0.1:9"))
    with pytest.raises(ClusterError, match=r"cannot reach http://127\.0\.0\.1:9"):
        await await_resource(api, patience=0)
    await api.close()


async def test_a_kubeconfig_that_is_missing_is_told_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"cannot use kubeconfig .*/none"):
        await KubeApi.connect(tmp_path / "none")

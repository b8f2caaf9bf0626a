"""config/install.yaml is what helm makes of the chart, and the API server takes it."""

import sys
from pathlib import Path

import pytest

from tests.integration.conftest import kubectl

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "hack"))

import manifests  # noqa: E402


@pytest.mark.timeout(900)  # the first time on a machine, helm is compiled
def test_the_rendering_is_current() -> None:
    assert manifests.render() == manifests.INSTALL.read_text()


def test_the_api_server_takes_it(admin_kubeconfig: Path) -> None:
    applied = kubectl("apply", "--dry-run=server", "-f", str(manifests.INSTALL))
    assert "modeldeployments.modelramp.dev" in applied and "deployment.apps/modelramp-operator" in applied

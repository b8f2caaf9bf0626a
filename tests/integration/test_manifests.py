"""config/install.yaml is what helm makes of the chart, and the API server takes it."""

import sys
from pathlib import Path

import pytest
import yaml

from tests.integration.conftest import cluster, kubectl

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "hack"))

import manifests  # noqa: E402


@pytest.mark.timeout(900)  # the first time on a machine, helm is compiled
def test_the_rendering_is_current() -> None:
    assert manifests.render() == manifests.INSTALL.read_text()


def test_the_api_server_takes_it(admin_kubeconfig: Path) -> None:
    applied = kubectl("apply", "--dry-run=server", "-f", str(manifests.INSTALL))
    assert "modeldeployments.modelramp.dev" in applied and "deployment.apps/modelramp-operator" in applied


@pytest.mark.timeout(900)
def test_two_replicas_are_kept_apart_and_drained_one_at_a_time(admin_kubeconfig: Path) -> None:
    chart = ["template", "modelramp", str(manifests.CHART), "--namespace", manifests.NAMESPACE, "--set=replicas=2"]
    two = cluster("helm", *chart)
    kinds = {body["kind"]: body for body in yaml.safe_load_all(two) if body}
    labels = kinds["Deployment"]["spec"]["template"]["metadata"]["labels"]
    budget = kinds["PodDisruptionBudget"]["spec"]
    assert budget["maxUnavailable"] == 1 and budget["selector"]["matchLabels"].items() <= labels.items()
    affinity = kinds["Deployment"]["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"]
    (preferred,) = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
    assert preferred["podAffinityTerm"]["labelSelector"]["matchLabels"].items() <= labels.items()
    kubectl("apply", "--dry-run=server", "-f", "-", stdin=two)
    assert "PodDisruptionBudget" not in manifests.INSTALL.read_text()

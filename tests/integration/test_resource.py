"""What the API server takes and refuses of a ModelDeployment, and with which words."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from modelramp.adapters.kube_api import KubeApi, path_of
from modelramp.adapters.observe import OWNER
from modelramp.ports import ClusterError, Object

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(ROOT.glob("examples/**/*.yaml"))
MODEL = {"name": "digits", "alias": "prod"}
PARENT = {"name": "public"}
STRICT = {"fieldValidation": "Strict", "dryRun": "All"}  # as kubectl sends it


def owners() -> list[Any]:
    """Every ModelDeployment of every example."""
    found = [
        pytest.param(body, id=f"{path.name}-{body['metadata']['name']}")
        for path in EXAMPLES
        for body in yaml.safe_load_all(path.read_text())
        if body and body["kind"] == OWNER.kind
    ]
    assert len(found) >= 4
    return found


async def create(admin: KubeApi, namespace: str, body: Object) -> Object:
    body = {**body, "metadata": {**body["metadata"], "namespace": namespace}}
    return await admin.write("POST", path_of(OWNER, namespace), body, query=STRICT)


def owner(**spec: Any) -> Object:
    return {
        "apiVersion": OWNER.api_version,
        "kind": OWNER.kind,
        "metadata": {"name": "digits"},
        "spec": {"model": MODEL, **spec},
    }


@pytest.mark.parametrize("body", owners())
async def test_every_example_is_taken(body: Object, admin: KubeApi, namespace: str) -> None:
    taken = await create(admin, namespace, body)
    assert taken["status"]["observedGeneration"] == -1
    assert taken["spec"]["traffic"]["service"] == {"port": 80}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"model": {**MODEL, "version": 3}}, "set exactly one of spec.model.alias"),
        ({"model": {"name": "digits"}}, "set exactly one of spec.model.alias"),
        ({"modle": MODEL}, 'unknown field "spec.modle"'),
        ({"server": {"colour": "blue"}}, 'unknown field "spec.server.colour"'),
        ({"rollout": {"steps": []}}, "spec.rollout.steps"),
        ({"rollout": {"steps": [{"weight": 50}, {"weight": 10}]}}, "weights must rise from step to step"),
        ({"rollout": {"steps": [{"weight": 50}, {"weight": 50}]}}, "weights must rise from step to step"),
        ({"rollout": {"steps": [{"weight": 101}]}}, "less than or equal to 100"),
        ({"rollout": {"steps": [{"weight": 10, "pause": {}}]}}, "exactly one of weight, shadow and pause"),
        ({"rollout": {"steps": [{"weight": 10, "shadow": 10}]}}, "exactly one of weight, shadow and pause"),
        ({"rollout": {"steps": [{"hold": "1m"}]}}, "exactly one of weight, shadow and pause"),
        ({"rollout": {"steps": [{"pause": {}, "hold": "1m"}]}}, "hold belongs to a step with a weight or a shadow"),
        ({"rollout": {"steps": [{"weight": 10}, {"shadow": 20}]}}, "steps with a shadow come before all weights"),
        ({"rollout": {"steps": [{"shadow": 0}]}}, "greater than or equal to 1"),
        ({"rollout": {"shadow": {"maxDisagreement": 0.1}}}, "needs a step such as {shadow: 20, hold: 10m}"),
        ({"rollout": {"steps": [{"shadow": 9}], "shadow": {"maxDisagreement": 0.6}}}, "less than or equal to 0.5"),
        (
            {"rollout": {"analysis": {"objectives": {"drift": {"max": 0.2, "enabled": False}}}}},
            "drift.max is set and drift.enabled is false",
        ),
        ({"rollout": {"analysis": {"queries": [{"query": "q"}]}}}, "a query needs max, min, or both"),
        ({"rollout": {"analysis": {"queries": [{"query": "q", "min": 2, "max": 1}]}}}, "min must not be above its max"),
        (
            {"rollout": {"analysis": {"queries": [{"query": "q", "max": 1}, {"query": "q", "min": 0}]}}},
            "each query may stand in the list once",
        ),
        ({"rollout": {"analysis": {"queries": [{"query": "up{}", "max": 1}]}}}, "analysis.queries[0].query"),
        ({"rollout": {"bake": "soon"}}, "spec.rollout.bake"),
        ({"traffic": {"stickiness": {"header": "X User"}}}, "spec.traffic.stickiness.header"),
        ({"scaling": {"replicas": -1}}, "greater than or equal to 1"),
        ({"scaling": {"replicas": 2, "maxReplicas": 4}}, "either spec.scaling.replicas"),
        ({"scaling": {"minReplicas": 5, "maxReplicas": 4}}, "must not be above spec.scaling.maxReplicas"),
        ({"scaling": {"minReplicas": 5}}, "needs spec.scaling.maxReplicas"),
        ({"server": {"batching": {"maxDelay": "1m"}}}, "must not be above 10s"),
        ({"server": {"volumes": [{"name": "tmp", "emptyDir": {}}]}}, "volumes that every pod has"),
        ({"server": {"volumes": [{"emptyDir": {}}]}}, "spec.server.volumes[0].name: Required value"),
        ({"server": {"volumeMounts": [{"name": "a", "mountPath": "/a"}]}}, "must name one of spec.server.volumes"),
        (
            {"server": {"volumes": [{"name": "a"}], "volumeMounts": [{"name": "a", "mountPath": "/models/a"}]}},
            "are the pod's own folders",
        ),
        ({"server": {"upstream": {"port": 9000}}}, "spec.server.upstream.image: Required value"),
        ({"server": {"upstream": {"image": "t", "port": 8080}}}, "the server's own ports"),
        ({"server": {"upstream": {"image": "t", "path": "/v1/models/a"}}}, "spec.server.upstream.path"),
        ({"server": {"upstream": {"image": "t"}, "device": "cuda"}}, "leave them out, and configure the upstream"),
        ({"rollout": {"gates": {"metrics": [{"name": "a"}]}}}, "needs min, max, or notWorseThanStableBy"),
        ({"rollout": {"gates": {"metrics": [{"name": "a", "min": 2, "max": 1}]}}}, "min must not be above max"),
        ({"rollout": {"gates": {"metrics": [{"name": "a", "notWorseThanStableBy": 1}]}}}, "belong together"),
        ({"rollout": {"gates": {"metrics": [{"name": "a", "min": 1, "higherIsBetter": True}]}}}, "belong together"),
        ({"rollout": {"gates": {"smoke": {"latency": "11s"}}}}, "must be above 0ms and not above 10s"),
        ({"rollout": {"gates": {"smoke": {"latency": "fast"}}}}, "spec.rollout.gates.smoke.latency"),
        ({"traffic": {"router": "Gateway"}}, "router: Gateway needs spec.traffic.gateway.parentRefs"),
        ({"traffic": {"router": "Relay", "gateway": {"parentRefs": [PARENT]}}}, "leave spec.traffic.router out"),
        ({"traffic": {"gateway": {"parentRefs": []}}}, "should have at least 1 items"),
        (
            {"traffic": {"gateway": {"parentRefs": [PARENT]}, "stickiness": {"header": "X-User"}}},
            "is the router Relay's",
        ),
        (
            {"traffic": {"gateway": {"parentRefs": [PARENT]}}, "rollout": {"steps": [{"shadow": 10}]}},
            "steps with a shadow need the router Relay",
        ),
        ({"traffic": {"gateway": {"parentRefs": [PARENT, PARENT]}}}, "parentRefs must differ"),
        ({"traffic": {"gateway": {"parentRefs": [PARENT], "hostnames": ["a b"]}}}, "hostnames[0]"),
    ],
)
async def test_what_makes_no_sense_is_refused_in_words(
    spec: dict[str, Any], words: str, admin: KubeApi, namespace: str
) -> None:
    with pytest.raises(ClusterError) as refused:
        await create(admin, namespace, owner(**spec))
    assert words in str(refused.value)
    assert refused.value.status in (400, 422)


async def test_a_name_that_can_name_no_service_is_refused_in_words(admin: KubeApi, namespace: str) -> None:
    with pytest.raises(ClusterError, match="at most 50 characters"):
        await create(admin, namespace, {**owner(), "metadata": {"name": "9-digits"}})

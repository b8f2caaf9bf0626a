"""The pod template: what the spec says reaches the pod; the contract is docs/contract.md."""

from typing import Any

import pytest

from modelramp.api.server import Server
from modelramp.desired.meta import Owner
from modelramp.desired.template import Rendering, pod_template, speaks_grpc
from modelramp.domain.world import ModelVersion

OWNER = Owner("shop", "digits", "uid")
MODEL = ModelVersion("default", "digits", 3, "run-3", "models:/m-3", 1000)
RENDERING = Rendering("server:1", "http://mlflow")


def rendered(credentials: str | None = None, **server: Any) -> dict[str, Any]:
    return pod_template(OWNER, "0123abcd", MODEL, Server.model_validate(server), credentials, RENDERING)


def environment(template: dict[str, Any]) -> dict[str, str]:
    return values(template["spec"]["containers"][0])


def values(container: dict[str, Any]) -> dict[str, str]:
    return {e["name"]: e["value"] for e in container["env"]}


def upstream(template: dict[str, Any]) -> dict[str, Any]:
    """The container, which is begun last of those before the server."""
    container: dict[str, Any] = template["spec"]["initContainers"][-1]
    assert container["name"] == "upstream"
    return container


@pytest.mark.parametrize(
    ("server", "name", "value"),
    [
        ({"runtime": "onnx"}, "MODEL_RUNTIME", "onnx"),
        ({"device": "cuda"}, "INFERENCE_DEVICE", "cuda"),
        ({"warmup": 3}, "WARMUP", "3"),
        ({"batching": {"maxBatchSize": 8}}, "BATCH_SIZE", "8"),
        ({"batching": {"maxDelay": "1s"}}, "BATCH_DELAY", "1.0"),
        ({"limits": {"queue": 5}}, "QUEUE_LIMIT", "5"),
        ({"limits": {"timeout": "10s"}}, "REQUEST_TIMEOUT", "10.0"),
        ({"limits": {"payload": 1000}}, "PAYLOAD_LIMIT", "1000"),
        ({"grpc": True}, "GRPC_PORT", "8081"),
        ({"env": [{"name": "MINE", "value": "yes"}]}, "MINE", "yes"),
    ],
)
def test_a_setting_reaches_the_server(server: dict[str, Any], name: str, value: str) -> None:
    assert environment(rendered(**server))[name] == value
    assert name not in environment(rendered())


def test_a_variable_of_the_users_can_name_those_before_it() -> None:
    variable = {"name": "UPSTREAM", "value": "http://triton:8000/v2/models/digits/versions/$(MODEL_VERSION)"}
    names = list(environment(rendered(env=[variable])))
    assert names.index("MODEL_VERSION") < names.index("UPSTREAM"), "Kubernetes fills in what stands before"


def test_a_volume_shows_what_the_operator_tells_the_pod() -> None:
    [traffic] = [volume for volume in rendered()["spec"]["volumes"] if volume["name"] == "traffic"]
    shown = {item["path"]: item["fieldRef"]["fieldPath"] for item in traffic["downwardAPI"]["items"]}
    assert shown == {
        "split": "metadata.annotations['modelramp.dev/traffic']",
        "operator-key": "metadata.annotations['modelramp.dev/operator-key']",
    }


def test_extra_volumes_are_seen_by_fetch_and_server() -> None:
    keys = {"name": "keys", "secret": {"secretName": "keys"}}
    mount = {"name": "keys", "mountPath": "/etc/keys", "readOnly": True}
    spec = rendered(volumes=[keys], volumeMounts=[mount])["spec"]
    assert keys in spec["volumes"] and len(spec["volumes"]) == len(rendered()["spec"]["volumes"]) + 1
    for container in (*spec["initContainers"], *spec["containers"]):
        assert container["volumeMounts"][-1] == mount


def test_pods_are_placed_and_labelled_as_the_spec_says() -> None:
    template = rendered(
        nodeSelector={"gpu": "yes"},
        tolerations=[{"key": "gpu"}],
        serviceAccountName="reader",
        podLabels={"team": "vision", "modelramp.dev/revision": "mine"},
        podAnnotations={"note": "x"},
    )
    assert template["spec"]["nodeSelector"] == {"gpu": "yes"}
    assert template["spec"]["tolerations"] == [{"key": "gpu"}]
    assert template["spec"]["serviceAccountName"] == "reader"
    assert template["metadata"]["annotations"] == {"note": "x"}
    assert template["metadata"]["labels"] == {
        "team": "vision",
        "modelramp.dev/name": "digits",
        "modelramp.dev/revision": "0123abcd",
    }


def test_only_the_fetching_container_sees_the_credentials() -> None:
    spec = rendered(credentials="mlflow")["spec"]
    assert spec["initContainers"][0]["envFrom"] == [{"secretRef": {"name": "mlflow"}}]
    assert "envFrom" not in spec["containers"][0]


def test_only_the_serving_container_has_the_gpu() -> None:
    spec = rendered(gpu={"count": 2}, resources={"limits": {"memory": "1Gi"}})["spec"]
    assert spec["containers"][0]["resources"]["limits"] == {"memory": "1Gi", "nvidia.com/gpu": 2}
    assert spec["initContainers"][0]["resources"]["limits"] == {"memory": "1Gi"}


def test_an_upstream_begins_after_fetch_and_ends_after_the_server() -> None:
    template = rendered(upstream={"image": "triton:2", "args": ["--model-repository=$(MODEL_PATH)"]})
    assert [container["name"] for container in template["spec"]["initContainers"]] == ["fetch", "upstream"]
    container = upstream(template)
    assert container["restartPolicy"] == "Always", "a native sidecar: Kubernetes ends it when the server has ended"
    assert (container["image"], container["args"]) == ("triton:2", ["--model-repository=$(MODEL_PATH)"])
    assert values(container)["MODEL_PATH"] == "/models/model"
    assert not {"command", "livenessProbe", "readinessProbe"} & container.keys()
    assert "upstream" not in [container["name"] for container in rendered()["spec"]["initContainers"]]


def test_an_upstream_sees_the_model_and_no_secrets() -> None:
    secret = {"name": "KEY", "value": "of the store"}
    own = {"name": "OMP_NUM_THREADS", "value": "1"}
    template = rendered("mlflow", env=[secret], upstream={"image": "triton:2", "env": [own]})
    container, server = upstream(template), template["spec"]["containers"][0]
    assert values(container).keys() == {
        "MODEL_PATH", "MODEL_NAME", "MODEL_VERSION", "MODEL_REVISION", "OMP_NUM_THREADS"
    }  # fmt: skip
    assert "envFrom" not in container and "OMP_NUM_THREADS" not in values(server)
    assert container["securityContext"] == server["securityContext"]
    assert {"name": "model", "mountPath": "/models", "readOnly": True} in container["volumeMounts"]
    assert "traffic" not in [mount["name"] for mount in container["volumeMounts"]]


@pytest.mark.parametrize(
    ("chosen", "address"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"port": 9000}, "http://127.0.0.1:9000"),
        (
            {"path": "/v2/models/net/versions/$(MODEL_VERSION)"},
            "http://127.0.0.1:8000/v2/models/net/versions/$(MODEL_VERSION)",
        ),
    ],
)
def test_fetch_and_server_are_told_where_the_upstream_is(chosen: dict[str, Any], address: str) -> None:
    spec = rendered(upstream={"image": "triton:2", **chosen})["spec"]
    for container in (spec["initContainers"][0], spec["containers"][0]):
        names = list(values(container))
        assert values(container)["UPSTREAM"] == address
        assert names.index("MODEL_VERSION") < names.index("UPSTREAM"), "Kubernetes fills in what stands before"


def test_an_upstream_has_the_gpu_and_resources_of_its_own() -> None:
    own = {"image": "triton:2", "resources": {"limits": {"memory": "8Gi"}}}
    template = rendered(gpu={"count": 1}, resources={"limits": {"memory": "1Gi"}}, upstream=own)
    assert upstream(template)["resources"] == {"limits": {"memory": "8Gi", "nvidia.com/gpu": 1}}
    assert template["spec"]["containers"][0]["resources"] == {"limits": {"memory": "1Gi"}}
    bare = upstream(rendered(upstream={"image": "triton:2"}))
    assert bare["resources"]["requests"], "an autoscaler needs those of every container"


def test_the_grace_period_outlasts_the_slowest_request() -> None:
    assert rendered(limits={"timeout": "2m"})["spec"]["terminationGracePeriodSeconds"] > 120 + 5


def test_grpc_is_a_port_of_the_pods_that_were_asked_for_it() -> None:
    http = {"name": "http", "containerPort": 8080}
    template = rendered(grpc=True)
    assert template["spec"]["containers"][0]["ports"] == [http, {"name": "grpc", "containerPort": 8081}]
    assert speaks_grpc(template) and not speaks_grpc(rendered()) and not speaks_grpc(rendered(grpc=False))
    assert rendered()["spec"]["containers"][0]["ports"] == [http]

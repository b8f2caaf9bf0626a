"""``spec.server`` of a ModelDeployment.

No field has a default in the schema: they decide a revision's identity, and a default that the API server had stored
could not be told from a choice. The operator fills them in when it freezes a revision.
"""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import ConfigDict, Field, WithJsonSchema

from modelramp.api.base import ApiModel, Duration, OpenList, OpenObject, cel, open_list


class Runtime(StrEnum):
    AUTO = "auto"
    KERAS = "keras"
    ONNX = "onnx"
    PYFUNC = "pyfunc"
    SKLEARN = "sklearn"
    TORCH = "torch"
    TORCHSCRIPT = "torchscript"


class Device(StrEnum):
    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Gpu(ApiModel):
    count: int = Field(ge=1, le=64, description="GPUs per pod (nvidia.com/gpu).")


class Batching(ApiModel):
    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "!has(self.maxDelay) || duration(self.maxDelay) <= duration('10s')",
                "spec.server.batching.maxDelay must not be above 10s: every request may wait that long",
            )
        )
    )

    max_batch_size: int | None = Field(None, ge=1, le=65536, description="Rows at most in one forward.")
    max_delay: Duration | None = Field(None, description="How long to wait for more rows.")


class Limits(ApiModel):
    queue: int | None = Field(None, ge=1, description="Requests that may wait.")
    timeout: Duration | None = Field(None, description="Budget of a request.")
    payload: int | None = Field(None, ge=1, description="Largest request body in bytes.")


_NAME: dict[str, Any] = {"type": "string", "maxLength": 63}
_PATH: dict[str, Any] = {"type": "string", "maxLength": 253, "pattern": "^/"}
Volumes = Annotated[list[dict[str, Any]], WithJsonSchema(open_list(20, name=_NAME))]
VolumeMounts = Annotated[list[dict[str, Any]], WithJsonSchema(open_list(20, name=_NAME, mountPath=_PATH))]


class Server(ApiModel):
    """How a pod serves. A change here is a new revision, rolled out like a new version."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "!has(self.volumes) || self.volumes.all(v, !(v.name in ['model', 'tmp', 'traffic']))",
                "spec.server.volumes: model, tmp and traffic are volumes that every pod has; choose another name",
            ),
            (
                "!has(self.volumeMounts) || self.volumeMounts.all(m, has(self.volumes) && "
                "self.volumes.exists(v, v.name == m.name))",
                "spec.server.volumeMounts: each must name one of spec.server.volumes",
            ),
            (
                "!has(self.volumeMounts) || self.volumeMounts.all(m, "
                "!m.mountPath.matches('^/(models|tmp|etc/modelramp)(/|$)'))",
                "spec.server.volumeMounts: /models, /tmp and /etc/modelramp are the pod's own folders",
            ),
        )
    )

    image: str | None = Field(None, min_length=1, description="Serving image; the operator's default if absent.")
    runtime: Runtime | None = Field(None, description="Runtime to insist on; else chosen from the MLmodel file.")
    device: Device | None = None
    resources: OpenObject | None = Field(None, description="Container resources: requests and limits.")
    gpu: Gpu | None = None
    batching: Batching | None = None
    limits: Limits | None = None
    warmup: int | None = Field(None, ge=1, le=1000, description="Forwards before a pod is ready.")
    grpc: bool | None = Field(None, description="Serve V2 gRPC too: port 8081 of the pods and of the Service.")
    env: OpenList | None = Field(None, description="Extra environment of the pod's containers.")
    volumes: Volumes | None = Field(None, description="Extra volumes of the pod, as in a pod's spec.")
    volume_mounts: VolumeMounts | None = Field(
        None, description="Where its containers see them: fetch and server both."
    )
    node_selector: dict[str, str] | None = None
    tolerations: OpenList | None = None
    affinity: OpenObject | None = None
    image_pull_secrets: OpenList | None = None
    service_account_name: str | None = None
    pod_labels: dict[str, str] | None = None
    pod_annotations: dict[str, str] | None = None

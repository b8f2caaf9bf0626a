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
Words = Annotated[list[str], Field(max_length=100)]
Volumes = Annotated[list[dict[str, Any]], WithJsonSchema(open_list(20, name=_NAME))]
VolumeMounts = Annotated[list[dict[str, Any]], WithJsonSchema(open_list(20, name=_NAME, mountPath=_PATH))]


class Upstream(ApiModel):
    """Another inference server, such as Triton, which runs the model beside ours in the same pod."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "!has(self.port) || !(self.port in [8080, 8081])",
                "spec.server.upstream.port: 8080 and 8081 are the server's own ports in that pod; choose another",
            )
        )
    )

    image: str = Field(min_length=1, description="Its image; it must run as any user, with a read-only root.")
    command: Words | None = Field(None, description="The image's entrypoint if absent.")
    args: Words | None = Field(
        None, description="$(MODEL_PATH), $(MODEL_NAME), $(MODEL_VERSION) and $(MODEL_REVISION) are filled in."
    )
    env: OpenList | None = Field(None, description="Extra environment; that of spec.server.env is not its.")
    port: int | None = Field(
        None, ge=1, le=65535, description="Where it answers V2 REST; 8000 if absent. It may listen on loopback alone."
    )
    path: str | None = Field(
        None,
        max_length=500,
        pattern="^/v2/models/[^/]+(/versions/[^/]+)?$",
        description="The model's path there, as /v2/models/digits/versions/1; by the model's name if absent.",
    )
    resources: OpenObject | None = Field(
        None, description="Container resources; the GPUs of spec.server.gpu are added to them."
    )


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
            (
                "!has(self.upstream) || !(has(self.runtime) || has(self.device) || has(self.batching))",
                "spec.server.runtime, device and batching are of a model that the server runs itself: with "
                "spec.server.upstream leave them out, and configure the upstream",
            ),
        )
    )

    image: str | None = Field(None, min_length=1, description="Serving image; the operator's default if absent.")
    runtime: Runtime | None = Field(None, description="Runtime to insist on; else chosen from the MLmodel file.")
    device: Device | None = None
    resources: OpenObject | None = Field(None, description="Container resources: requests and limits.")
    gpu: Gpu | None = Field(None, description="For the container that runs the model.")
    batching: Batching | None = None
    limits: Limits | None = None
    warmup: int | None = Field(None, ge=1, le=1000, description="Forwards before a pod is ready.")
    grpc: bool | None = Field(None, description="Serve V2 gRPC too: port 8081 of the pods and of the Service.")
    env: OpenList | None = Field(None, description="Extra environment of the containers fetch and server.")
    upstream: Upstream | None = Field(
        None, description="Another server in the pod that runs the model; ours stands before it, over loopback."
    )
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

"""``spec.server`` of a ModelDeployment.

No field has a default in the schema: they decide a revision's identity, and a default that the API server had stored
could not be told from a choice. The operator fills them in when it freezes a revision.
"""

from enum import StrEnum

from pydantic import ConfigDict, Field

from modelramp.api.base import ApiModel, Duration, OpenList, OpenObject, cel


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


class Server(ApiModel):
    """How a pod serves. A change here is a new revision, rolled out like a new version."""

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
    node_selector: dict[str, str] | None = None
    tolerations: OpenList | None = None
    affinity: OpenObject | None = None
    image_pull_secrets: OpenList | None = None
    service_account_name: str | None = None
    pod_labels: dict[str, str] | None = None
    pod_annotations: dict[str, str] | None = None

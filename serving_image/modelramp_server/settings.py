"""Every setting of the server, in one place: environment variable, flag, default, meaning (docs/server-settings.md)."""

import os
import socket
from argparse import ArgumentParser, Namespace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_origin
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from modelramp_server import sizes

Device = Literal["auto", "cpu", "cuda"]
RuntimeName = Literal["auto", "torch", "torchscript", "onnx", "sklearn", "keras", "pyfunc"]

_SIZE = BeforeValidator(sizes.parse)
Size = Annotated[int, _SIZE]
MemoryLimit = Annotated[
    Literal["auto"] | int, BeforeValidator(lambda value: value if value == "auto" else sizes.parse(value))
]

SHORT_FLAGS = {
    "model_path": "--model",
    "model_name": "--name",
    "app_host": "--host",
    "app_port": "--port",
    "predict_input": "--input",
    "predict_output": "--output",
    "predict_columns": "--columns",
    "predict_write": "--write",
}


class InvalidSettings(Exception):
    """A setting has a value that cannot work; the message names variable, flag, value and what would do."""


class CommonSettings(BaseSettings):
    """What `fetch` and `serve` both need."""

    model_config = SettingsConfigDict(
        protected_namespaces=(), extra="ignore", env_ignore_empty=True, allow_inf_nan=False
    )
    address: ClassVar[str]  # the setting that MLFLOW_MODEL_NAME stands in for

    model_path: str = Field(
        description="folder of the model; serve also takes an address: models:/<name>/<version>, s3://..."
    )
    model_name: str = Field(default="", description="name in URLs and metrics (default: the folder's name)")
    model_version: str = Field(default="", description="registry version, in metrics and answers")
    model_revision: str = Field(default="", description="revision of the ModelDeployment, 8 hex digits")
    model_runtime: RuntimeName = Field(default="auto", description="the runtime to insist on")
    model_digest: str = Field(default="", description="sha256:... expected; empty: trust on first use")
    model_cache: Path | None = Field(
        default=None, description="folder of copies that outlive the process; serve has one in ~/.cache without this"
    )
    model_cache_limit: Size = Field(default=0, ge=0, description="size of that folder at most, as 20Gi; 0: the disk's")
    mlflow_tracking_uri: str = Field(default="", description="address of the MLflow server")
    mlflow_model_name: str = Field(default="", description="registered model, with MODEL_VERSION or an alias")
    mlflow_model_alias: str = Field(default="", description="alias of MLFLOW_MODEL_NAME; refused in a cluster")
    allow_code: bool = Field(default=False, description="load models that run code of their own: pickles, pyfuncs")
    termination_log: Path = Field(default=Path("/dev/termination-log"), description="where a failure is told")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="log level")
    log_format: Literal["text", "json"] = Field(default="text", description="log lines as text or as JSON objects")

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Choices in capitals are the same choices; MLFLOW_MODEL_NAME gives the address."""
        for name, value in given.items():
            field = cls.model_fields.get(name)
            if field is not None and get_origin(field.annotation) is Literal and isinstance(value, str):
                given[name] = value.lower()
        if address := _registered(given, cls.address):
            given[cls.address] = address
        return given

    def name_of(self, folder: Path) -> str:
        """The model's name: MODEL_NAME, or what its folder is called."""
        return self.model_name or (folder.resolve() if folder.name in ("", "..") else folder).name


class FetchSettings(CommonSettings):
    """Settings of the init container."""

    address = "model_uri"

    model_uri: str = Field(description="what to fetch: models:/<name>/<version>, s3://..., a folder")
    upstream: str = Field(
        default="", description="the server that will run the model; with one it need be none that this image can load"
    )


class LoadSettings(CommonSettings):
    """What whoever loads a model needs: `serve`, `predict` and `load_model`."""

    address = "model_path"

    inference_device: Device = Field(default="auto", description="auto takes a GPU if there is one; cuda insists")
    batch_size: int = Field(
        default=32, ge=1, description="rows at most in one forward; how many are worth it is measured"
    )
    pyfunc_batching: bool = Field(default=False, description="batch pyfunc models too, which may look across rows")
    warmup: int = Field(default=3, ge=1, description="forwards that warm a model up before it is used")


class WorkSettings(LoadSettings):
    """What whoever reads files of images needs: `serve` and `predict`."""

    max_pixels: int = Field(default=25_000_000, ge=1, description="width times height of an image at most")
    max_workers: int = Field(default=2, ge=1, le=64, description="threads that decode images and large bodies")


class ServeSettings(WorkSettings):
    """Settings of the serving container."""

    app_host: str = Field(default="0.0.0.0", description="address to listen on")
    app_port: int = Field(default=8080, ge=0, le=65535, description="port to listen on; 0 picks one")
    grpc_port: int | None = Field(
        default=None, ge=0, le=65535, description="port of V2 gRPC; not set: none; 0 picks one"
    )
    upstream: str = Field(
        default="", description="address of a V2 server that runs the model in place of this process, such as Triton"
    )
    batch_delay: float = Field(default=0.0, ge=0, le=10, description="seconds to wait for more rows")
    queue_limit: int = Field(default=1024, ge=1, description="requests waiting at most; beyond it 503")
    request_timeout: float = Field(
        default=30.0, gt=0, description="seconds a request may take, a client to send it, and to read the answer"
    )
    payload_limit: Size = Field(default=64 * 1024 * 1024, ge=1, description="size of a request body at most")
    memory_limit: MemoryLimit = Field(
        default="auto", description="memory short of which requests are refused, as 2Gi; auto: the container's; 0: none"
    )
    drain_delay: float = Field(default=5.0, ge=0, description="seconds of accepting on after SIGTERM")
    traffic_file: Path = Field(default=Path("/etc/modelramp/traffic/split"), description="file of the split")
    candidate_url: str = Field(default="", description="address of the candidate; {revision} is filled in")
    api_keys_file: Path | None = Field(default=None, description="file of hashed API keys (see hash-key)")
    operator_key_file: Path = Field(
        default=Path("/etc/modelramp/traffic/operator-key"), description="file of the digest of the operator's own key"
    )
    jwt_jwks: str = Field(default="", description="file or https URL of the keys that tokens (JWT) are signed with")
    jwt_audience: str = Field(default="", description="whom tokens must be made for (aud)")
    jwt_issuer: str = Field(default="", description="whose tokens (iss)")
    jwt_algorithms: str = Field(default="RS256,ES256", description="algorithms that tokens may be signed by")
    auth_open: str = Field(
        default="metrics,metadata", description="what needs no credentials beside health: metrics, metadata"
    )
    rate_limit: float = Field(default=0.0, ge=0, description="requests a second of each caller and pod; 0: no limit")
    rate_burst: int = Field(default=0, ge=0, description="requests at once before the rate binds; 0: a second's worth")
    tls_cert_file: Path | None = Field(default=None, description="certificate chain (PEM); serves HTTPS only")
    tls_key_file: Path | None = Field(default=None, description="its private key (PEM)")
    audit_log: str = Field(default="", description="where each prediction is noted: stdout, or a file, rotated")
    payload_log: str = Field(default="", description="where bodies are sampled to: stdout, or a file, rotated")
    payload_share: float = Field(default=0.01, ge=0, le=1, description="share of the requests sampled, 0 to 1")
    access_log: bool = Field(default=False, description="log a line for every request")
    tracing: bool = Field(default=False, description="OpenTelemetry spans by OTLP (OTEL_EXPORTER_OTLP_ENDPOINT)")
    hostname: str = Field(default_factory=socket.gethostname, description="tells replicas apart")

    @model_validator(mode="before")
    @classmethod
    def _upstream_has_the_model(cls, given: dict[str, Any]) -> dict[str, Any]:
        if given.get("upstream"):
            given.setdefault("model_path", "")
        return given

    @model_validator(mode="after")
    def _upstreams_model_has_a_name(self) -> Self:
        if self.upstream and not self.model_name:
            raise ValueError("UPSTREAM (--upstream) is set without MODEL_NAME (--name); set the name of the model")
        return self

    @field_validator("upstream")
    @classmethod
    def _is_an_address(cls, text: str) -> str:
        if text and not (text.startswith(("http://", "https://")) and urlsplit(text).hostname):
            raise ValueError("it must be http://host:port, or the model's address there: http://host:port/v2/models/m")
        return text.rstrip("/")

    @field_validator("grpc_port")
    @classmethod
    def _has_grpc(cls, port: int | None) -> int | None:
        if port is not None and find_spec("grpc_health") is None:
            raise ValueError("this installation has no gRPC: pip install 'modelramp[grpc]'")
        return port


class PredictSettings(WorkSettings):
    """Settings of scoring files and folders without a server."""

    predict_input: Path = Field(description="what to score: a .csv, .parquet or .npy file, or a folder of images")
    predict_output: Path = Field(description="folder for the results; the same command goes on there after a stop")
    predict_columns: str = Field(
        default="", description="columns of the table that are the model's one matrix, in order: a,b,c (default: all)"
    )
    predict_write: str = Field(
        default="masks", description="pictures to write for images: of masks, probabilities, overlays; or none"
    )

    @field_validator("predict_write")
    @classmethod
    def _known(cls, value: str) -> str:
        for name in value.split(","):
            if name.strip() not in ("masks", "probabilities", "overlays", "none"):
                raise ValueError("it is a list of masks, probabilities, overlays, such as masks,overlays; or none")
        return value


KINDS: dict[str, type[CommonSettings]] = {"serve": ServeSettings, "predict": PredictSettings, "fetch": FetchSettings}
Settings = TypeVar("Settings", bound=CommonSettings)


def in_cluster() -> bool:
    """Whether this process runs in a pod of Kubernetes."""
    return "KUBERNETES_SERVICE_HOST" in os.environ


def parse(kind: type[Settings], arguments: Namespace) -> Settings:
    """Merge flags over environment over defaults.

    Raises:
        InvalidSettings: one sentence per wrong setting.
    """
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    try:
        return kind(**{name: value for name, value in given.items() if name in kind.model_fields})
    except ValidationError as error:
        raise InvalidSettings("; ".join(_sentence(kind, detail) for detail in error.errors())) from None


def add_flags(parser: ArgumentParser, kind: type[CommonSettings]) -> None:
    """Give the parser one flag per setting: MODEL_PATH is --model-path, and --model for short."""
    for name, field in kind.model_fields.items():
        default = f" (default {default_of(field)})" if default_of(field) else ""
        help_text = f"{field.description}{default} [{name.upper()}]".replace("%", "%%")
        if field.annotation is bool:
            parser.add_argument(*flags_of(name), dest=name, nargs="?", const=True, metavar="true|false", help=help_text)
        else:
            parser.add_argument(*flags_of(name), dest=name, metavar="VALUE", help=help_text)


def flags_of(name: str) -> list[str]:
    """The flags of a setting, the short one first."""
    short = [SHORT_FLAGS[name]] if name in SHORT_FLAGS else []
    return [*short, f"--{name.replace('_', '-')}"]


def default_of(field: FieldInfo) -> str:
    """The default as one would write it; "" where there is none to write."""
    if field.is_required() or field.default_factory is not None or field.default in ("", None):
        return ""
    if isinstance(field.default, bool):
        return str(field.default).lower()
    return sizes.quantity(field.default) if _SIZE in field.metadata else str(field.default)


def unknown_argument(command: str, argument: str) -> str:
    """What is wrong with an argument that the command does not have, and what was meant perhaps."""
    import difflib

    if not argument.startswith("-"):
        return f"{argument!r} is not understood; a model is named by --model, all else by the flags of {command} --help"
    flag = argument.split("=")[0]
    flags = [known for name in KINDS[command].model_fields for known in flags_of(name)]
    close = difflib.get_close_matches(flag, flags, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{command} has no flag {flag}; {hint}All flags: modelramp-server {command} --help"


def _registered(given: dict[str, Any], address: str) -> str:
    """The address that MLFLOW_MODEL_NAME means; "" without it."""
    name, alias = given.get("mlflow_model_name"), given.get("mlflow_model_alias")
    version = given.get("model_version")
    if not name:
        if alias:
            raise ValueError("MLFLOW_MODEL_ALIAS is set without MLFLOW_MODEL_NAME; set the name of the model")
        return ""
    if given.get(address):
        raise ValueError(f"MLFLOW_MODEL_NAME and {address.upper()} are both set, and both name a model; unset one")
    if bool(version) == bool(alias):
        both = "MODEL_VERSION and MLFLOW_MODEL_ALIAS are both set" if version else "MLFLOW_MODEL_NAME is set alone"
        raise ValueError(f"{both}; set MLFLOW_MODEL_NAME and one of the two, MODEL_VERSION or MLFLOW_MODEL_ALIAS")
    return f"models:/{name}/{version}" if version else f"models:/{name}@{alias}"


def _sentence(kind: type[CommonSettings], detail: Any) -> str:
    why = str(detail["msg"]).removeprefix("Value error, ")
    if not detail["loc"]:
        return why
    name = str(detail["loc"][0])
    flag = flags_of(name)[0]
    if detail["type"] == "missing":
        instead = ", or MLFLOW_MODEL_NAME with MODEL_VERSION or MLFLOW_MODEL_ALIAS" if name == kind.address else ""
        return f"{name.upper()} (or {flag}) is not set: {kind.model_fields[name].description}{instead}"
    default = default_of(kind.model_fields[name])
    example = f"; the default is {default}" if default else ""
    return f"{name.upper()} ({flag}) is {str(detail['input'])!r}: {why[0].lower()}{why[1:]}{example}"

"""Every setting of the server, in one place: environment variable, flag, default, meaning (docs/contract.md)."""

import os
import socket
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

Device = Literal["auto", "cpu", "cuda"]
RuntimeName = Literal["auto", "torch", "torchscript", "onnx", "sklearn", "keras", "pyfunc"]

SHORT_FLAGS = {"model_path": "--model", "model_name": "--name", "app_host": "--host", "app_port": "--port"}


class InvalidSettings(Exception):
    """A setting has a value that cannot work; the message names variable, flag, value and what would do."""


class CommonSettings(BaseSettings):
    """What `fetch` and `serve` both need."""

    model_config = SettingsConfigDict(protected_namespaces=(), extra="ignore")

    model_path: str = Field(description="folder of the model; serve also takes a models:/ or runs:/ URI")
    model_name: str = Field(default="", description="name in URLs and metrics (default: the folder's name)")
    model_version: str = Field(default="", description="registry version, in metrics and answers")
    model_revision: str = Field(default="", description="revision of the ModelDeployment, 8 hex digits")
    model_runtime: RuntimeName = Field(default="auto", description="the runtime to insist on")
    mlflow_tracking_uri: str = Field(default="", description="address of the MLflow server")
    allow_code: bool = Field(default=False, description="load models that run code of their own: pickles, pyfuncs")
    termination_log: Path = Field(default=Path("/dev/termination-log"), description="where a failure is told")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="log level")


class FetchSettings(CommonSettings):
    """Settings of the init container."""

    model_uri: str = Field(description="models:/<name>/<version>")
    model_digest: str = Field(default="", description="sha256:... expected; empty: trust on first use")


class ServeSettings(CommonSettings):
    """Settings of the serving container."""

    app_host: str = Field(default="0.0.0.0", description="address to listen on")
    app_port: int = Field(default=8080, ge=0, le=65535, description="port to listen on; 0 picks one")
    inference_device: Device = Field(default="auto", description="auto takes a GPU if there is one; cuda insists")
    batch_size: int = Field(default=32, ge=1, description="rows at most in one forward")
    pyfunc_batching: bool = Field(default=False, description="batch pyfunc models too, which may look across rows")
    batch_delay: float = Field(default=0.0, ge=0, le=10, description="seconds to wait for more rows")
    queue_limit: int = Field(default=1024, ge=1, description="requests waiting at most; beyond it 503")
    request_timeout: float = Field(default=30.0, gt=0, description="seconds a request may take")
    payload_limit: int = Field(default=64 * 1024 * 1024, ge=1, description="bytes of a request body at most")
    warmup: int = Field(default=3, ge=1, description="forwards before the server says ready")
    drain_delay: float = Field(default=5.0, ge=0, description="seconds of accepting on after SIGTERM")
    traffic_file: Path = Field(default=Path("/etc/modelramp/traffic/split"), description="file of the split")
    candidate_url: str = Field(default="", description="address of the candidate; {revision} is filled in")
    hostname: str = Field(default_factory=socket.gethostname, description="tells replicas apart")


Settings = TypeVar("Settings", bound=CommonSettings)


def parse(kind: type[Settings], arguments: Namespace) -> Settings:
    """Merge flags over environment over defaults.

    Raises:
        InvalidSettings: one sentence per wrong setting.
    """
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    try:
        return kind(**{name: value for name, value in given.items() if name in kind.model_fields})
    except ValidationError as error:
        raise InvalidSettings("; ".join(_sentence(detail) for detail in error.errors())) from None


def add_flags(parser: ArgumentParser, kind: type[CommonSettings]) -> None:
    """Give the parser one flag per setting: MODEL_PATH is --model-path, and --model for short."""
    for name, field in kind.model_fields.items():
        flags = [f"--{name.replace('_', '-')}"]
        if name in SHORT_FLAGS:
            flags.insert(0, SHORT_FLAGS[name])
        default = "" if field.is_required() or field.default in ("", None) else f" (default {field.default})"
        help_text = f"{field.description}{default} [{name.upper()}]".replace("%", "%%")
        if field.annotation is bool:
            parser.add_argument(*flags, dest=name, action="store_const", const=True, help=help_text)
        else:
            parser.add_argument(*flags, dest=name, metavar="VALUE", help=help_text)


def _sentence(detail: Any) -> str:
    name = str(detail["loc"][0])
    flag = SHORT_FLAGS.get(name, "--" + name.replace("_", "-"))
    if detail["type"] == "missing":
        return f"{name.upper()} (or {flag}) is not set"
    source = os.environ.get(name.upper(), detail["input"])
    return f"{name.upper()} ({flag}) is {source!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}"

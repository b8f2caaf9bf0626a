"""The operator's configuration: a YAML file that its administrator writes, and what differs per process from the
environment. A wrong value is told in one sentence."""

import os
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self
from zoneinfo import ZoneInfo

import yaml
from cronsim import CronSim, CronSimError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.alias_generators import to_camel
from pydantic_settings import BaseSettings, SettingsConfigDict

from modelramp.api.base import Duration, parse_duration
from modelramp.api.queries import LONGEST_NAME, NAME
from modelramp.domain.fleet import Limits
from modelramp.domain.freeze import Freeze
from modelramp.domain.queries import PLACEHOLDERS, unfit
from modelramp.edge.webhooks import Approver
from modelramp.engine.registries import RegistryConfig
from modelramp.engine.sources import SourceConfig

ENV_PREFIX = "MODELRAMP_"
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class SettingsError(Exception):
    """The configuration can't be used. ``str(error)`` says which value, where, and what would do."""


class LogFormat(StrEnum):
    JSON = "json"
    TEXT = "text"


class Scrape(StrEnum):
    """How pods' /metrics are reached: at their addresses, or through the API server's pod proxy."""

    DIRECT = "Direct"
    POD_PROXY = "PodProxy"


class _FileModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class _Login(_FileModel):
    """Files with which the operator makes itself known to a server."""

    token_file: Path | None = Field(None, description="File with a token for it.")
    username_file: Path | None = Field(None, description="Or files with a user name and a password.")
    password_file: Path | None = None
    ca_file: Path | None = Field(None, description="File with the authorities that sign its certificate.")

    @model_validator(mode="after")
    def _has_one_login(self) -> Self:
        if (self.username_file is None) != (self.password_file is None):
            raise ValueError("usernameFile and passwordFile go together")
        if self.token_file and self.username_file:
            raise ValueError("set tokenFile, or usernameFile and passwordFile, not both")
        return self


class RegistrySettings(_Login):
    """An MLflow registry that objects may name."""

    uri: str = Field(description="MLflow's address, as the operator reaches it.", pattern=r"^https?://[^/]+")
    pod_uri: str | None = Field(None, description="The same as pods reach it, if that differs.")
    namespaces: tuple[str, ...] = Field(("*",), description="Globs of namespaces whose objects may use it.")
    models: tuple[str, ...] = Field(("*",), description="Globs of model names that they may use.")
    write: bool = Field(False, description="Whether what becomes of a version is written into its tags.")
    webhook_secret_file: Path | None = Field(None, description="File with the key that signs its webhooks.")

    def config(self) -> RegistryConfig:
        return RegistryConfig(self.uri, self.pod_uri, self.namespaces, self.models, self.write)


class PrometheusSettings(_Login):
    """A Prometheus server, and all that may be asked of it."""

    uri: str = Field(description="Its address, with the path that it has in front of /api.", pattern=r"^https?://[^/]+")
    namespaces: tuple[str, ...] = Field(("*",), description="Globs of namespaces whose objects may ask it.")
    queries: dict[Annotated[str, Field(pattern=NAME, max_length=LONGEST_NAME)], str] = Field(
        min_length=1, description="PromQL by name, with placeholders for the object and its revisions."
    )

    @field_validator("queries")
    @classmethod
    def _placeholders_are_known(cls, value: dict[str, str]) -> dict[str, str]:
        for name, query in value.items():
            if not query.strip():
                raise ValueError(f"{name} is empty; write PromQL")
            if wrong := unfit(query):
                known = ", ".join(f"{{{{{placeholder}}}}}" for placeholder in PLACEHOLDERS)
                raise ValueError(f"{name} has the unknown placeholder {wrong!r}; there are {known}")
        return value

    def config(self) -> SourceConfig:
        return SourceConfig(self.queries, self.namespaces)


class ApprovalSettings(_FileModel):
    """A system that may end the pauses that wait for its approval, by a signed request."""

    secret_file: Path = Field(description="File with the key that signs them.")
    namespaces: tuple[str, ...] = Field(("*",), description="Globs of namespaces whose rollouts it may approve.")

    def approver(self) -> Approver:
        return Approver(self.secret_file, self.namespaces)


class RolloutSettings(_FileModel):
    """How many rollouts may run at a time; absent: no limit. First revisions are not counted."""

    max: int | None = Field(None, ge=1, description="In all namespaces together.")
    max_per_namespace: int | None = Field(None, ge=1, description="In each namespace.")

    def limits(self) -> Limits:
        return Limits(self.max, self.max_per_namespace)


class FreezeSettings(_FileModel):
    """A window, again and again, in which no rollout begins and no weight rises."""

    schedule: str = Field(description="When it opens: five fields of cron.")
    duration: Annotated[Duration, Field(gt=parse_duration("0s"))]
    time_zone: str = Field("UTC", description="The zone that the schedule is read in.")
    namespaces: tuple[str, ...] = Field(("*",), description="Globs of namespaces that it is for.")

    @field_validator("schedule")
    @classmethod
    def _is_cron(cls, value: str) -> str:
        try:
            CronSim(value, datetime.now(UTC))
        except CronSimError as error:
            raise ValueError(f"{error}; write five fields of cron, like 0 18 * * 5") from error
        return value

    @field_validator("time_zone")
    @classmethod
    def _is_zone(cls, value: str) -> str:
        try:
            return ZoneInfo(value).key
        except (KeyError, ValueError, OSError) as error:
            raise ValueError("no such time zone; write one like Europe/Berlin") from error

    def freeze(self) -> Freeze:
        return Freeze(self.schedule, self.duration, ZoneInfo(self.time_zone), self.namespaces)


class NotificationSettings(_FileModel):
    """Another system that is told of decisions."""

    url: str = Field(pattern=r"^https?://[^/]+", description="Where each is posted, as JSON.")
    events: tuple[Annotated[str, Field(pattern=r"^([A-Z][A-Za-z]+|\*)$")], ...] = Field(
        ("Promoted", "Rejected", "RolledBack", "Paused"), min_length=1, description="Actions of status.history; *: all."
    )
    secret_file: Path | None = Field(None, description="File with the key that signs them.")


class Settings(_FileModel):
    """What stands in the configuration file; every key but ``serverImage`` may be left out."""

    server_image: str = Field(min_length=1, description="Serving image of objects that name none.")
    poll_interval: Annotated[Duration, Field(gt=parse_duration("0s"))] = parse_duration("15s")
    look_interval: Annotated[Duration, Field(gt=parse_duration("0s"))] = parse_duration("5s")
    traffic_ttl: Annotated[Duration, Field(alias="trafficTTL", ge=parse_duration("15s"))] = parse_duration("2m")
    registries: dict[str, RegistrySettings] = Field(default_factory=dict)
    prometheus: dict[Annotated[str, Field(pattern=NAME, max_length=LONGEST_NAME)], PrometheusSettings] = Field(
        default_factory=dict
    )
    rollouts: RolloutSettings = RolloutSettings()
    freezes: tuple[FreezeSettings, ...] = ()
    notifications: tuple[NotificationSettings, ...] = ()
    approvals: dict[str, ApprovalSettings] = Field(default_factory=dict)
    watch_namespaces: tuple[str, ...] = Field((), description="Namespaces to look after; none: all.")
    workers: int = Field(16, ge=1, le=64, description="Objects worked on at a time.")
    scrape: Scrape = Scrape.DIRECT
    log_format: LogFormat = LogFormat.JSON


class Environment(BaseSettings):
    """``MODELRAMP_*``: what the pod tells its process."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True)

    config: Path = Path("/etc/modelramp/config.yaml")
    namespace: str = Field("", description="Where the Lease is kept; default: the pod's own namespace.")
    pod_name: str = Field("", description="Who holds the Lease. Empty: this host and a random word.")
    health_host: str = "0.0.0.0"
    health_port: int = Field(8081, ge=0, le=65535)
    webhook_host: str = "0.0.0.0"
    webhook_port: int = Field(8082, ge=0, le=65535)

    @property
    def lease_namespace(self) -> str:
        mounted = SERVICE_ACCOUNT / "namespace"
        return self.namespace or (mounted.read_text().strip() if mounted.exists() else "default")


def kubeconfig() -> Path | None:
    """The file that KUBECONFIG names; without one, the user's own unless this is a pod."""
    named = os.environ.get("KUBECONFIG")
    if named:
        return Path(named)
    return None if (SERVICE_ACCOUNT / "token").exists() else Path.home() / ".kube" / "config"


def read_environment() -> Environment:
    """Raises SettingsError."""
    try:
        return Environment()
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(f"environment: {ENV_PREFIX}{str(first['loc'][0]).upper()}: {first['msg']}") from error


def read_settings(path: Path) -> Settings:
    """Raises SettingsError."""
    try:
        written = yaml.safe_load(path.read_text())
    except OSError as error:
        raise SettingsError(
            f"cannot read the configuration {path}: {error.strerror}; MODELRAMP_CONFIG names another"
        ) from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not YAML: {error}") from error
    try:
        return Settings.model_validate(written)
    except ValidationError as error:
        raise SettingsError(f"{path}: {_sentence(error)}") from error


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "the file"
    return f"{where}: {first['msg']} (got {first['input']!r})"

"""The operator's configuration: what may be left out, and that a wrong value is told in one sentence."""

from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import yaml

from modelramp.domain.fleet import Limits
from modelramp.domain.freeze import Freeze
from modelramp.edge.settings import Settings, SettingsError, read_environment, read_settings

ROOT = Path(__file__).resolve().parents[2]


def read(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return read_settings(path)


def test_all_but_the_server_image_has_a_default(tmp_path: Path) -> None:
    settings = read(tmp_path, "serverImage: localhost/server:dev")
    assert settings.traffic_ttl == timedelta(minutes=2)
    assert settings.registries == {} and settings.watch_namespaces == ()


def test_a_registry_is_read_as_the_engine_wants_it(tmp_path: Path) -> None:
    text = """
        serverImage: i
        trafficTTL: 45s
        registries:
          eu: {uri: "http://mlflow.eu:5000", podUri: "http://mlflow", namespaces: [team-*], models: [digits]}
    """
    settings = read(tmp_path, text)
    config = settings.registries["eu"].config()
    assert (config.uri, config.pod_uri) == ("http://mlflow.eu:5000", "http://mlflow")
    assert config.allows("team-a", "digits") and not config.allows("team-a", "other")
    assert settings.traffic_ttl == timedelta(seconds=45)


def test_what_a_registry_may_and_who_may_approve_are_read(tmp_path: Path) -> None:
    text = """
        serverImage: i
        registries:
          eu: {uri: "http://r", write: true, tokenFile: /t, caFile: /ca, webhookSecretFile: /w}
        approvals:
          clinic: {secretFile: /c, namespaces: [team-*]}
    """
    settings = read(tmp_path, text)
    registry = settings.registries["eu"]
    assert registry.config().write and registry.webhook_secret_file == Path("/w")
    approver = settings.approvals["clinic"].approver()
    assert approver.may("team-a") and not approver.may("shop")
    assert not read(tmp_path, "{serverImage: i, registries: {r: {uri: http://r}}}").registries["r"].config().write


def test_limits_and_windows_are_read_as_the_engine_wants_them(tmp_path: Path) -> None:
    text = """
        serverImage: i
        rollouts: {max: 10, maxPerNamespace: 2}
        freezes: [{schedule: 0 18 * * 5, duration: 62h, timeZone: Europe/Berlin, namespaces: [team-*]}]
    """
    settings = read(tmp_path, text)
    assert settings.rollouts.limits() == Limits(10, 2)
    assert not read(tmp_path, "serverImage: i").rollouts.limits()
    (freeze,) = [f.freeze() for f in settings.freezes]
    assert freeze == Freeze("0 18 * * 5", timedelta(hours=62), ZoneInfo("Europe/Berlin"), ("team-*",))


def test_what_the_chart_writes_by_default_can_be_read(tmp_path: Path) -> None:
    documents = yaml.safe_load_all((ROOT / "config" / "install.yaml").read_text())
    (config,) = [d for d in documents if d["kind"] == "ConfigMap"]
    assert set(read(tmp_path, config["data"]["config.yaml"]).registries) == {"default"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the file: Input should be"),
        ("[1]", "the file: Input should be"),
        ("{}", "serverImage: Field required"),
        ("{serverImage: i, polInterval: 5s}", "polInterval: Extra inputs are not permitted (got '5s')"),
        ("{serverImage: i, pollInterval: 5 seconds}", "'5 seconds' is not a duration; write it like 30s, 10m or 1h30m"),
        ("{serverImage: i, pollInterval: 0s}", "pollInterval: Input should be greater than"),
        ("{serverImage: i, trafficTTL: 5s}", "trafficTTL: Input should be greater than"),
        ("{serverImage: i, workers: many}", "workers: Input should be a valid integer"),
        ("{serverImage: i, registries: {a: {uri: mlflow}}}", "registries.a.uri: String should match"),
        ("{serverImage: i, scrape: Sometimes}", "scrape: Input should be 'Direct' or 'PodProxy' (got 'Sometimes')"),
        ("{serverImage: i, rollouts: {max: 0}}", "rollouts.max: Input should be greater than or equal to 1"),
        (
            "{serverImage: i, freezes: [{schedule: 0 25 * * *, duration: 1h}]}",
            "freezes.0.schedule: Value error, Bad hour; write five fields of cron, like 0 18 * * 5 (got '0 25 * * *')",
        ),
        ("{serverImage: i, freezes: [{schedule: 0 0 0 18 * * 5, duration: 1h}]}", "write five fields of cron"),
        ("{serverImage: i, freezes: [{schedule: 0 0 30 2 *, duration: 1h}]}", "Bad day-of-month"),
        (
            "{serverImage: i, freezes: [{schedule: 0 18 * * 5, duration: 1h, timeZone: Berlin}]}",
            "freezes.0.timeZone: Value error, no such time zone; write one like Europe/Berlin (got 'Berlin')",
        ),
        ("{serverImage: i, notifications: [{url: chat}]}", "notifications.0.url: String should match"),
        ("{serverImage: i, notifications: [{url: http://c, events: [promoted]}]}", "notifications.0.events.0: String"),
        ("{serverImage: i, notifications: [{url: http://c, events: []}]}", "notifications.0.events: Tuple should"),
        ("{serverImage: i, registries: {r: {uri: http://r, passwordFile: /p}}}", "usernameFile and passwordFile go"),
        (
            "{serverImage: i, registries: {r: {uri: http://r, passwordFile: /p, usernameFile: /u, tokenFile: /t}}}",
            "registries.r: Value error, set tokenFile, or usernameFile and passwordFile, not both",
        ),
        ("{serverImage: i, approvals: {clinic: {}}}", "approvals.clinic.secretFile: Field required"),
        ("{serverImage: [", "is not YAML"),
    ],
)
def test_a_wrong_value_is_told_in_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as told:
        read(tmp_path, text)
    assert sentence in str(told.value)
    assert str(tmp_path / "config.yaml") in str(told.value)


def test_a_missing_file_is_told_with_the_variable_that_names_another(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file or directory; MODELRAMP_CONFIG names another"):
        read_settings(tmp_path / "none.yaml")


def test_a_wrong_variable_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELRAMP_HEALTH_PORT", "high")
    with pytest.raises(SettingsError, match="MODELRAMP_HEALTH_PORT: Input should be a valid integer"):
        read_environment()


def test_what_may_be_asked_of_prometheus_is_read(tmp_path: Path) -> None:
    text = """
        serverImage: i
        prometheus:
          main:
            uri: http://prometheus:9090
            tokenFile: /t
            namespaces: [team-*]
            queries: {p99-latency: 'up{pod=~"{{name}}-{{revision}}-.*"}'}
    """
    it = read(tmp_path, text).prometheus["main"]
    config = it.config()
    assert config.allows("team-a") and not config.allows("shop")
    assert config.queries == {"p99-latency": 'up{pod=~"{{name}}-{{revision}}-.*"}'}
    assert it.token_file == Path("/t")


@pytest.mark.parametrize(
    ("queries", "words"),
    [
        ("{q: 'up{pod=\"{{pod}}\"}'}", "q has the unknown placeholder '{{pod}}"),
        ("{q: 'up{pod=\"{{pod}}\"}'}", "there are {{namespace}}, {{name}}, {{revision}}, {{stable}}"),
        ("{q: ' '}", "q is empty; write PromQL"),
        ("{}", "prometheus.main.queries"),
        ("{Q_1: up}", "prometheus.main.queries.Q_1"),
    ],
)
def test_a_query_that_could_never_be_asked_ends_the_start(tmp_path: Path, queries: str, words: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read(tmp_path, f"{{serverImage: i, prometheus: {{main: {{uri: 'http://p', queries: {queries}}}}}}}")
    assert words in str(refused.value)

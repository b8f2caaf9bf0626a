"""Settings: where they come from, what is said of a wrong one, and the page that lists them."""

import asyncio
import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from modelramp_server import cli, settings_page, sizes
from modelramp_server.dotenv_file import read_dotenv
from modelramp_server.exchange import InferenceRequest
from modelramp_server.settings import FetchSettings, InvalidSettings, ServeSettings, parse
from tests.server.served import Served

ROOT = Path(__file__).parents[2]


def test_the_page_is_the_one_that_the_settings_make() -> None:
    written = (ROOT / "docs/server-settings.md").read_text()
    assert written == settings_page.page(), "docs/server-settings.md is stale: make settings"


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1048576", 1048576), ("2Gi", 2 << 30), ("1.5Gi", 3 << 29), ("500M", 500_000_000), ("64Ki", 65536),
     ("3k", 3000), (" 1Ti ", 1 << 40)],
)  # fmt: skip
def test_sizes_as_kubernetes_writes_them(text: str, size: int) -> None:
    assert sizes.parse(text) == size
    assert ServeSettings(model_path="m", memory_limit=text).memory_limit == size  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1010, "1010 B"), (1536, "1.5 KiB"), (64 << 20, "64 MiB"), (10**16, "9095 TiB")],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert sizes.shown(size) == text


@pytest.mark.parametrize(
    ("arguments", "environment", "parts"),
    [
        (["serve"], {}, ["MODEL_PATH (or --model) is not set", "MLFLOW_MODEL_NAME with MODEL_VERSION"]),
        (["fetch", "--model", "m"], {}, ["MODEL_URI (or --model-uri) is not set"]),
        (["serve", "--model", "m", "--port", "eighty"], {}, ["APP_PORT (--port) is 'eighty'", "the default is 8080"]),
        (["serve", "--model", "m", "--port", "70000"], {}, ["APP_PORT", "'70000'", "less than or equal to 65535"]),
        (["serve", "--model", "m", "--batch-size", "0"], {"BATCH_SIZE": "7"}, ["BATCH_SIZE (--batch-size) is '0'"]),
        (["serve", "--model", "m"], {"MAX_WORKERS": "none"}, ["MAX_WORKERS (--max-workers) is 'none'"]),
        (["serve", "--model", "m"], {"MEMORY_LIMIT": "2GB"}, ["MEMORY_LIMIT", "'2GB'", "such as 2Gi"]),
        (["serve", "--model", "m"], {"MEMORY_LIMIT": "-1"}, ["MEMORY_LIMIT", "such as 2Gi"]),
        (["serve", "--model", "m", "--request-timeout", "inf"], {}, ["REQUEST_TIMEOUT", "'inf'", "finite number"]),
        (["serve", "--model", "m"], {"DRAIN_DELAY": "1e400"}, ["DRAIN_DELAY", "finite number"]),
        (["serve", "--model", "m"], {"LOG_LEVEL": "loud"}, ["LOG_LEVEL", "'debug', 'info', 'warning' or 'error'"]),
        (["serve", "--model", "m"], {"ALLOW_CODE": "perhaps"}, ["ALLOW_CODE", "'perhaps'", "boolean", "false"]),
        (["serve", "--model", "m"], {"MLFLOW_MODEL_NAME": "a", "MODEL_VERSION": "3"}, ["MODEL_PATH", "unset one"]),
        (["serve"], {"MLFLOW_MODEL_ALIAS": "prod"}, ["MLFLOW_MODEL_ALIAS is set without MLFLOW_MODEL_NAME"]),
        (["serve"], {"MLFLOW_MODEL_NAME": "a"}, ["MLFLOW_MODEL_NAME is set alone", "MODEL_VERSION or MLFLOW_MODEL_A"]),
        (["serve"], {"MLFLOW_MODEL_NAME": "a", "MODEL_VERSION": "3", "MLFLOW_MODEL_ALIAS": "p"}, ["both set"]),
        (["serve", "--model", "m", "--allow-code=maybe"], {}, ["ALLOW_CODE (--allow-code) is 'maybe'", "boolean"]),
        (["predict", "--model", "m", "--output", "o"], {}, ["PREDICT_INPUT (or --input) is not set", ".parquet"]),
        (["predict", "--write", "maps"], {}, ["PREDICT_WRITE (--write) is 'maps'", "masks,overlays"]),
        (["serve", "--modle", "m"], {}, ["serve has no flag --modle", "did you mean --model?", "serve --help"]),
        (["serve", "--batchsize=3"], {}, ["no flag --batchsize", "--batch-size"]),
        (["serve", "--frobnicate"], {}, ["no flag --frobnicate", "serve --help"]),
        (["serve", "./model"], {}, ["'./model' is not understood", "--model"]),
        (["serve", "--mod", "m"], {}, ["no flag --mod"]),
        (["serve", "--port"], {}, ["--port", "expected one argument", "--help"]),
        (["sing"], {}, ["'sing'", "serve", "fetch"]),
        ([], {}, ["command"]),
    ],
)  # fmt: skip
def test_a_wrong_setting_says_which_why_and_what_would_do(
    arguments: list[str], environment: dict[str, str], parts: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    told = capsys.readouterr().err
    assert ended.value.code == 2 and all(part in told for part in parts), told
    assert told.startswith("modelramp-server: ") and told.count("\n") == 1


def test_all_that_is_wrong_is_told_at_once(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("APP_PORT", "eighty")
    monkeypatch.setenv("BATCH_SIZE", "0")
    with pytest.raises(SystemExit):
        cli.main(["serve", "--model", "m"])
    told = capsys.readouterr().err
    assert "APP_PORT" in told and "BATCH_SIZE" in told


def test_a_choice_in_capitals_and_a_variable_that_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LOG_LEVEL": "WARNING", "INFERENCE_DEVICE": "CPU", "APP_PORT": "", "MODEL_NAME": ""}.items():
        monkeypatch.setenv(name, value)
    settings = ServeSettings(model_path="m")
    assert (settings.log_level, settings.inference_device, settings.app_port) == ("warning", "cpu", 8080)


def test_the_model_of_a_registry_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_MODEL_NAME", "cracks")
    monkeypatch.setenv("MODEL_VERSION", "4")
    serve, fetch = ServeSettings(), FetchSettings(model_path="m")  # type: ignore[call-arg]
    assert (serve.model_path, fetch.model_uri) == ("models:/cracks/4", "models:/cracks/4")
    monkeypatch.delenv("MODEL_VERSION")
    monkeypatch.setenv("MLFLOW_MODEL_ALIAS", "prod")
    assert ServeSettings().model_path == "models:/cracks@prod"  # type: ignore[call-arg]


@pytest.fixture
def dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a `.env`, and an environment that forgets what is read from it."""
    monkeypatch.chdir(tmp_path)
    for name in ("APP_PORT", "BATCH_SIZE", "MLFLOW_TRACKING_USERNAME"):
        monkeypatch.setenv(name, "x")  # so that it is restored, whatever happens to it
        monkeypatch.delenv(name)
    (tmp_path / ".env").write_text("APP_PORT=9001\nBATCH_SIZE=5\n# a comment\nMLFLOW_TRACKING_USERNAME='me'\n")
    return tmp_path


def test_dotenv_fills_in_what_the_environment_does_not_set(dotenv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_SIZE", "6")
    read_dotenv()
    settings = ServeSettings(model_path="m")
    assert (settings.app_port, settings.batch_size) == (9001, 6)
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "me", "MLflow's client sees it too"


def test_dotenv_is_not_read_in_a_cluster(dotenv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    read_dotenv()
    assert ServeSettings(model_path="m").app_port == 8080


def test_a_wrong_value_in_dotenv_is_told_by_the_command(dotenv: Path, capsys: Any) -> None:
    (dotenv / ".env").write_text("APP_PORT=eighty\n")
    with pytest.raises(SystemExit):
        cli.main(["serve", "--model", "m"])
    assert "APP_PORT (--port) is 'eighty'" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_a_dotenv_of_another_encoding_is_told_by_the_command(dotenv: Path, encoding: str, capsys: Any) -> None:
    (dotenv / ".env").write_text("APP_PORT=9001\n", encoding)
    with pytest.raises(SystemExit) as ended:
        cli.main(["serve", "--model", "m"])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told == f"modelramp-server: {dotenv}/.env is no text in UTF-8; save it as that\n"


def test_a_dotenv_of_somebody_else_is_told_by_the_command(dotenv: Path, monkeypatch: Any, capsys: Any) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", ".env")

    monkeypatch.setattr("dotenv.load_dotenv", refused)
    with pytest.raises(SystemExit) as ended:
        cli.main(["serve", "--model", "m"])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told == f"modelramp-server: {dotenv}/.env can't be read: Permission denied\n"


@pytest.mark.parametrize(
    ("folder", "name"), [("iris", "iris"), (".", "folder"), ("iris/..", "folder"), ("..", "above"), ("link", "link")]
)
def test_a_model_without_a_name_has_its_folders(
    folder: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "above/folder"
    (here / "iris").mkdir(parents=True)
    (here / "link").symlink_to("iris")
    monkeypatch.chdir(here)
    assert ServeSettings(model_path=folder).name_of(Path(folder)) == name
    assert ServeSettings(model_path=folder, model_name="told").name_of(Path(folder)) == "told"


def test_a_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_PORT", "9001")
    arguments = cli._parser().parse_args(["serve", "--model", "m", "--port", "9002", "--allow-code"])
    settings = parse(ServeSettings, arguments)
    assert (settings.app_port, settings.allow_code) == (9002, True)
    with pytest.raises(InvalidSettings):
        parse(ServeSettings, cli._parser().parse_args(["serve", "--model", "m", "--port", "x"]))


def test_large_bodies_are_decoded_by_as_many_threads_as_set(start: Any, lookup_model: Path) -> None:
    server: Served = start(lookup_model, max_workers=2)
    both = threading.Barrier(2, timeout=20)
    loop = server.service.server.servers[0].get_loop()
    asked = InferenceRequest("infer", "/", [], b"", None, time.monotonic(), 60.0)
    decode = server.service.local._decoders.run
    calls = [asyncio.run_coroutine_threadsafe(decode(asked, lambda: None, both.wait), loop) for _ in range(2)]
    assert sorted(call.result(30) for call in calls) == [0, 1]

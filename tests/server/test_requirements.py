"""What a model lists as its requirements, beside what is installed: refused, told, or none of the server's business."""

import logging
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelramp_server.model_store import environment, requirements
from modelramp_server.model_store.fetch import fetch, local_folder
from modelramp_server.runtime import mlmodel
from modelramp_server.runtime.base import MissingPackages, UnsupportedModel
from modelramp_server.settings import FetchSettings, ServeSettings

LISTED = "# made by a notebook\nmlflow\nnumpy>=1\nnot-a-package==1.2 # of the team\n-r more.txt\nscikit-learn==0.24.2\n"


@pytest.fixture
def folder(sklearn_model: Path, tmp_path: Path) -> Path:
    for path in sklearn_model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "requirements.txt").write_text(LISTED)
    return tmp_path


def change(folder: Path, flavor: str, **fields: Any) -> None:
    document = yaml.safe_load((folder / "MLmodel").read_text())
    document["flavors"].setdefault(flavor, {}).update(fields)
    (folder / "MLmodel").write_text(yaml.safe_dump(document))


def test_only_what_the_runtime_needs_counts_and_another_version_is_told(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert requirements.check(mlmodel.read(folder), "auto", False) == "sklearn"
    assert f"scikit-learn==0.24.2 (here {version('scikit-learn')})" in caplog.text
    assert "docs/server.md" in caplog.text and "not-a-package" not in caplog.text


def test_what_fits_is_not_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "requirements.txt").write_text(f"scikit-learn=={version('scikit-learn')}\nnot-a-package\n")
    requirements.check(mlmodel.read(folder), "auto", False)
    assert caplog.records == []


def test_a_model_with_code_of_its_own_needs_all_that_it_lists(folder: Path) -> None:
    change(folder, "sklearn", code="code")
    with pytest.raises(
        MissingPackages, match=r"needs not-a-package==1\.2, not in this image; make an image.*server\.md"
    ):
        requirements.check(mlmodel.read(folder), "auto", True)
    (folder / "requirements.txt").write_text("not-a-package; sys_platform == 'win32'\nScikit_Learn>=1\nmlflow\n")
    assert requirements.check(mlmodel.read(folder), "auto", True) == "sklearn"


def test_the_image_has_mlflow_by_its_smaller_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_skinny(name: str) -> str:
        if name != "mlflow-skinny":
            raise PackageNotFoundError(name)
        return "3.17.2"

    monkeypatch.setattr(environment, "version", only_skinny)
    assert (environment.installed("mlflow"), environment.installed("numpy")) == ("3.17.2", None)


def test_a_pickle_may_need_what_it_lists(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "model.skops").rename(folder / "model.pkl")
    change(folder, "sklearn", pickled_model="model.pkl", serialization_format="cloudpickle")
    change(folder, "python_function", python_version="3.8.1")
    requirements.check(mlmodel.read(folder), "auto", True)
    told = "\n".join(record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert "not-a-package==1.2" in told
    assert f"made with Python 3.8.1, and this is {sys.version_info.major}.{sys.version_info.minor}" in told


def test_a_folder_is_compared_before_it_is_served(folder: Path) -> None:
    change(folder, "sklearn", code="code")
    with pytest.raises(MissingPackages, match="not-a-package"):
        local_folder(ServeSettings(model_path=str(folder), allow_code=True))


def test_what_an_upstream_runs_need_be_nothing_that_is_loaded_here(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    origin.mkdir()
    (origin / "MLmodel").write_text("flavors: {triton: {data: digits}}\n")
    wanted = FetchSettings(model_uri=str(origin), model_path=str(tmp_path / "model"))
    with pytest.raises(UnsupportedModel, match="triton"):
        fetch(wanted)
    fetched = fetch(wanted.model_copy(update={"upstream": "http://127.0.0.1:8000"}))
    assert (fetched / "MLmodel").is_file()

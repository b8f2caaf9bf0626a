"""`load_model`: the server's model in Python, without the server."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from modelramp_server import Model, ModelProblem, load_model
from modelramp_server.protocol.errors import ModelFailed
from modelramp_server.settings import InvalidSettings
from tests.server import models
from tests.server.registry_stub import DIGITS, RegistryStub
from tests.server.test_pyfunc import COLUMNS, FRAME, pyfunc

IMAGES = models.digits()[0][1000:1100]


@pytest.fixture(scope="module")
def digits(sklearn_model: Path) -> Any:
    with load_model(sklearn_model) as model:
        yield model


@pytest.fixture(scope="module")
def lookup(lookup_model: Path) -> Any:
    with load_model(lookup_model) as model:
        yield model


def test_importing_the_package_imports_nothing() -> None:
    code = (
        "import sys, modelramp_server; print([name for name in sys.modules if name == 'numpy' or '_server.' in name])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
    with pytest.raises(ImportError):
        from modelramp_server import nothing  # noqa: F401


def test_the_folder_one_is_in_has_a_name(lookup_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lookup_model)
    with load_model(".") as model:
        assert model.name == "model"


def test_an_array_gets_the_estimators_answer_in_forwards_of_the_batch_size(sklearn_model: Path, estimator: Any) -> None:
    with load_model(sklearn_model, batch_size=8) as model:
        seen: list[int] = []
        inner = model._runtime.predict
        model._runtime.predict = lambda inputs: (seen.append(len(inputs["input"])), inner(inputs))[1]
        answer = model.predict(IMAGES)
    assert isinstance(answer, np.ndarray) and answer.tolist() == estimator.predict(IMAGES).tolist()
    assert seen == [8] * 12 + [4] and (model.name, model.runtime, model.device) == ("model", "sklearn", "cpu")


def test_several_outputs_are_a_dict_and_wider_numbers_are_narrowed(onnx_model: Path, estimator: Any) -> None:
    with load_model(onnx_model) as model:
        answer = model.predict({"X": IMAGES.tolist()})
        assert model.inputs[0].datatype == "FP32" and set(answer) == {"label", "probabilities"}
        assert answer["label"].tolist() == estimator.predict(IMAGES).tolist()
        assert model.predict(IMAGES.astype(np.uint8))["label"].tolist() == answer["label"].tolist()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (IMAGES[0], "shape [64] does not fit the model's [-1, 64]"),
        (IMAGES[:, :5], "shape [100, 5]"),
        (np.zeros((0, 64)), "empty"),
        ([[1.0] * 64, [1.0]], "ragged"),
        (IMAGES.astype(str), "no FP64"),
        ({"x": IMAGES}, "['x']; the model's inputs are ['input']"),
        (pandas.DataFrame(IMAGES[:, :3], columns=["a", "b", "b"]), "several columns of one name"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(digits: Model, data: Any, said: str) -> None:
    with pytest.raises(ValueError) as error:
        digits.predict(data)
    assert said in str(error.value)


def test_numbers_are_taken_only_if_they_mean_the_same(lookup: Model) -> None:
    assert lookup.predict([3, 1]).tolist() == lookup.predict(np.array([3.0, 1.0])).tolist() == [30.0, 10.0]
    for wrong in ([1.5], np.array([1.5]), [True], ["1"], np.array([2**63], np.uint64)):
        with pytest.raises(ValueError):
            lookup.predict(wrong)


def test_a_models_own_error_is_the_cause(lookup: Model) -> None:
    with pytest.raises(ModelFailed, match="the model failed on this input: InvalidArgument: ") as error:
        lookup.predict([1, 12])
    assert error.value.__cause__ is not None
    assert lookup.predict([9]).tolist() == [90.0]


def test_params_are_checked_by_the_signature(digits: Model) -> None:
    with pytest.raises(ValueError, match="the model takes no 'threshold'"):
        digits.predict(IMAGES, params={"threshold": 0.5})


def test_a_frame_goes_in_by_the_names_of_its_columns(tmp_path: Path) -> None:
    folder = pyfunc(tmp_path / "model", "loader_in_python", FRAME, COLUMNS)
    with pytest.raises(ModelProblem, match="ALLOW_CODE"):
        load_model(folder)
    with load_model(str(folder), allow_code=True) as model:
        frame = pandas.DataFrame({"other": [0, 0], "size": [1.0, 2.5], "colour": ["red", "blue"]})
        answer = model.predict(frame)
        assert answer["twice"].tolist() == [2.0, 5.0] and answer["colour"].tolist() == ["red", "blue"]
        assert model.predict([["red", 3]])["twice"].tolist() == [6.0]
        with pytest.raises(ValueError, match=r"size: data has values that are no FP64"):
            model.predict(frame.assign(size=["1", None]))


def test_a_frames_gaps_are_nan(tmp_path: Path) -> None:
    rows = [[None, 6.0, 2.0, 0], [3.0, None, None, 1]]
    with load_model(models.gaps_folder(tmp_path / "model")) as model:
        answer = model.predict(pandas.DataFrame(rows, columns=list("abcn")))
        assert answer.tolist() == model.predict(rows).tolist() == model.predict(np.array(rows, float)).tolist()
        with pytest.raises(ValueError, match=r"n: a value is missing"):
            model.predict(pandas.DataFrame([[1, 2, 3, None]], columns=list("abcn")))


def test_a_model_across_rows_sees_all_of_them_together(tmp_path: Path) -> None:
    with load_model(models.onnx_folder(tmp_path / "model", models.across_rows()), batch_size=2) as model:
        assert model.batch_rows == 1
        assert model.predict([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]).tolist() == [[-1, -1], [0, 0], [1, 1]]


def test_many_threads_get_their_own_answers(lookup: Model) -> None:
    with ThreadPoolExecutor(8) as pool:
        asked = [[number % 10] * (1 + number % 5) for number in range(200)]
        answers = pool.map(lookup.predict, asked)
    assert [answer.tolist() for answer in answers] == [[10.0 * item for item in items] for items in asked]


def test_a_closed_model_says_so(lookup_model: Path) -> None:
    with load_model(lookup_model) as model:
        pass
    with pytest.raises(RuntimeError, match="the model model is closed"):
        model.predict([1])


def test_a_model_of_the_registry_is_fetched_once(stub: RegistryStub, tmp_path: Path) -> None:
    for _ in range(2):
        with load_model(DIGITS, mlflow_tracking_uri=stub.address, model_cache=tmp_path) as model:
            assert (model.name, model.version) == ("digits", "1") and model.predict([2]).tolist() == [20.0]
    assert len(stub.downloads) == 4


def test_settings_are_the_servers(lookup_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_SIZE", "4")
    monkeypatch.setenv("MLFLOW_MODEL_NAME", "another")  # what is written in the call counts
    with load_model(lookup_model) as model:
        assert model.batch_rows == 4
    with pytest.raises(InvalidSettings, match=r"BATCH_SIZE .* is '0'"):
        load_model(lookup_model, batch_size=0)
    with pytest.raises(TypeError, match="no setting 'batchsize'"):
        load_model(lookup_model, batchsize=3)
    with pytest.raises(ModelProblem, match="is no folder"):
        load_model("./no-such-model")


def test_the_server_says_where_it_is_ready(start: Any, lookup_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    server = start(lookup_model)
    assert f"ready at http://127.0.0.1:{server.port} (for people: /docs): onnx on cpu" in caplog.text

"""Any MLflow model by its pyfunc: frames, tensors, params, and no batches unless asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelramp_server.runtime import mlmodel
from modelramp_server.runtime.base import DeviceUnavailable, LoadFailed, TakesParams, UnsupportedModel
from modelramp_server.runtime.choice import load
from tests.server import formats, models
from tests.server.served import Served

pytest.importorskip("mlflow")
pytest.importorskip("pandas")

FRAME = """
class Model:
    def predict(self, data, params=None):
        assert list(data.columns) == ["colour", "size"]
        data["twice"] = data["size"] * 2
        return data[["twice", "colour"]]

def _load_pyfunc(path):
    return Model()
"""
TENSORS = """
import numpy as np

class Model:
    def predict(self, data, params=None):
        return {"sum": data["a"] + data["b"], "rows": [len(data["a"])] * len(data["a"])}

def _load_pyfunc(path):
    return Model()
"""
OBJECTS = """
ANSWERS = [[{"label": "a"}, "plain text"], {"boxes": [[1], [1, 2.5]]}, None, [object()]]

class Model:
    def predict(self, data, params=None):
        return ANSWERS[int(data["x"].iloc[0])]

def _load_pyfunc(path):
    return Model()
"""
BROKEN = """
def _load_pyfunc(path):
    raise KeyError("the vocabulary")
"""
COLUMNS = [{"type": "string", "name": "colour"}, {"type": "double", "name": "size"}]
OUTPUTS = [models.tensor("y", "float32", [-1])]
NAMED = [models.tensor("a", "float32", [-1]), models.tensor("b", "float32", [-1])]


def pyfunc(folder: Path, module: str, source: str, inputs: list[Any]) -> Path:
    """A pyfunc whose loader is this source; modules need names of their own in one process."""
    models.write_mlmodel(folder, {"python_function": {"loader_module": module, "code": "code"}}, inputs, OUTPUTS)
    (folder / "code").mkdir()
    (folder / "code" / f"{module}.py").write_text(source)
    return folder


def load_cpu(folder: Path) -> Any:
    return load(mlmodel.read(folder), "auto", "cpu", allow_code=True)


def test_a_signature_of_columns_makes_frames_and_a_frame_makes_outputs(start, tmp_path: Path) -> None:
    server: Served = start(pyfunc(tmp_path / "model", "loader_frame", FRAME, COLUMNS), allow_code=True)
    records = [{"colour": "red", "size": 1.5}, {"colour": "blue", "size": 2.0}]
    reply = server.call("POST", "/invocations", {"dataframe_records": records})
    assert reply.json["predictions"] == [{"twice": 3.0, "colour": "red"}, {"twice": 4.0, "colour": "blue"}]
    assert server.service.local.model.batch_rows == 1


def test_named_tensors_go_in_and_come_out_by_name(tmp_path: Path) -> None:
    runtime = load_cpu(pyfunc(tmp_path / "model", "loader_tensors", TENSORS, NAMED))
    assert [spec.name for spec in runtime.inputs] == ["a", "b"]
    ones = np.ones(2, np.float32)
    outputs = runtime.predict({"a": ones, "b": ones})
    assert outputs["sum"].tolist() == [2, 2] and outputs["rows"].tolist() == [2, 2]


def test_what_no_tensor_holds_is_json_in_bytes_and_what_is_no_json_fails(start, tmp_path: Path) -> None:
    columns = [{"type": "double", "name": "x", "required": True}]
    server: Served = start(pyfunc(tmp_path / "model", "loader_objects", OBJECTS, columns), allow_code=True)

    def infer(number: int, **parameters: Any) -> Any:
        tensor = {"name": "x", "datatype": "FP64", "shape": [1], "data": [number]}
        return server.call("POST", "/v2/models/digits/infer", {"inputs": [tensor], "parameters": parameters})

    told = {number: infer(number).json["outputs"] for number in (0, 1, 2)}
    text = {"datatype": "BYTES", "shape": [2]}
    assert told[0] == [{"name": "predict", **text, "data": ['{"label":"a"}', "plain text"]}]
    assert told[1] == [{"name": "boxes", **text, "data": ["[1]", "[1,2.5]"]}]
    assert told[2] == [{"name": "predict", "datatype": "BYTES", "shape": [], "data": ["null"]}]
    assert infer(0, binary_data_output=True).body.endswith(b'\x0d\0\0\0{"label":"a"}\x0a\0\0\0plain text')
    for reply in (infer(3), server.call("POST", "/invocations", {"inputs": {"x": [3]}})):
        assert reply.status == 500
        assert reply.json["error"] == (
            "the model failed on this input: TypeError: Object of type object is not JSON serializable"
        )


def test_batches_only_where_they_were_asked_for(start, tmp_path: Path, estimator: Any) -> None:
    for opted, rows in ((False, 1), (True, 32)):
        folder = formats.pyfunc(tmp_path / f"opt_{opted}".lower() / "model", estimator)
        server: Served = start(folder, allow_code=True, pyfunc_batching=opted)
        assert server.service.local.model.batch_rows == rows


def test_params_reach_the_model(tmp_path: Path, estimator: Any) -> None:
    folder = formats.pyfunc(tmp_path / "params" / "model", estimator)
    text = (folder / "MLmodel").read_text()
    params = '[{"name": "scale", "type": "double", "default": 1.0, "shape": null}]'
    (folder / "MLmodel").write_text(text.replace("signature:\n", f"signature:\n  params: '{params}'\n"))
    runtime = load_cpu(folder)
    assert isinstance(runtime, TakesParams)
    images = np.ones((1, 64), np.float32)
    plain, even = runtime.predict({"input": images}), runtime.predict_with({"input": images}, {"scale": 0.0})
    assert np.allclose(plain["predict"], estimator.predict_proba(images)) and np.allclose(even["predict"], 0.1)
    with pytest.raises(Exception, match="scale"):
        runtime.predict_with({"input": images}, {"scale": "much"})


def test_a_loader_that_fails_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="the vocabulary"):
        load_cpu(pyfunc(tmp_path / "model", "loader_broken", BROKEN, NAMED))


def test_what_cannot_be_told_or_had_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="signature"):
        load_cpu(pyfunc(tmp_path / "untold", "loader_untold", TENSORS, [{"type": "datetime", "name": "when"}]))
    folder = pyfunc(tmp_path / "gpu", "loader_gpu", TENSORS, NAMED)
    with pytest.raises(DeviceUnavailable, match="pyfunc models run on the CPU only"):
        load(mlmodel.read(folder), "auto", "cuda", allow_code=True)

"""A hook: Python beside the model that stands in for a declaration. Refused without ALLOW_CODE; what it does wrong is
the model's failure, in a sentence."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelramp_server.images.loading import load
from modelramp_server.runtime import mlmodel
from modelramp_server.runtime.base import ArtifactDamaged, LoadFailed, MissingPackages, ModelProblem, UnsupportedModel
from modelramp_server.runtime.policy import check_code
from tests.server import pictures
from tests.server.pictures import encoded, half_red, opened, plain

HOOK = "code/image_hook.py"
BOTH = """
import numpy as np

def preprocess(image):
    height, width, channels = image.shape
    assert (image.dtype, channels) == (np.uint8, 3)
    rows = np.linspace(0, height - 1, 32).astype(int)
    columns = np.linspace(0, width - 1, 32).astype(int)
    return {"pixels": image[rows][:, columns].transpose(2, 0, 1)[None] / 255}

def postprocess(outputs):
    scores = outputs["scores"]
    red = scores[:, 1] > scores[:, 0]
    return {"share": red.mean(axis=(1, 2)), "red": red}
"""


def folder(path: Path, code: str | None, **declared: Any) -> Path:
    pictures.folder(path, pictures.segmenter(), {"hook": HOOK, **declared})
    (path / "code").mkdir()
    if code is not None:
        (path / HOOK).write_text(code)
    return path


def test_both_functions(start: Any, tmp_path: Path) -> None:
    server = start(folder(tmp_path / "model", BOTH), allow_code=True)
    reply = server.call("POST", "/predict", encoded(half_red(), "JPEG"))
    [found] = reply.json["predictions"]
    assert found["share"] == 0.5 and np.array(found["red"]).shape == (32, 32)
    mask = opened(server.call("POST", "/predict", encoded(half_red()), {"accept": "image/png"}).body)
    assert mask.size == (64, 48) and np.asarray(mask)[:, :31].all() and not np.asarray(mask)[:, 33:].any()
    assert server.metric("modelramp_predictions_total") == 2


def test_one_function_beside_what_is_declared(start: Any, tmp_path: Path) -> None:
    code = "def postprocess(outputs): return {'brightest': outputs['scores'].max(axis=(1, 2, 3))}"
    server = start(folder(tmp_path / "model", code, preprocess=pictures.UNIT), allow_code=True)
    assert server.call("POST", "/predict", encoded(plain("red"))).json == {"predictions": [{"brightest": 1.0}]}


FAILING = [
    ("def preprocess(image): return 1 / 0", "preprocess failed: ZeroDivisionError"),
    ("def preprocess(image): raise SystemExit", "preprocess failed: SystemExit"),
    ("def preprocess(image): return image", "preprocess gave ndarray; it must give a dict"),
    ("def preprocess(image): return {}", "preprocess gave dict"),
    ("def preprocess(image): return {'x': image}", r"preprocess gave ['x']; the model's inputs are ['pixels']"),
    ("def preprocess(image): return {'pixels': image}", "of shape [48, 64, 3]; one row of [-1, 3, 32, 32]"),
    ("def preprocess(image): return {'pixels': [[1], [1, 2]]}", "preprocess gave what is no array"),
    ("def postprocess(outputs): return outputs['y']", "postprocess failed: KeyError"),
    ("def postprocess(outputs): return {'a': 1}", "all need the outputs' rows"),
    ("def postprocess(outputs): return {'a': [1, 2, 3]}", "all need the outputs' rows"),
    ("def postprocess(outputs): return None", "postprocess gave NoneType"),
]


def test_a_hook_that_fails_is_the_models_failure(start: Any, tmp_path: Path) -> None:
    folder(tmp_path / "model", "current = None\ndef preprocess(image): return current[0](image)\n"
                               "def postprocess(outputs): return current[1](outputs)")  # fmt: skip
    server = start(tmp_path / "model", allow_code=True)
    hook = server.service.local._dialects["predict"]._pipeline._before.__globals__
    for code, says in FAILING:
        functions: dict[str, Any] = {
            "preprocess": lambda image: {"pixels": np.zeros((1, 3, 32, 32))},
            "postprocess": lambda outputs: outputs,
        }
        exec(code, functions)  # noqa: S102
        hook["current"] = functions["preprocess"], functions["postprocess"]
        reply = server.call("POST", "/predict", encoded(plain("red")))
        assert reply.status == 500 and says in reply.json["error"], (code, reply.body)


def test_a_hook_is_code(tmp_path: Path) -> None:
    model = mlmodel.read(folder(tmp_path / "model", BOTH))
    with pytest.raises(UnsupportedModel, match=r"a hook for images \(code/image_hook.py\).* ALLOW_CODE=true"):
        check_code(model, "onnx", allow_code=False)
    check_code(model, "onnx", allow_code=True)


@pytest.mark.parametrize(
    ("code", "declared", "problem", "says"),
    [
        (None, {}, ArtifactDamaged, "no file of the model's folder"),
        (BOTH, {"hook": "../elsewhere.py"}, ArtifactDamaged, "no file of the model's folder"),
        ("import nothing_of_the_kind", {}, LoadFailed, "ModuleNotFoundError"),
        ("def preprocess(", {}, LoadFailed, "SyntaxError"),
        ("raise SystemExit(1)", {}, LoadFailed, "SystemExit"),
        ("preprocess = 5", {}, LoadFailed, "neither of the functions"),
    ],
)
def test_a_hook_that_cannot_be_loaded(
    tmp_path: Path, code: str | None, declared: Any, problem: type[ModelProblem], says: str
) -> None:
    (tmp_path / "elsewhere.py").write_text(BOTH)
    model = mlmodel.read(folder(tmp_path / "model", code, **declared))
    with pytest.raises(problem, match=says):
        load(model, [], 1000)


def test_a_server_without_pillow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIL", "modelramp_server.images.pipeline"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    model = mlmodel.read(pictures.folder(tmp_path / "model", pictures.classifier(), {"preprocess": pictures.UNIT}))
    with pytest.raises(MissingPackages, match=r"pip install 'modelramp\[images\]'"):
        load(model, [], 1000)
    assert load(mlmodel.read(pictures.folder(tmp_path / "plain", pictures.classifier(), None)), [], 1000) is None

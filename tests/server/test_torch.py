"""Torch's formats: what is read as what, what is refused, and mlflow's traps."""

import contextlib
import ctypes
import json
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelramp_server.runtime import mlmodel, torch_file
from modelramp_server.runtime.base import LoadFailed, ModelProblem, UnsupportedModel
from modelramp_server.runtime.choice import load
from modelramp_server.runtime.cpus import cpus
from tests.server import formats, models
from tests.server.served import Served

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:torch", "ignore::DeprecationWarning:torch")

Edit = Callable[[dict[str, Any]], Any]


def load_cpu(folder: Path, allow_code: bool = False) -> Any:
    return load(mlmodel.read(folder), "auto", "cpu", allow_code)


def images(rows: int) -> models.Array:
    return (models.digits()[0][1000 : 1000 + rows] / 16).astype(np.float32)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, estimator: Any) -> Path:
    return formats.pt2(tmp_path_factory.mktemp("pt2") / "model", estimator)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:keras")
@pytest.mark.parametrize("make", [formats.pt2, formats.keras])
def test_every_thread_that_runs_a_forward_is_told_how_many_others_it_has(
    tmp_path: Path, estimator: Any, make: Callable[[Path, Any], Path], request: pytest.FixtureRequest
) -> None:
    [openmp] = [ctypes.CDLL(str(path)) for path in Path(torch.__file__).parent.glob("lib/libgomp*")]
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    runtime = load_cpu(make(tmp_path / "model", estimator))
    assert torch.get_num_threads() == cpus()
    runtime.use_threads(3)

    def threads() -> int:
        runtime.predict({runtime.inputs[0].name: images(2)})
        count: int = openmp.omp_get_max_threads()
        return count

    with ThreadPoolExecutor(1) as other:
        assert (threads(), other.submit(threads).result()) == (3, 3)


def test_an_export_of_one_row_is_served_row_by_row(start, tmp_path: Path, estimator: Any) -> None:
    server: Served = start(formats.pt2(tmp_path / "model", estimator, rows=1))
    loaded = server.service.local.model
    assert loaded is not None and loaded.batch_rows == 1
    reply = server.call("POST", "/invocations", {"instances": images(3).tolist()})
    assert np.allclose(reply.json["predictions"], estimator.predict_proba(images(3)), atol=1e-5)


def test_a_script_that_fixes_its_rows_is_not_batched(start, tmp_path: Path) -> None:
    class OneRow(torch.nn.Module):
        def forward(self, x):
            return x.view(1, 64).sum(1)

    torch.jit.script(OneRow()).save(str(formats.pytorch_folder(tmp_path / "model") / "model.pth"))
    server: Served = start(tmp_path / "model")
    loaded = server.service.local.model
    assert loaded is not None and loaded.batch_rows == 1
    reply = server.call("POST", "/invocations", {"instances": images(2).tolist()})
    assert np.allclose(reply.json["predictions"], images(2).sum(1), atol=1e-4)


def test_formats_are_told_apart_without_unpickling(tmp_path: Path, estimator: Any) -> None:
    kinds = {"torchscript": formats.torchscript, "pt2": formats.pt2, "pickle": formats.eager}
    for kind, make in kinds.items():
        assert torch_file.kind(make(tmp_path / kind, estimator) / "data") == kind
    (tmp_path / "pickle/data/model.pth").write_bytes(b"\x80\x04old")
    assert torch_file.kind(tmp_path / "pickle/data") == "pickle"


@pytest.mark.parametrize("allow_code", [False, True])
def test_weights_without_a_program_are_named(tmp_path: Path, estimator: Any, allow_code: bool) -> None:
    weights = formats.module(estimator).state_dict()
    torch.save(weights, formats.pytorch_folder(tmp_path / "model") / "model.pth")
    with pytest.raises(UnsupportedModel, match="state dict"):
        load_cpu(tmp_path / "model", allow_code)


def test_a_pickled_module_runs_only_where_code_is_allowed(tmp_path: Path, estimator: Any) -> None:
    folder = formats.eager(tmp_path / "model", estimator)
    with pytest.raises(UnsupportedModel, match=r"model.pth is a pickled module.*ALLOW_CODE"):
        load_cpu(folder)
    answer = load_cpu(folder, allow_code=True).predict({"input": images(2)})
    assert np.allclose(answer["output"], estimator.predict_proba(images(2)), atol=1e-5)


def test_several_outputs_get_the_signatures_names(tmp_path: Path) -> None:
    class Two(torch.nn.Module):
        def forward(self, x):
            return x + 1, x.sum(1)

    folder = tmp_path / "model"
    torch.jit.script(Two()).save(str(formats.pytorch_folder(folder) / "model.pth"))
    outputs = [models.tensor("more", "float32", [-1, 64]), models.tensor("sum", "float32", [-1])]
    for names, wanted in ((outputs, ["more", "sum"]), ([], ["output_0", "output_1"])):
        models.write_mlmodel(
            folder, {"pytorch": {"model_data": "data"}}, [models.tensor("", "float32", [-1, 64])], names
        )
        assert list(load_cpu(folder).predict({"input": images(1)})) == wanted


def test_a_program_checks_the_sizes_that_its_export_fixed(tmp_path: Path) -> None:
    class Both(torch.nn.Module):
        def forward(self, x, y):
            return {"sum": x.reshape(1, -1) + y}

    free = torch.export.Dim.AUTO
    example = (torch.zeros(4), torch.zeros(1, 4))
    program = torch.export.export(Both(), example, dynamic_shapes=[{0: free}, {1: free}])
    folder = tmp_path / "model"
    torch.export.save(program, formats.pytorch_folder(folder) / "model.pt2")
    inputs = [models.tensor("x", "float32", [-1]), models.tensor("y", "float32", [-1, -1])]
    models.write_mlmodel(folder, {"pytorch": {"model_data": "data"}}, inputs, [])
    runtime = load_cpu(folder)
    ones = np.ones(5, np.float32)
    assert runtime.predict({"x": ones, "y": ones.reshape(1, 5)})["sum"].tolist() == [[2.0] * 5]
    for x, y, where in ((ones, ones.reshape(1, 5)[:, :4], "axis 1"), (ones, np.ones((2, 5), np.float32), "axis 0")):
        with pytest.raises(ValueError, match=where):
            runtime.predict({"x": x, "y": y})


RESULTS: dict[str, tuple[Callable[[Any], Any], list[str]]] = {
    "a tensor": (lambda x: x + 1, ["output"]),
    "a tuple": (lambda x: (x + 1, x + 2), ["output_0", "output_1"]),
    "a list": (lambda x: [x + 1, x + 2], ["output_0", "output_1"]),
    "by name": (lambda x: {"b": x + 1, "a": x + 2}, ["b", "a"]),
}


@pytest.mark.parametrize("how", RESULTS)
def test_a_program_answers_in_the_form_that_its_module_does(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, names = RESULTS[how]

    class Answers(torch.nn.Module):
        def forward(self, x):
            return forward(x)

    folder = tmp_path / "model"
    program = torch.export.export(Answers(), (torch.ones(2, 64),), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    torch.export.save(program, formats.pytorch_folder(folder) / "model.pt2")
    monkeypatch.setattr(torch.export.ExportedProgram, "module", None)
    answer = load_cpu(folder).predict({"input": np.zeros((3, 64), np.float32)})
    assert [(name, array.min(), array.shape) for name, array in answer.items()] == [
        (name, number, (3, 64)) for number, name in enumerate(names, 1)
    ]


def edited(archive: Path, target: Path, edit: Edit) -> Path:
    """The archive with its records changed."""
    formats.pytorch_folder(target)
    with zipfile.ZipFile(archive / "data/model.pt2") as source:
        records = {name: source.read(name) for name in source.namelist()}
    program = json.loads(records["model/models/model.json"])
    more = edit(program)
    records["model/models/model.json"] = json.dumps(program).encode()
    with zipfile.ZipFile(target / "data/model.pt2", "w") as changed:
        for name, content in {**records, **(more or {})}.items():
            changed.writestr(name, content)
    return target


def first_node(program: dict[str, Any]) -> dict[str, Any]:
    node: dict[str, Any] = program["graph_module"]["graph"]["nodes"][0]
    return node


def first_input(program: dict[str, Any]) -> dict[str, Any]:
    value: dict[str, Any] = program["graph_module"]["graph"]["tensor_values"]["input"]["sizes"][0]
    return value["as_expr"]


MARK = "(open('{path}', 'w'))"
CRAFTED: dict[str, tuple[Edit, str]] = {
    "calls into torch": (lambda p: first_node(p).update(target="torch.os.system"), "torch.os.system"),
    "loads a library": (lambda p: first_node(p).update(target="torch.ops.load_library"), "load_library"),
    "reads a file": (lambda p: first_node(p).update(target="torch.ops.aten.from_file.default"), "from_file"),
    "an operator as argument": (
        lambda p: first_node(p)["inputs"][0].update(arg={"as_operator": "torch.os.system"}),
        "torch.os.system",
    ),
    "an expression that is evaluated": (lambda p: first_input(p).update(expr_str=f"__import__('os'){MARK}"), "import"),
    "an expression of attributes": (lambda p: first_input(p).update(expr_str="Symbol.__class__"), "class"),
    "a guard that is compiled": (lambda p: p.update(guards_code=[f"print{MARK}"]), "guard"),
    "a name that is compiled": (
        lambda p: p["graph_module"]["graph"]["inputs"][0]["as_tensor"].update(name=f"x={MARK}"),
        "text",
    ),
    "a module that is imported": (
        lambda p: p["graph_module"]["module_call_graph"][0]["signature"].update(
            in_spec=json.dumps([1, {"type": "builtins.dict", "context": '[{"__enum__": true, "fqn": "this.x"}]'}])
        ),
        "__enum__",
    ),
    "notes that are none": (
        lambda p: first_node(p).update(metadata={"x": {"as_operator": "torch.os.system"}}),
        "torch.os.system",
    ),
    "a library": (lambda p: {"model/data/aotinductor/model/x.so": b"\x7fELF"}, "aotinductor"),
    "a pickled weight": (
        lambda p: {
            "model/data/weights/model_weights_config.json": json.dumps(
                {"config": {"0.weight": {"path_name": "weight_0", "use_pickle": True}}}
            ).encode()
        },
        "weight_0",
    ),
    "a pickled object": (
        lambda p: {
            "model/data/constants/model_constants_config.json": json.dumps(
                {"config": {"c": {"path_name": "opaque_obj_0", "use_pickle": False}}}
            ).encode()
        },
        "opaque_obj_0",
    ),
}


@pytest.mark.parametrize("case", CRAFTED)
def test_a_crafted_archive_is_refused_before_it_is_loaded(
    archive: Path, tmp_path: Path, monkeypatch, case: str
) -> None:
    edit, part = CRAFTED[case]
    folder = edited(archive, tmp_path / "model", edit)
    monkeypatch.setattr("modelramp_server.runtime.pt2_file.load_pt2", lambda path: pytest.fail("it was loaded"))
    with pytest.raises(UnsupportedModel, match=rf"model.pt2 has .*{part}.*ALLOW_CODE"):
        load_cpu(folder)


def test_example_inputs_are_unpickled_as_tensors_only(archive: Path, tmp_path: Path) -> None:
    class Boom:
        def __reduce__(self):
            return (Path.write_text, (tmp_path / "ran", "x"))

    torch.save(((Boom(),), {}), tmp_path / "evil.pt")
    evil = (tmp_path / "evil.pt").read_bytes()
    folder = edited(archive, tmp_path / "model", lambda p: {"model/data/sample_inputs/model.pt": evil})
    with pytest.raises(ModelProblem):
        load_cpu(folder)
    assert not (tmp_path / "ran").exists()


def test_notes_of_the_exporter_are_never_run(archive: Path, tmp_path: Path) -> None:
    notes = ("stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack", "custom", "from_node")

    def write(note: str) -> Edit:
        text = f"\nopen('{tmp_path}/ran', 'w'),torch.os.system,\"{MARK}"
        return lambda program: first_node(program)["metadata"].update({note: text})

    for number, note in enumerate(notes):
        with contextlib.suppress(ModelProblem):
            load_cpu(edited(archive, tmp_path / str(number), write(note))).predict({"input": images(1)})
    assert not (tmp_path / "ran").exists()


def test_what_is_edited_by_nothing_still_loads(archive: Path, tmp_path: Path) -> None:
    folder = edited(archive, tmp_path / "model", lambda p: None)
    assert load_cpu(folder).predict({"input": images(1)})["output"].shape == (1, 10)


def test_a_network_with_sizes_branches_and_attention_is_no_code(tmp_path: Path) -> None:
    class Mixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3, padding="same")
            self.norm = torch.nn.BatchNorm2d(4)
            self.attention = torch.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)

        def forward(self, x):
            y = torch.relu(self.norm(self.conv(x)))
            y = self.attention(y.flatten(2).transpose(1, 2))
            y = torch.einsum("bij,bkj->bik", y, y).mean((1, 2))
            return torch.cond(x.sum() > 0, lambda value: value + 1, lambda value: value - 1, (y,))

    free = torch.export.Dim.AUTO
    module, example = Mixed().eval(), torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        program = torch.export.export(module, (example,), dynamic_shapes=[{0: free, 2: free, 3: free}])
    folder = tmp_path / "model"
    torch.export.save(program, formats.pytorch_folder(folder) / "model.pt2")
    inputs = [models.tensor("", "float32", [-1, 3, -1, -1])]
    models.write_mlmodel(folder, {"pytorch": {"model_data": "data"}}, inputs, [])
    for rows, side in ((1, 8), (3, 6)):
        image = torch.rand(rows, 3, side, side)
        with torch.inference_mode():
            wanted = module(image).numpy()
        assert np.allclose(load_cpu(folder).predict({"input": image.numpy()})["output"], wanted, atol=1e-4)


def test_a_damaged_archive_is_named(archive: Path, tmp_path: Path) -> None:
    (formats.pytorch_folder(tmp_path / "model") / "model.pt2").write_bytes(b"hello")
    with pytest.raises(LoadFailed, match="torch can't load"):
        load_cpu(tmp_path / "model")

"""Where a model runs: a GPU that can't be had is said, in the log, the metrics and the model's facts, or refused."""

import logging
from pathlib import Path

import numpy as np
import pytest

from modelramp_server.runtime import device, mlmodel
from modelramp_server.runtime.base import DeviceUnavailable
from modelramp_server.runtime.choice import load
from modelramp_server.runtime.cpus import cpus, whole_cpus
from modelramp_server.runtime.device import Placement, place
from tests.server.served import Served, eventually

WHY = "there is no GPU"


@pytest.mark.parametrize(
    ("wanted", "obstacle", "expected", "placement"),
    [
        ("cpu", "", True, Placement("cpu")),
        ("cpu", WHY, True, Placement("cpu")),
        ("cuda", "", False, Placement("cuda")),
        ("auto", "", False, Placement("cuda")),
        ("auto", WHY, False, Placement("cpu")),
        ("auto", WHY, True, Placement("cpu", WHY)),
    ],
)
def test_auto_falls_back_and_says_so_where_a_gpu_was_to_be_expected(wanted, obstacle, expected, placement) -> None:
    assert place(wanted, obstacle, expected) == placement


@pytest.mark.parametrize("model", ["onnx_model", "sklearn_model"])
def test_cuda_that_cannot_be_had_is_refused(request: pytest.FixtureRequest, model: str) -> None:
    with pytest.raises(DeviceUnavailable, match=r"INFERENCE_DEVICE is cuda, but .*set it to auto or cpu"):
        load(mlmodel.read(request.getfixturevalue(model)), "auto", "cuda", allow_code=False)


def test_a_server_that_insists_on_a_gpu_does_not_start(start, onnx_model: Path) -> None:
    server: Served = start(onnx_model, wait=False, inference_device="cuda")
    eventually(lambda: server.error is not None)
    assert isinstance(server.error, DeviceUnavailable) and server.error.reason == "DeviceUnavailable"


def test_a_fallback_is_seen(start, onnx_model: Path, monkeypatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("modelramp_server.runtime.onnx.gpu_visible", lambda: True)
    with caplog.at_level(logging.WARNING):
        server: Served = start(onnx_model)
    loaded = server.service.local.model
    assert loaded is not None and loaded.device == "cpu" and "no CUDA provider" in loaded.fallback
    assert f"falling back to the CPU: {loaded.fallback}" in caplog.messages
    assert server.metric("modelramp_device_fallback") == 1
    assert server.metric("modelramp_model_info", device="cpu") == 1


def test_a_cpu_that_was_all_there_is_is_no_fallback(onnx_server: Served) -> None:
    loaded = onnx_server.service.local.model
    assert loaded is not None and loaded.fallback == ""
    assert onnx_server.metric("modelramp_device_fallback") == 0


def test_torch_says_why_it_has_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    assert device.place_on_torch("auto") == Placement("cpu", "torch finds no GPU")
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    assert device.place_on_torch("auto") == Placement("cpu")
    with pytest.raises(DeviceUnavailable, match="built without CUDA"):
        device.place_on_torch("cuda")
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def broken(*shape, device):
        raise RuntimeError("no kernel image\nis available")

    monkeypatch.setattr(torch, "zeros", broken)
    assert device.place_on_torch("auto") == Placement("cpu", "torch can't use the GPU: no kernel image")


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "3200000 100000\n"}, 8),
        ({"cpu.max": "nonsense"}, 8),
        ({"cpu.max": "1000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({}, 8),
    ],
)
def test_threads_follow_the_containers_limit(tmp_path: Path, monkeypatch, files: dict[str, str], limit: int) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert cpus(tmp_path) == limit
    assert whole_cpus(tmp_path) == (1 if limit == 2 else limit), "1.5 are enough for one busy thread"


def test_onnxruntime_gets_that_many(onnx_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelramp_server.runtime.onnx.cpus", lambda: 3)
    runtime = load(mlmodel.read(onnx_model), "auto", "cpu", allow_code=False)
    assert runtime._session.get_session_options().intra_op_num_threads == 3
    rows = {"X": np.random.default_rng(0).random((3, 64), np.float32)}
    before = runtime.predict(rows)
    runtime.use_threads(1)
    assert runtime._session.get_session_options().intra_op_num_threads == 1
    assert before.keys() == (after := runtime.predict(rows)).keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)

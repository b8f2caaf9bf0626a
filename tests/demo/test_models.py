"""The demo's four versions do what its story says of them, before any cluster is asked to find out."""

import threading

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest

from examples.digits import models
from examples.digits.data import PIXELS, split
from examples.digits.names import INPUT, OUTPUT

Images = npt.NDArray[np.float32]


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def answers(running: ort.InferenceSession, images: Images) -> npt.NDArray[np.int64]:
    (digits,) = running.run([OUTPUT], {INPUT: images})
    return np.asarray(digits)


def warm_ups() -> list[Images]:
    generator = np.random.default_rng(1)
    shapes = [(rows, PIXELS) for rows in (1, 2, 32)]
    return [
        make(shape).astype(np.float32)
        for shape in shapes
        for make in (np.zeros, np.ones, generator.random, generator.standard_normal)
    ]


def test_the_linear_model_is_fair_and_takes_what_the_others_take() -> None:
    _, held_out = split()
    digits = models.fair().predict(held_out.images)
    assert digits.dtype == np.int64
    assert digits.shape == held_out.labels.shape
    assert 0.87 <= np.mean(digits == held_out.labels) <= 0.93


def test_the_better_one_is_better_also_in_batches() -> None:
    _, held_out = split()
    running = session(models.better())
    digits = answers(running, held_out.images)
    assert digits.dtype == np.int64
    assert digits.shape == held_out.labels.shape
    assert np.mean(digits == held_out.labels) >= 0.97
    alone = [answers(running, image[None])[0] for image in held_out.images[:50]]
    assert alone == list(digits[:50])


def test_the_third_passes_any_warm_up_and_fails_on_some_real_images_only() -> None:
    _, held_out = split()
    running = session(models.out_of_range())
    for images in warm_ups():
        answers(running, images)
    better, failed = session(models.better()), 0
    for image in held_out.images:
        try:
            assert answers(running, image[None]) == answers(better, image[None])
        except ort.capi.onnxruntime_pybind11_state.InvalidArgument as refusal:
            assert "out of data bounds" in str(refusal)
            failed += 1
    assert 0.05 <= failed / len(held_out.images) <= 0.20


def test_the_fourth_loads_and_never_answers() -> None:
    running = session(models.never_done())
    stop = ort.RunOptions()
    outcome: list[str] = []

    def warm_up() -> None:
        try:
            running.run(None, {INPUT: np.zeros((1, PIXELS), np.float32)}, stop)
        except Exception as stopped:
            outcome.append(str(stopped))

    warming = threading.Thread(target=warm_up, daemon=True)
    warming.start()
    warming.join(timeout=1)
    assert warming.is_alive(), f"it came back: {outcome}"
    stop.terminate = True
    warming.join(timeout=20)
    assert not warming.is_alive()
    assert len(outcome) == 1, "the loop was left by its own condition"


@pytest.mark.parametrize("build", [models.better, models.out_of_range, models.never_done])
def test_every_graph_declares_the_same_input_and_output(build: object) -> None:
    assert callable(build)
    running = session(build())
    assert [(i.name, i.type, i.shape[1]) for i in running.get_inputs()] == [(INPUT, "tensor(float)", PIXELS)]
    assert [(o.name, o.type) for o in running.get_outputs()] == [(OUTPUT, "tensor(int64)")]


def shares(digits: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.bincount(digits, minlength=10) / len(digits)


def test_bounds_on_disagreement_and_drift_tell_the_better_version_from_the_confused_one() -> None:
    _, held_out = split()
    fair = models.fair().predict(held_out.images)
    better, confused = (answers(session(model()), held_out.images) for model in (models.better, models.confused))
    assert confused.dtype == np.int64
    assert 0.05 < np.mean(better != fair) < 0.13
    assert np.mean(confused != fair) > 0.4
    assert np.mean(confused == held_out.labels) < 0.65
    near, far = (np.abs(shares(other) - shares(fair)).sum() / 2 for other in (better, confused))
    assert near < 0.1 and far > 0.35

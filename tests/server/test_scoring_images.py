"""`modelramp-server predict` of a folder: masks, maps and overlays, and a line for each image."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelramp_server.runtime.base import LoadFailed
from modelramp_server.scoring.command import Status
from modelramp_server.scoring.image_folder import picture_names
from modelramp_server.settings import InvalidSettings
from tests.server import pictures
from tests.server.pictures import encoded, half_red, opened, plain
from tests.server.scoring import files, lines, scored, summary

SEGMENTS = {"preprocess": pictures.UNIT, "postprocess": {"activation": "softmax", "classes": ["rest", "red"]}}
CLASSES = {"preprocess": pictures.UNIT, "postprocess": {"activation": "softmax", "classes": pictures.CLASSES}}


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures.folder(tmp_path_factory.mktemp("segmenter") / "model", pictures.segmenter(), SEGMENTS)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures.folder(tmp_path_factory.mktemp("classifier") / "model", pictures.classifier(), CLASSES)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "day 2").mkdir(parents=True)
    (folder / "half.png").write_bytes(encoded(half_red(64, 48)))
    (folder / "day 2/red.jpg").write_bytes(encoded(plain("red", 40, 30), "JPEG"))
    (folder / "day 2/blue.JPEG").write_bytes(encoded(plain("blue", 33, 33), "JPEG"))
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_text("not looked at")
    return folder


def test_masks_maps_and_overlays_in_the_size_of_the_image(segmenter: Path, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert scored(segmenter, images, output, predict_write="masks,probabilities, overlays") is Status.ALL_SCORED
    names = ["day 2/blue.png", "day 2/red.png", "half.png"]
    pngs = [f"{kind}/{name}" for kind in ("masks", "overlays", "probabilities") for name in names]
    assert files(output) == sorted([*pngs, "results.jsonl"])
    mask = np.asarray(opened((output / "masks/half.png").read_bytes()))
    assert mask.shape == (48, 64) and mask[:, :30].all() and not mask[:, 34:].any()
    sure = np.asarray(opened((output / "probabilities/half.png").read_bytes()))
    assert sure.shape == (48, 64) and sure[:, :30].min() > 128 > sure[:, 34:].max()
    overlay = opened((output / "overlays/day 2/blue.png").read_bytes())
    assert overlay.size == (33, 33)
    by_name = {line["image"]: line for line in lines(output / "results.jsonl")}
    assert by_name["half.png"]["shares"] == {"rest": 0.5, "red": 0.5}
    assert (by_name["day 2/red.jpg"]["shares"], by_name["day 2/red.jpg"]["width"]) == ({"red": 1.0}, 40)
    found = summary(output)
    assert (found["images"], found["classes"], found["mean_shares"]) == (
        3,
        {"rest": 2, "red": 2},
        {"rest": 0.5, "red": 0.5},
    )
    assert found["files"] == ["results.jsonl", "masks/", "overlays/", "probabilities/"]


def test_classes_are_lines_and_no_pictures(classifier: Path, images: Path, tmp_path: Path, capsys: Any) -> None:
    assert scored(classifier, images, tmp_path / "out", batch_size=2) is Status.ALL_SCORED
    assert files(tmp_path / "out") == ["results.jsonl"]
    found = {line["image"]: line["class"] for line in lines(tmp_path / "out/results.jsonl")}
    assert found["day 2/red.jpg"] == "red" and found["day 2/blue.JPEG"] == "blue"
    [line] = [line for line in lines(tmp_path / "out/results.jsonl") if line["image"] == "day 2/red.jpg"]
    assert line["confidence"] > 0.9 and len(line["probabilities"]) == 3
    assert "images: 3 images by model (onnx on cpu), 0 failed" in capsys.readouterr().out


def test_damaged_images_are_listed_and_tried_again(segmenter: Path, images: Path, tmp_path: Path, capsys: Any) -> None:
    whole = encoded(half_red(64, 48))
    (images / "cut.png").write_bytes(whole[:80])
    (images / "text.png").write_text("hello")
    (images / "new.webp").write_bytes(b"RIFF0000WEBP")
    (images / "empty.jpg").touch()
    output = tmp_path / "out"
    assert scored(segmenter, images, output) is Status.SOME_FAILED
    errors = {line["image"]: line["error"] for line in lines(output / "results.jsonl") if "error" in line}
    assert set(errors) == {"cut.png", "text.png", "new.webp", "empty.jpg"} and "damaged or cut" in errors["cut.png"]
    assert "image/webp" in errors["new.webp"] and "empty" in errors["empty.jpg"]
    assert summary(output)["ok"] == 3 and "failed: cut.png: the image is damaged" in capsys.readouterr().out
    before = (output / "masks/half.png").stat().st_mtime_ns
    for mended in ("cut.png", "text.png", "empty.jpg"):
        (images / mended).write_bytes(whole)
    (images / "new.webp").unlink()
    (images / "more.png").write_bytes(whole)
    assert scored(segmenter, images, output) is Status.ALL_SCORED
    assert (summary(output)["ok"], summary(output)["failed"]) == (7, 0)
    assert (output / "masks/half.png").stat().st_mtime_ns == before, "it was finished"


def test_a_failure_of_the_model_or_its_hook_costs_one_image(tmp_path: Path, images: Path) -> None:
    model = pictures.folder(tmp_path / "model", pictures.classifier(("rows", 3, 30, 30)), {"hook": "hook.py"})
    (model / "hook.py").write_text(
        "def preprocess(pixels):\n"
        "    return {'pixels': pixels[:30, :30].transpose(2, 0, 1)[None].astype('float32')}\n"
        "def postprocess(outputs):\n"
        "    assert outputs['scores'][:, 2].max() < 2000, 'too blue'\n"
        "    return {'class': outputs['scores'].argmax(1)}\n"
    )
    assert scored(model, images, tmp_path / "out", allow_code=True) is Status.SOME_FAILED
    found = {line["image"]: line for line in lines(tmp_path / "out/results.jsonl")}
    assert "too blue" in found["day 2/blue.JPEG"]["error"]
    assert found["day 2/red.jpg"]["class"] == found["half.png"]["class"] == 0


def test_what_cannot_be_scored_is_one_line(
    lookup_model: Path, segmenter: Path, images: Path, tmp_path: Path, capsys: Any
) -> None:
    assert scored(lookup_model, images, tmp_path / "a") is Status.PROBLEM
    assert "does not say how an image becomes its input" in capsys.readouterr().err
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/in.csv").write_text("x\n")
    assert scored(segmenter, tmp_path / "tables", tmp_path / "b") is Status.PROBLEM
    assert "holds no images; a table is named itself" in capsys.readouterr().err
    with pytest.raises(InvalidSettings, match="the folder of the input itself"):
        scored(segmenter, images, images)
    broken = pictures.folder(tmp_path / "broken", pictures.segmenter(), {"preprocess": {"size": 3}})
    with pytest.raises(LoadFailed, match=r"modelramp\.image"):
        scored(broken, images, tmp_path / "c")


def test_other_pictures_than_before_are_refused(segmenter: Path, images: Path, tmp_path: Path) -> None:
    assert scored(segmenter, images, images / "out") is Status.ALL_SCORED, "inside of the input"
    assert scored(segmenter, images, images / "out") is Status.ALL_SCORED
    assert summary(images / "out")["images"] == 3
    with pytest.raises(InvalidSettings, match="write was 'masks', is 'overlays'"):
        scored(segmenter, images, images / "out", predict_write="overlays")


def test_images_of_one_name_have_pictures_of_their_own() -> None:
    assert picture_names(["a.jpg", "a.png", "b/a.png"]) == {
        "a.jpg": "a.png",
        "a.png": "a.png.png",
        "b/a.png": "b/a.png",
    }

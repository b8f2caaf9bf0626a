"""Files to arrays and arrays to pictures: against what Pillow and numpy say in the plainest way, and by the rules."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from modelramp_server.images import npy, structure
from modelramp_server.images.declared import read
from modelramp_server.images.picture import Picture
from modelramp_server.images.pipeline import ImagePipeline
from modelramp_server.images.render import palette
from modelramp_server.images.sniff import Kind
from modelramp_server.protocol.errors import ModelFailed, ServingError
from modelramp_server.protocol.tensors import Array, TensorSpec
from modelramp_server.runtime.base import LoadFailed
from tests.server.pictures import encoded, opened, saved

RANDOM = np.random.default_rng(0)
SMOOTH = np.asarray(
    Image.fromarray(RANDOM.integers(0, 256, (4, 6, 3), np.uint8)).resize((60, 40), Image.Resampling.BICUBIC)
)
SPEC = TensorSpec("pixels", "FP32", (-1, 3, 20, 30))
ANY = TensorSpec("pixels", "UINT8", (-1, -1, -1, 3))


def pipeline(preprocess: Any = None, postprocess: Any = None, spec: TensorSpec = SPEC) -> ImagePipeline:
    image = {"preprocess": preprocess or {}} | ({} if postprocess is None else {"postprocess": postprocess})
    declared = read({"modelramp": {"image": image}})
    assert declared is not None
    return ImagePipeline(declared, None, [spec], 10_000_000)


def made(body: bytes, spec: TensorSpec = SPEC, **preprocess: Any) -> Array:
    [array] = pipeline(preprocess, spec=spec).read(body).arrays.values()
    return array


def as_it_is(image: Image.Image, kind: str = "PNG", **options: Any) -> Array:
    """The pixels that come of an image when nothing is declared but a free size."""
    array: Array = made(saved(image, kind, **options), ANY)[0]
    return array


RGB = Image.fromarray(SMOOTH)
GREY16 = Image.fromarray((np.arange(2400, dtype=np.uint16) * 27).reshape(40, 60))
GREY8 = (np.arange(2400) * 27 >> 8).reshape(40, 60, 1).repeat(3, axis=2)
CLEAR = Image.fromarray(np.dstack([SMOOTH, np.full((40, 60), 7, np.uint8)]))
FEW = RGB.quantize(16)
HOLED = RGB.quantize(16)
HOLED.info["transparency"] = bytes([0, 128] + [255] * 14)

MODES = [
    ("as it is", RGB, {}, SMOOTH),
    ("grey", RGB.convert("L"), {}, np.asarray(RGB.convert("L").convert("RGB"))),
    ("black and white", RGB.convert("1"), {}, np.asarray(RGB.convert("1").convert("RGB"))),
    ("16 bits of grey", GREY16, {}, GREY8),
    ("a palette", FEW, {}, np.asarray(FEW.convert("RGB"))),
    ("a palette with holes", HOLED, {}, np.asarray(HOLED.convert("RGBA").convert("RGB"))),
    ("transparent", CLEAR, {}, SMOOTH),
    ("transparent grey", CLEAR.convert("LA"), {}, np.asarray(RGB.convert("L").convert("RGB"))),
    ("interlaced or not, a profile", RGB, {"icc_profile": b"none of a profile"}, SMOOTH),
]


@pytest.mark.parametrize(("image", "options", "pixels"), [case[1:] for case in MODES], ids=[case[0] for case in MODES])
def test_every_kind_of_png_becomes_rgb(image: Image.Image, options: dict[str, Any], pixels: Array) -> None:
    found = as_it_is(image, **options)
    assert found.dtype == np.uint8 and (found == pixels).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30}, {"subsampling": 0}], ids=str)
def test_every_kind_of_jpeg_becomes_rgb(mode: str, options: dict[str, Any]) -> None:
    body = saved(RGB.convert(mode), "JPEG", **options)
    assert (made(body, ANY)[0] == np.asarray(opened(body).convert("RGB"))).all()


def test_grey_jpegs_as_they_are() -> None:
    body = saved(RGB.convert("L").resize((31, 17)), "JPEG")
    found = made(body, TensorSpec("x", "UINT8", (-1, -1, -1)), color="gray")
    assert (found[0] == np.asarray(opened(body))).all()


@pytest.mark.parametrize("turn", range(1, 9))
def test_jpegs_as_they_are_are_turned_upright(turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    body = saved(RGB, "JPEG", exif=exif)
    wanted = np.asarray(ImageOps.exif_transpose(opened(body)))
    assert (made(body, ANY)[0] == wanted).all()
    planes = TensorSpec("pixels", "UINT8", (-1, 3, -1, -1))
    assert (made(body, planes)[0] == wanted.transpose(2, 0, 1)).all()


def test_a_jpeg_that_a_stricter_decoder_would_refuse_is_read() -> None:
    body = saved(RGB, "JPEG")
    assert body.endswith(b"\xff\xd9")
    sloppy = body[:-2] + b"\x00" * 9 + body[-2:]  # some cameras leave such bytes before the end
    with pytest.raises(ValueError, match="extraneous"):
        simplejpeg.decode_jpeg(sloppy)
    assert (made(sloppy, ANY)[0] == np.asarray(opened(body))).all()


def test_a_damaged_jpeg_is_refused() -> None:
    body = saved(RGB, "JPEG")
    with pytest.raises(ServingError, match="damaged or cut short"):
        made(body[: body.index(b"\xff\xda") + 40], ANY)


def test_a_jpeg_whose_size_two_decoders_read_differently_is_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is known. It would get past the limit on pixels."""
    body = saved(RGB, "JPEG")
    wanted = np.asarray(opened(body))
    monkeypatch.setattr(simplejpeg, "decode_jpeg_header", lambda _: (4000, 6000, "YCbCr", "420"))
    monkeypatch.setattr(simplejpeg, "decode_jpeg", None)
    assert (made(body, ANY)[0] == wanted).all()


def test_a_jpeg_whose_size_pillow_reads_differently_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is known either."""
    body = saved(RGB, "JPEG")
    monkeypatch.setattr(structure, "baseline", lambda _: structure.JpegHead(1, 1, 3, exif=False))
    with pytest.raises(ServingError, match="in two ways"):
        made(body)


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [b"\x00\x00\x00\x3c", b"\x00\x28\x00\x00"], ids=["no height", "no width"])
def test_a_jpeg_of_no_size_is_refused(size: bytes, resize: str) -> None:
    body = saved(RGB, "JPEG").replace(b"\x00\x28\x00\x3c", size)
    with pytest.raises(ServingError) as refused:
        made(body, resize=resize)
    assert refused.value.status == 400


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:2:2"}, {"subsampling": 0}], ids=str)
@pytest.mark.parametrize("size", [(60, 40), (31, 17), (1, 1)], ids=str)
def test_the_quicker_decoder_finds_the_same_pixels(
    mode: str, options: dict[str, Any], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = saved(RGB.convert(mode).resize(size), "JPEG", **options)
    wanted = np.asarray(opened(body))
    picture = pipeline().open(body, Kind.JPEG)
    monkeypatch.setattr(Picture, "pixels", None)
    found = picture.array(mode)
    assert found.dtype == np.uint8 and (found == wanted).all()
    assert not found.flags.writeable, "as Pillow's are: a hook must not work with the one and fail with the other"
    if mode == "RGB":
        words = picture.words()
        assert not words.flags.writeable
        assert all((words >> 8 * channel & 0xFF == wanted[:, :, channel]).all() for channel in range(3))


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_photos_are_turned_upright(turn: int, resize: str, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    body = saved(RGB, kind, exif=exif)
    upright = opened(saved(ImageOps.exif_transpose(opened(body)), "PNG"))
    inputs = pipeline({"resize": resize}).read(body)
    plain = pipeline({"resize": resize}).read(saved(upright, "PNG"))
    assert (inputs.view.width, inputs.view.height) == upright.size
    assert inputs.view.box == pytest.approx(plain.view.box)
    assert np.abs(inputs.arrays["pixels"] - plain.arrays["pixels"]).max() <= 1
    left = pipeline({"resize": resize, "exif_rotation": False}).read(body)
    assert (left.view.width, left.view.height) == RGB.size


def test_damaged_exif_turns_nothing() -> None:
    for exif in (
        b"Exif\x00\x00rubbish",
        b"Exif\x00\x00II*\x00\xff\xff\xff\xff",
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08",
    ):
        assert (made(saved(RGB, "PNG", exif=exif), ANY)[0] == SMOOTH).all()


def test_what_cameras_put_beside_a_picture_is_no_flood() -> None:
    exif = Image.Exif()
    exif[0x010E] = "x\xff\xda" * 5000
    body = saved(RGB, "JPEG", exif=exif, icc_profile=bytes(200_000), progressive=True, restart_marker_blocks=1)
    film = body + b"\xff\xda\x00" * 5000  # a motion photo has one after its end
    assert (made(film, ANY) == made(body, ANY)).all()
    many = saved(Image.fromarray(RANDOM.integers(0, 256, (300, 300, 3), np.uint8)), "PNG")
    assert made(many, ANY).shape == (1, 300, 300, 3)


RESIZED = {
    "stretch": lambda image: image.resize((30, 20), Image.Resampling.BILINEAR),
    "crop": lambda image: ImageOps.fit(image, (30, 20), Image.Resampling.BILINEAR),
    "pad": lambda image: ImageOps.pad(image, (30, 20), Image.Resampling.BILINEAR, color=(7, 7, 7)),
}


@pytest.mark.parametrize("how", RESIZED)
@pytest.mark.parametrize("size", [(60, 40), (90, 31), (31, 90), (30, 20), (7, 5), (1, 1)], ids=str)
def test_sizes(how: str, size: tuple[int, int]) -> None:
    image = RGB.resize(size)
    pad = {"pad_value": 7} if how == "pad" else {}
    found = made(saved(image), resize=how, **pad)
    wanted = np.asarray(RESIZED[how](image), np.float32).transpose(2, 0, 1)[None]
    assert found.shape == (1, 3, 20, 30) and np.abs(found - wanted).max() <= 1


def test_the_middle_of_a_crop() -> None:
    body = saved(RGB.resize((300, 200)))
    found = made(body, resize="crop", crop_pct=0.5)
    middle = opened(body).crop((75, 50, 225, 150)).resize((30, 20), Image.Resampling.BILINEAR)
    assert np.abs(found[0].transpose(1, 2, 0) - np.asarray(middle)).max() <= 3  # Pillow's filter sees beyond the crop
    assert pipeline({"resize": "crop", "crop_pct": 0.5}).read(body).view.box == (75, 50, 225, 150)


def test_large_jpegs_are_decoded_smaller_and_look_the_same() -> None:
    large = RGB.resize((2400, 1600), Image.Resampling.BICUBIC)
    body = saved(large, "JPEG", quality=95)
    wanted = opened(body).resize((30, 20), Image.Resampling.BILINEAR)
    image = pipeline().open(body, Kind.JPEG)
    found = made(body)[0].transpose(1, 2, 0)
    assert np.abs(found - np.asarray(wanted)).max() <= 4
    assert image.pixels("RGB", (60, 40)).size == (300, 200) and (image.width, image.height) == (2400, 1600)


COLOURS = [
    ({"scale": 1 / 255}, SMOOTH / 255),
    ({"scale": 1 / 255, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]},
     (SMOOTH / 255 - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.4]),
    ({"mean": 127.5, "std": 127.5}, SMOOTH / 127.5 - 1),
    ({"color": "bgr", "mean": [1, 2, 3]}, SMOOTH[:, :, ::-1] - [1.0, 2, 3]),
    ({}, SMOOTH),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "values"), COLOURS, ids=[str(case[0]) for case in COLOURS])
@pytest.mark.parametrize("datatype", ["FP32", "FP64", "FP16"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_values_and_axes(declared: dict[str, Any], values: Array, datatype: str, layout: str) -> None:
    shape = (-1, 3, 40, 60) if layout == "NCHW" else (-1, 40, 60, 3)
    found = made(saved(RGB), TensorSpec("x", datatype, shape), **declared)[0]
    wanted = values.transpose(2, 0, 1) if layout == "NCHW" else values
    assert found == pytest.approx(wanted, rel=2e-3 if datatype == "FP16" else 1e-5, abs=1e-5)
    assert found.dtype == {"FP32": np.float32, "FP64": np.float64, "FP16": np.float16}[datatype]


def test_grey_inputs() -> None:
    grey = np.asarray(RGB.convert("L"))
    for shape, wanted in (((-1, 1, 40, 60), grey[None]), ((-1, 40, 60, 1), grey[:, :, None]), ((-1, 40, 60), grey)):
        found = made(saved(RGB), TensorSpec("x", "UINT8", shape), color="gray")
        assert found.dtype == np.uint8 and (found[0] == wanted).all()
    body = saved(RGB, "JPEG")
    found = made(body, TensorSpec("x", "UINT8", (-1, 40, 60)), color="gray")
    assert np.abs(found[0].astype(int) - np.asarray(opened(body).convert("L"))).max() <= 1


DECLARED_WRONG = [
    ({"preprocess": {"size": [0, 3]}}, r"preprocess\.size\.0: .*greater than or equal to 1"),
    ({"preprocess": {"size": 224}}, r"preprocess\.size"),
    ({"preprocess": {"mean": [1, 2]}}, r"mean has 2 values, rgb has 3 channels"),
    ({"preprocess": {"mean": "x"}}, r"preprocess\.mean"),
    ({"preprocess": {"scale": float("nan")}}, r"preprocess\.scale"),
    ({"preprocess": {"std": [0.1, 0, 0.1]}}, "std is 0"),
    ({"preprocess": {"color": "cmyk"}}, r"preprocess\.color: .*'rgb', 'bgr' or 'gray' \(it is 'cmyk'\)"),
    ({"preprocess": {"colour": "rgb"}}, r"preprocess\.colour is no field of it"),
    ({"preprocess": {"layout": "NHW"}}, "set color to gray"),
    ({"preprocess": {"crop_pct": 0.5}}, "resize: crop"),
    ({"preprocess": {"pad_value": 5}}, "resize: pad"),
    ({"preprocess": {"size": [20, 31]}}, r"size is \[20, 31\], the input 'pixels' has the shape \[-1, 3, 20, 30\]"),
    ({"preprocess": {"color": "gray"}}, "layout is not set"),
    ({"preprocess": {"color": "gray", "layout": "NCHW"}}, "color gray has 1 channels"),
    ({"preprocess": {"layout": "NHWC"}}, "color rgb has 3 channels"),
    ({"preprocess": {"input": "image"}}, "input is 'image'; the model's input is 'pixels'"),
    ({"postprocess": {"activation": "softmax", "threshold": 0.3}}, "after softmax the largest wins"),
    ({"postprocess": {"threshold": 1}}, r"postprocess\.threshold"),
    ({"postprocess": {"colors": ["red"]}}, r"postprocess\.colors\.0"),
    ({"postprocess": {"classes": []}}, r"postprocess\.classes"),
    ({"preprocessing": {}}, "preprocessing is no field"),
    ([1], "image: "),
    ("resize", "image: "),
]


@pytest.mark.parametrize(("image", "says"), DECLARED_WRONG, ids=[str(case[0]) for case in DECLARED_WRONG])
def test_a_wrong_declaration_is_named_when_the_model_is_loaded(image: Any, says: str) -> None:
    with pytest.raises(LoadFailed, match=says):
        declared = read({"modelramp": {"image": image}})
        assert declared is not None
        ImagePipeline(declared, None, [SPEC], 1_000_000)


def test_a_declaration_that_does_not_fit_the_model() -> None:
    for specs, says in (
        ([SPEC, SPEC], "2 inputs"),
        ([TensorSpec("x", "BYTES", (-1, 3, 20, 30))], "takes no pixels"),
        ([TensorSpec("x", "FP32", (-1, 64))], "does not tell it"),
        ([TensorSpec("x", "FP32", (-1, -1, -1, -1))], "does not tell it"),
        ([TensorSpec("x", "FP32", (4, 3, 20, 30))], "one image is one row"),
        ([TensorSpec("x", "UINT8", (-1, 3, 20, 30))], "need an input of floats"),
    ):
        declared = read({"modelramp": {"image": {"preprocess": {"scale": 2}}}})
        assert declared is not None
        with pytest.raises(LoadFailed, match=says):
            ImagePipeline(declared, None, specs, 1_000_000)
    with pytest.raises(LoadFailed, match="must be a mapping"):
        read({"modelramp": "image"})
    assert read({}) is None and read({"modelramp": {"owner": "me"}}) is None


def test_an_image_of_a_size_that_the_model_does_not_take() -> None:
    free = TensorSpec("x", "FP32", (-1, 3, -1, 30))
    assert made(encoded(SMOOTH[:, :30]), free).shape == (1, 3, 40, 30)
    with pytest.raises(ServingError, match=r"shape \[1, 3, 40, 60\]; the model wants \[-1, 3, -1, 30\]"):
        made(encoded(SMOOTH), free)


LOGITS = np.array([[2.0, 0.0, -1.0], [0.0, 3.0, 0.0]], np.float32)
SOFTMAX = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
SIGMOID = 1 / (1 + np.exp(-LOGITS))


def found(output: Array, spec: TensorSpec = SPEC, /, **postprocess: Any) -> Any:
    return pipeline({}, postprocess, spec).find({"scores": output})


def test_classes() -> None:
    arrays = found(LOGITS, activation="softmax", classes=["a", "b", "c"]).arrays
    assert list(arrays["class"]) == ["a", "b"] and arrays["probabilities"] == pytest.approx(SOFTMAX)
    assert arrays["confidence"] == pytest.approx(SOFTMAX.max(axis=1))
    assert list(found(SOFTMAX).arrays["class"]) == [0, 1]
    several = found(LOGITS, activation="sigmoid", threshold=0.4).arrays
    assert several["labels"].tolist() == [[True, True, False], [True, True, True]]
    assert several["probabilities"] == pytest.approx(SIGMOID)
    for one in (LOGITS[:, :1], LOGITS[:, 0]):
        arrays = found(one - 1, activation="sigmoid", classes=["no", "yes"]).arrays
        assert list(arrays["class"]) == ["yes", "no"] and (arrays["confidence"] > 0.7).all()
    for labels in (np.array([2, 0]), np.array([[2], [0]]), np.array([2, 0], np.uint8)):
        assert list(found(labels, classes=["a", "b", "c"]).arrays["class"]) == ["c", "a"]


def test_masks() -> None:
    scores = RANDOM.normal(size=(2, 4, 20, 30)).astype(np.float32)
    softmax = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    result = found(scores, activation="softmax")
    assert (result.mask == scores.argmax(axis=1)).all() and result.mask.dtype == np.uint8
    assert result.probabilities() == pytest.approx(softmax, abs=1e-6)
    last = TensorSpec("x", "FP32", (-1, 20, 30, 3))
    assert (found(scores.transpose(0, 2, 3, 1), last).mask == result.mask).all()
    cut = found(scores, activation="sigmoid", threshold=0.8)
    likely = 1 / (1 + np.exp(-scores.astype(np.float64)))
    assert (cut.mask == np.where(likely.max(axis=1) >= 0.8, likely.argmax(axis=1) + 1, 0)).all()
    for one in (scores[:, :1], scores[:, 0]):
        assert (found(one, activation="sigmoid").mask == (scores[:, 0] >= 0)).all()
        assert (found(one, threshold=0.5).mask == (scores[:, 0] >= 0.5)).all()
    for labels in (result.mask, result.mask[:, None], result.mask > 1):
        assert (found(labels).mask == labels.reshape(2, 20, 30)).all()


def test_outputs_that_are_not_as_declared() -> None:
    for output, postprocess, says in (
        (LOGITS, {"output": "logits"}, "'logits'; the model answered .'scores'."),
        (LOGITS, {"classes": ["a"]}, "1 names; the model says 1"),
        (LOGITS[:, :1], {}, "set a threshold"),
        (np.array(["a"], dtype=object), {}, "neither classes nor masks"),
        (np.zeros((1, 2, 3, 4, 5)), {}, "neither classes nor masks"),
    ):
        with pytest.raises(ModelFailed, match=says):
            found(output, **postprocess)


def test_masks_lie_where_the_model_looked() -> None:
    body = encoded(np.zeros((60, 120, 3)))
    for how, mask, at in (
        ("crop", np.ones((1, 20, 30), np.uint8), (slice(0, 60), slice(15, 105))),
        ("pad", np.pad(np.ones((1, 15, 30), np.uint8), ((0, 0), (2, 3), (0, 0))), (slice(0, 60), slice(0, 120))),
        ("stretch", np.ones((1, 20, 30), np.uint8), (slice(0, 60), slice(0, 120))),
    ):
        images = pipeline({"resize": how}, {})
        view = images.read(body).view
        shown = np.asarray(opened(images.mask_png(images.find({"mask": mask}), 0, view)))
        wanted = np.zeros((60, 120), np.uint8)
        wanted[at] = 1
        assert shown.shape == (60, 120) and np.count_nonzero(shown != wanted) <= 120, how  # a line of rounding


def test_palettes() -> None:
    assert palette(None, 2)[:6] == [0, 0, 0, 255, 255, 255]
    assert palette(None, 3)[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
    assert palette(["#010203"], 2)[:6] == [1, 2, 3, 128, 0, 0]
    assert len(palette(None, 300)) == 768


def test_a_mask_of_too_many_classes_is_no_png() -> None:
    images = pipeline({}, {})
    view = images.read(saved(RGB)).view
    for label in (256, -1):
        with pytest.raises(ServingError, match="classes 0 to 255") as refused:
            images.mask_png(images.find({"mask": np.full((1, 20, 30), label)}), 0, view)
        assert refused.value.status == 406


@pytest.mark.parametrize("array", [SMOOTH, LOGITS.T, np.float64(3), np.zeros(0, bool), np.asfortranarray(SMOOTH),
                                   LOGITS.astype(">f8"), np.arange(3, dtype=np.uint64)], ids=str)  # fmt: skip
def test_npy_comes_back(array: Any, tmp_path: Path) -> None:
    again = npy.read(npy.write(np.asarray(array)))
    assert (again == array).all() and again.shape == np.shape(array) and again.dtype.isnative
    np.save(tmp_path / "a.npy", array)
    assert (npy.read((tmp_path / "a.npy").read_bytes()) == array).all()

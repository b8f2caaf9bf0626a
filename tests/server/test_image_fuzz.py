"""Whatever bytes, header or query come, what reads them gives arrays that fit the model, or a 4xx; nothing else."""

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from modelramp_server.images import npy
from modelramp_server.images.declared import read
from modelramp_server.images.multipart import only_part
from modelramp_server.images.pipeline import ImagePipeline
from modelramp_server.images.sniff import Kind, kind_of
from modelramp_server.images.wanted import wanted
from modelramp_server.protocol.errors import ServingError
from modelramp_server.protocol.tensors import TensorSpec
from tests.server.pictures import encoded, form, saved

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
DECLARED = read({"modelramp": {"image": {"preprocess": {"scale": 1 / 255, "resize": "crop"}}}})
assert DECLARED is not None
SPEC = TensorSpec("pixels", "FP32", (-1, 3, 8, 8))
IMAGES = ImagePipeline(DECLARED, None, [SPEC], 100_000)

NOISE = np.random.default_rng(0).integers(0, 256, (12, 20, 3))
EXIF = Image.Exif()
EXIF[0x0112] = 6
FILES = [
    encoded(NOISE),
    encoded(NOISE, "JPEG"),
    encoded(NOISE, "JPEG", progressive=True, exif=EXIF),
    encoded(NOISE, "PNG", exif=EXIF),
    saved(Image.fromarray(NOISE.astype(np.uint8)).quantize(8)),
    saved(Image.fromarray(NOISE.astype(np.uint8)).convert("CMYK"), "JPEG"),
    npy.write(np.zeros((1, 3, 8, 8), np.float32)),
    npy.write(NOISE.astype(np.uint8)),
]
CHANGES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4)
EARLY = st.floats(0, 1, exclude_max=True).map(lambda place: place**3)  # headers come first


def changed(body: bytes, changes: list[tuple[float, int]], cut: float) -> bytes:
    copy = bytearray(body)
    for place, value in changes:
        copy[int(place * len(copy))] = value
    return bytes(copy[: max(1, int(cut * len(copy)))])


def refusal(error: ServingError) -> None:
    assert 400 <= error.status < 500 and error.message


def taken(body: bytes, declared: str = "") -> None:
    try:
        kind = kind_of(body, declared)
        if kind is Kind.NPY:
            array = npy.read(body)
            inputs = npy.as_input(array, [SPEC]) if array.dtype.kind == "f" else IMAGES.prepare(
                IMAGES.of_array(array.astype(np.uint8))).arrays  # fmt: skip
        elif kind is Kind.JSON:
            return
        else:
            inputs = IMAGES.prepare(IMAGES.open(body, kind)).arrays
    except ServingError as error:
        return refusal(error)
    [made] = inputs.values()
    assert made.dtype == np.float32 and made.shape[1:] == (3, 8, 8)


@FUZZ
@given(st.sampled_from(FILES), st.lists(st.tuples(EARLY, st.integers(0, 255)), max_size=4), st.sampled_from([1.0, 0.9]))
def test_nearly_images(body: bytes, changes: list[tuple[float, int]], cut: float) -> None:
    taken(changed(body, changes, cut))


@FUZZ
@given(st.sampled_from(FILES), CHANGES, st.floats(0, 1))
def test_damaged_images(body: bytes, changes: list[tuple[float, int]], cut: float) -> None:
    taken(changed(body, changes, cut))


@FUZZ
@given(st.binary(max_size=100), st.sampled_from([b"", *(body[:8] for body in FILES)]), st.text(max_size=20))
def test_bytes(body: bytes, magic: bytes, declared: str) -> None:
    taken(magic + body)
    taken(magic + body, declared)


HEADER = st.sampled_from(["descr", "shape", "fortran_order", "'<f4'", "'|O'", "(1,)", "(", ")", "{", "}", ":", ",", "1",
                          "-", "9" * 30, "True", "f'{1}'", "lambda: 0", "\x00", "é"])  # fmt: skip


@FUZZ
@given(st.lists(HEADER, max_size=12).map("".join), st.binary(max_size=20))
def test_npy_headers(text: str, data: bytes) -> None:
    line = text.encode("latin-1") + b"\n"
    taken(b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line + data)


PIECES = st.sampled_from(
    [b"--x", b"--x--", b"\r\n", b"\r\n\r\n", b"--", b"\n", b"content-type: image/png", b"a: b", b"data", FILES[0], b":",
     b'content-disposition: form-data; name="f"', b"\x00\xff"]
)  # fmt: skip
TYPES = st.sampled_from(
    [f"multipart/form-data{rest}".encode() for rest in ("; boundary=x", "", '; boundary="x', "; boundary*=utf-8''x")]
)


@FUZZ
@given(st.lists(PIECES, max_size=10).map(b"".join), TYPES, CHANGES)
def test_forms(body: bytes, header: bytes, changes: list[tuple[float, int]]) -> None:
    for each in (body, changed(form(FILES[0])[0], changes, 1.0)):
        try:
            found: Any = only_part(each, header)
        except ServingError as error:
            refusal(error)
        else:
            assert isinstance(found[0], bytes) and isinstance(found[1], str)


ACCEPT = st.sampled_from(
    ["image/png", "*/*", "image/*", "application/json", ";q=0.5", ";q=0", ";q=x", ",", ";", " ", "é", "q=1"]
)
QUERY = st.sampled_from(
    ["output", "overlay", "class", "=", "&", "%", "%ff", "1", "-1", "0.5", "nan", "1e999", "٣", "mask", "+"]
)


@FUZZ
@given(st.lists(ACCEPT, max_size=8).map("".join), st.lists(QUERY, max_size=8).map("".join))
def test_what_is_wanted(accept: str, query: str) -> None:
    try:
        found = wanted(accept, query)
    except ServingError as error:
        return refusal(error)
    assert found.kind in (Kind.JSON, Kind.PNG, Kind.NPY) and found.number >= -1
    assert found.opacity is None or (found.kind is Kind.PNG and 0 < found.opacity <= 1)

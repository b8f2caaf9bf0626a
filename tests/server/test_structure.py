"""What is known of a JPEG before it is decoded: whether that is little enough work for the event loop."""

import time

import numpy as np
import pytest
from PIL import Image

from modelramp_server.exchange import InferenceRequest
from modelramp_server.images.structure import JpegHead, baseline
from tests.server import pictures
from tests.server.served import Served

PIXELS = np.zeros((40, 30, 3))


COLOR = pictures.encoded(PIXELS, "JPEG")
FRAME = b"\xff\xc0\x00\x11\x08\x00\x28\x00\x1e"
EXIF = Image.Exif()
EXIF[0x0112] = 6


@pytest.mark.parametrize(
    ("body", "head"),
    [
        (COLOR, JpegHead(30, 40, 3, exif=False)),
        (pictures.encoded(PIXELS[:, :, 0], "JPEG"), JpegHead(30, 40, 1, exif=False)),
        (pictures.encoded(PIXELS, "JPEG", exif=EXIF), JpegHead(30, 40, 3, exif=True)),
        (pictures.encoded(PIXELS, "JPEG", progressive=True), None),
        (pictures.saved(Image.new("CMYK", (30, 40)), "JPEG"), None),
        (pictures.encoded(PIXELS, "PNG"), None),
        (COLOR[:60], None),
        (COLOR.replace(FRAME, b"\xff\xc0\x00\x11\x0c\x00\x28\x00\x1e"), None),
        (COLOR.replace(FRAME, b"\xff\xc0\x00\x11\x08\x00\x00\x00\x1e"), None),
        (COLOR.replace(FRAME, b"\xff\xc0\x00\x11\x08\x00\x28\x00\x00"), None),
        (COLOR.replace(FRAME, b"\xff\xc2\x00\x0b\x08\x7f\xff\x7f\xff\x01\x01\x11\x00" + FRAME), None),
        (b"\xff\xd8\xff\xd0" + COLOR[4:], None),
        (b"\xff\xd8\xff\xc0\x00\x03\x08\xff\xda\x00\x02", None),
        (b"\xff\xd8\xff\xda\x00\x02", None),
        (b"\xff\xd8" + b"\xff\xe0\x00\x02" * 100, None),
        (b"\xff\xd8\xff\xe0\x00\x00", None),
        (b"", None),
    ],
    ids=[
        *("color", "gray", "EXIF", "progressive", "CMYK", "PNG", "cut", "12 bits", "no height", "no width"),
        *("two frames", "a restart before all", "a short frame", "no frame"),
        *("many segments", "a segment of no length", "nothing"),
    ],
)
def test_what_a_head_tells(body: bytes, head: JpegHead | None) -> None:
    assert baseline(body) == head


def test_only_small_plain_jpegs_are_read_on_the_loop(start, tmp_path) -> None:
    server: Served = start(pictures.folder(tmp_path / "model", pictures.classifier(), {"preprocess": pictures.UNIT}))

    def read_here(body: bytes) -> bool:
        request = InferenceRequest("predict", "/predict", [], body, None, time.monotonic(), 30.0)
        return server.service.local.decodes_here(request)

    small, large = np.zeros((64, 64, 3)), np.zeros((1024, 1024, 3))
    assert read_here(pictures.encoded(small, "JPEG"))
    assert not read_here(pictures.encoded(large, "JPEG"))
    assert not read_here(pictures.encoded(small, "JPEG", progressive=True))
    assert not read_here(pictures.encoded(small, "PNG"))
    assert not read_here(b"{}")

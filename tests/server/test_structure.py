"""What is known of a JPEG before it is decoded: whether that is little enough work for the event loop."""

import time

import numpy as np
import pytest

from modelramp_server.exchange import InferenceRequest
from modelramp_server.images.structure import baseline_pixels
from tests.server import pictures
from tests.server.served import Served

PIXELS = np.zeros((40, 30, 3))


@pytest.mark.parametrize(
    ("body", "pixels"),
    [
        (pictures.encoded(PIXELS, "JPEG"), 1200),
        (pictures.encoded(PIXELS[:, :, 0], "JPEG"), 1200),
        (pictures.encoded(PIXELS, "JPEG", progressive=True), None),
        (pictures.encoded(PIXELS, "PNG"), None),
        (pictures.encoded(PIXELS, "JPEG")[:60], None),
        (b"\xff\xd8" + b"\xff\xe0\x00\x02" * 100, None),
        (b"\xff\xd8\xff\xe0\x00\x00", None),
        (b"", None),
    ],
    ids=["color", "gray", "progressive", "PNG", "cut", "many segments", "a segment of no length", "nothing"],
)
def test_pixels_by_the_head(body: bytes, pixels: int | None) -> None:
    assert baseline_pixels(body) == pixels


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

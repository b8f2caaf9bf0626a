"""What a file is made of, before anybody decodes it.

Some are made to be slow: thousands of empty chunks or segments, each a step in Python for Pillow; thousands of scans of
a few bytes, each a pass over all pixels. They are counted first; no camera or editor comes near the bounds.
"""

import re

from modelramp_server.images.sniff import Kind
from modelramp_server.protocol.errors import BadRequest

MOST_SCANS = 64  # a progressive JPEG has about ten
MOST_SEGMENTS = 1000  # of a JPEG; a profile may take 255
MOST_CHUNKS = 20_000  # of a PNG; its pixels may come in pieces of a few KB

_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # neither a stuffed byte, nor a restart, nor a filling one
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_BASELINE = (0xC0, 0xC1)  # frames whose pixels are passed once
_HEAD = 16  # segments before the frame


def check(body: bytes, kind: Kind) -> None:
    """Count what a JPEG or PNG is made of.

    Raises:
        BadRequest: more than a picture has.
    """
    if kind is Kind.JPEG:
        _check_jpeg(body)
    else:
        _check_png(body)


def baseline_pixels(body: bytes) -> int | None:
    """Width times height of a baseline JPEG, by its head; None for anything else, whole or not."""
    at = 2
    for _ in range(_HEAD if body.startswith(b"\xff\xd8") else 0):
        marker, length = body[at : at + 2], int.from_bytes(body[at + 2 : at + 4], "big")
        if len(marker) < 2 or marker[0] != 0xFF or length < 2:
            return None
        if marker[1] in _BASELINE:
            return int.from_bytes(body[at + 5 : at + 7], "big") * int.from_bytes(body[at + 7 : at + 9], "big")
        at += 2 + length
    return None


def _check_jpeg(body: bytes) -> None:
    scans, at = 0, 2
    for _ in range(MOST_SEGMENTS):
        found = _MARKER.search(body, at)
        if found is None or body[found.end() - 1] == _END:
            return
        at = found.end()
        if body[at - 1] == _START:
            continue
        at += int.from_bytes(body[at : at + 2], "big")
        scans += body[found.end() - 1] == _SCAN
        if scans > MOST_SCANS:
            raise BadRequest(f"the JPEG has more than {MOST_SCANS} scans")
    raise BadRequest(f"the JPEG has more than {MOST_SEGMENTS} segments")


def _check_png(body: bytes) -> None:
    at = 8
    for _ in range(MOST_CHUNKS):
        at += 12 + int.from_bytes(body[at : at + 4], "big")
        if at >= len(body):
            return
    raise BadRequest(f"the PNG has more than {MOST_CHUNKS} chunks")

"""What a file is made of, before anybody decodes it.

Some are made to be slow: thousands of empty chunks or segments, each a step in Python for Pillow; thousands of scans of
a few bytes, each a pass over all pixels. They are counted first; no camera or editor comes near the bounds.
"""

import re
from typing import NamedTuple

from modelramp_server.images.sniff import Kind
from modelramp_server.protocol.errors import BadRequest

SCAN = b"\xff\xda"
"""Where a JPEG's pixels begin, or a part of them. One that has it once, after a head with nothing odd about it, is made
of no more than that."""
MOST_SCANS = 64  # a progressive JPEG has about ten
MOST_SEGMENTS = 1000  # of a JPEG; a profile may take 255
MOST_CHUNKS = 20_000  # of a PNG; its pixels may come in pieces of a few KB

_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # neither a stuffed byte, nor a restart, nor a filling one
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_BASELINE = (0xC0, 0xC1)  # frames whose pixels are passed once
_HEAD = 32  # segments before the pixels
_EXIF, _EXIF_BEGINS = 0xE1, b"Exif\0\0"
_BESIDE = {0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)}  # tables, a comment, what applications add


class JpegHead(NamedTuple):
    """What a JPEG says of itself: its size in pixels, 1 channel or 3 (grey or colors) of 8 bits, and whether it has
    EXIF."""

    width: int
    height: int
    channels: int
    exif: bool


def check(body: bytes, kind: Kind) -> None:
    """Count what a JPEG or PNG is made of.

    Raises:
        BadRequest: more than a picture has.
    """
    if kind is Kind.JPEG:
        _check_jpeg(body)
    else:
        _check_png(body)


def baseline(body: bytes) -> JpegHead | None:
    """The head of a baseline JPEG; None for anything else, whole or not, and where there is anything odd about it."""
    at, frame, exif = 2, b"", False
    for _ in range(_HEAD if body.startswith(b"\xff\xd8") else 0):
        marker, length = body[at : at + 2], int.from_bytes(body[at + 2 : at + 4], "big")
        if len(marker) < 2 or marker[0] != 0xFF or length < 2:
            return None
        if marker[1] == _SCAN:
            return _head(frame, exif)
        if marker[1] in _BASELINE and not frame:
            frame = body[at + 4 : at + 10]
        elif marker[1] not in _BESIDE:
            return None
        exif = exif or (marker[1] == _EXIF and body.startswith(_EXIF_BEGINS, at + 4))
        at += 2 + length
    return None


def _head(frame: bytes, exif: bool) -> JpegHead | None:
    """Of a frame's first bytes: bits, height and width (two bytes each), channels."""
    if len(frame) < 6 or frame[0] != 8 or frame[5] not in (1, 3):
        return None
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    return JpegHead(width, height, frame[5], exif) if width and height else None


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

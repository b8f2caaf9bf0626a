"""gzip and deflate, both ways. A body is inflated up to a limit and no further, however small it came."""

import re
import zlib

from modelramp_server.protocol.errors import BadRequest, ServingError

GZIP, DEFLATE = b"gzip", b"deflate"
SMALLEST = 1024  # bytes; smaller answers gain nothing
_WINDOW = {GZIP: 31, b"x-gzip": 31, DEFLATE: 15}
_FAST = 1
_QUALITY = re.compile(rb"\s*q\s*=\s*([0-9.]{1,5})\s*")


def encoding_of(value: bytes) -> bytes:
    """The coding that `Content-Encoding` names; b"" for a plain body.

    Raises:
        ServingError: 415, one that is not served, or several.
    """
    encoding = value.strip().lower()
    if encoding in (b"", b"identity"):
        return b""
    if encoding not in _WINDOW:
        raise ServingError(415, f"content-encoding {encoding.decode('latin-1')!r} is not served; send gzip or deflate")
    return encoding


def inflate(body: bytes | memoryview, encoding: bytes, limit: int) -> bytes:
    """The plain body.

    Args:
        encoding: from `encoding_of`, not b"".
        limit: bytes of the plain body at most.

    Raises:
        ServingError: 413, more than the limit is in it.
        BadRequest: damaged, cut short, or followed by something.
    """
    stream = zlib.decompressobj(_WINDOW[encoding])
    try:
        plain = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise BadRequest(f"the body is no {encoding.decode()}, as content-encoding says: {error}") from None
    if len(plain) > limit:
        raise ServingError(413, f"the body is over the limit of {limit} bytes (PAYLOAD_LIMIT) when decompressed")
    if not stream.eof:
        raise BadRequest(f"the body's {encoding.decode()} stream ends before its end")
    if stream.unused_data:
        raise BadRequest(f"the body has {len(stream.unused_data)} bytes after its {encoding.decode()} stream")
    return plain


def accepted(value: bytes) -> bytes:
    """The coding to answer in, of those that `Accept-Encoding` allows; b"" for none."""
    for part in value.lower().split(b",") if value else ():
        coding, _, quality = part.partition(b";")
        match = _QUALITY.fullmatch(quality)
        if coding.strip() in (GZIP, DEFLATE) and not (match and not match[1].strip(b"0.")):
            return coding.strip()
    return b""


def deflate(body: bytes, encoding: bytes) -> bytes:
    """The body in the coding that `accepted` chose."""
    stream = zlib.compressobj(_FAST, zlib.DEFLATED, _WINDOW[encoding])
    return stream.compress(body) + stream.flush()

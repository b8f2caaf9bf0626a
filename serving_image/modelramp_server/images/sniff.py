"""What bytes are, by their first ones, whatever their sender calls them."""

from enum import StrEnum

from modelramp_server.protocol.errors import BadRequest, ServingError

NPY_TYPE = "application/x-npy"


class Kind(StrEnum):
    """What `/predict` takes, by media type."""

    PNG = "image/png"
    JPEG = "image/jpeg"
    NPY = NPY_TYPE
    JSON = "application/json"


_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", Kind.PNG),
    (b"\xff\xd8\xff", Kind.JPEG),
    (b"\x93NUMPY", Kind.NPY),
)
# Known by name only, to say what came.
_OTHERS = (
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"\x00\x00\x00\x0cjP  ", "image/jp2"),
    (b"8BPS", "a Photoshop file"),
    (b"%PDF", "application/pdf"),
    (b"PK\x03\x04", "a zip or npz archive"),
    (b"\x1f\x8b", "gzip"),
    (b"<svg", "image/svg+xml"),
    (b"<?xml", "XML"),
)
_ALIASES = {
    "image/jpg": Kind.JPEG,
    "image/pjpeg": Kind.JPEG,
    "image/x-png": Kind.PNG,
    "application/npy": Kind.NPY,
    "application/x-numpy": Kind.NPY,
}
# What clients say when they are told nothing: curl's --data-binary, and everybody's multipart.
_UNTOLD = ("", "application/octet-stream", "binary/octet-stream", "application/x-www-form-urlencoded")
_SERVED = "send image/png, image/jpeg, application/x-npy or application/json"


def kind_of(body: bytes, declared: str) -> Kind:
    """What a body is.

    Args:
        declared: media type that the client names, in lower case, without parameters; "" for none.

    Raises:
        BadRequest: the body is empty.
        ServingError: 415, not served, or not what is declared.
    """
    if not body:
        raise BadRequest("the body is empty; " + _SERVED)
    found, name = _found(body)
    if declared in _UNTOLD:
        if found is None:
            raise ServingError(415, f"the bytes are {name}; {_SERVED}")
        return found
    wanted = _declared(declared)
    if wanted is Kind.JSON and name == _UNKNOWN:
        return wanted  # whatever is wrong with it, the parser says where
    if found is not wanted:
        raise ServingError(415, f"content-type says {declared[:100]!r}, the bytes are {name}")
    return wanted


_UNKNOWN = "of no type that is known here"


def _found(body: bytes) -> tuple[Kind | None, str]:
    for signature, kind in _SIGNATURES:
        if body.startswith(signature):
            return kind, kind.value
    for signature, name in _OTHERS:
        if body.startswith(signature):
            return None, name
    if body[:4] == b"RIFF" and body[8:12] == b"WEBP":
        return None, "image/webp"
    if body[4:8] == b"ftyp":
        return None, f"{body[8:12].decode('latin-1')} (HEIF, AVIF or video)"
    if body.lstrip()[:1] in (b"{", b"["):
        return Kind.JSON, Kind.JSON.value
    return None, _UNKNOWN


def _declared(declared: str) -> Kind:
    if declared in _ALIASES:
        return _ALIASES[declared]
    if declared.endswith("+json"):
        return Kind.JSON
    try:
        return Kind(declared)
    except ValueError:
        raise ServingError(415, f"content-type {declared[:100]!r} is not served here; {_SERVED}") from None

"""A form with a file in it (`multipart/form-data`), as browsers, curl -F and every HTTP client send files."""

from __future__ import annotations

from modelramp_server.protocol.errors import BadRequest, ServingError

_MOST_BYTES = 70  # of a boundary, RFC 2046


def only_part(body: bytes, content_type: bytes) -> tuple[bytes, str]:
    """The one part of a form, and the media type that it is said to be ("" for none).

    Args:
        content_type: the request's header, with its boundary.

    Raises:
        BadRequest: no form, cut short, or not exactly one part.
        ServingError: 415, this server reads no forms.
    """
    try:
        from python_multipart.exceptions import FormParserError
        from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header
    except ModuleNotFoundError:
        raise ServingError(
            415, "this server reads no forms (it lacks python-multipart); send the file as the body"
        ) from None
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not 0 < len(boundary) <= _MOST_BYTES:
        raise BadRequest("multipart: content-type names no boundary of 1 to 70 bytes")
    form = _Form()
    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": form.begin,
            "on_header_field": form.name,
            "on_header_value": form.value,
            "on_header_end": form.header,
            "on_part_data": form.data,
        },
    )
    try:
        parser.write(body)
    except FormParserError as error:
        raise BadRequest(f"multipart: the form can't be read: {error}") from None
    if parser.state is not MultipartState.END:
        raise BadRequest("multipart: the form ends before its last boundary")
    if not form.parts:
        raise BadRequest("multipart: the form has no part; it must have one, the file")
    if form.headers.get(b"content-transfer-encoding", b"binary").lower() not in (b"binary", b"8bit", b"7bit"):
        raise BadRequest("multipart: content-transfer-encoding is not served; send the file's own bytes")
    kind = form.headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    return b"".join(form.pieces), kind.decode("latin-1")


class _Form:
    """What the parser tells of a form, while it reads it."""

    def __init__(self) -> None:
        self.parts = 0
        self.headers: dict[bytes, bytes] = {}
        self.pieces: list[bytes] = []
        self._name = self._value = b""

    def begin(self) -> None:
        self.parts += 1
        if self.parts > 1:
            raise BadRequest("multipart: the form has several parts; send one file, and options in the query")

    def name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header(self) -> None:
        self.headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def data(self, data: bytes, start: int, end: int) -> None:
        self.pieces.append(data[start:end])

"""Is a 2xx of the candidate an answer that a client can use: whole, and as it says of itself?

A server that lies about its length cuts its own answers; one that miscounts its outputs breaks whoever reads them. An
answer is held against itself and the request, never against stable: a new version may rightly have other outputs.
"""

import math
from collections.abc import Collection
from typing import Any

import orjson

from modelramp_server.exchange import HEADER_LENGTH, Answer, InferenceRequest
from modelramp_server.images import npy
from modelramp_server.protocol import v2_client
from modelramp_server.protocol.errors import ServingError
from modelramp_server.protocol.tensors import DTYPES, parse_shape, reshape
from modelramp_server.relay.client import CandidateClient, CandidateFailed
from modelramp_server.relay.outcomes import Net

PARSED = 64 * 1024  # bytes of JSON at most that are parsed on the event loop; of longer ones only the end is looked at
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_SIZES = {name: dtype.itemsize for name, dtype in DTYPES.items() if name != "BYTES"} | {"BF16": 2}
_PREFIX = 4  # bytes: the length of a string, before it


async def ask(client: CandidateClient, request: InferenceRequest, revision: str, budget: float) -> Answer:
    """As `CandidateClient.ask`, but a 2xx that is not whole is BROKEN."""
    answer = await client.ask(request, revision, budget)
    if 200 <= answer.status < 300 and not is_whole(request, answer):
        raise CandidateFailed(Net.BROKEN)
    return answer


def is_whole(request: InferenceRequest, answer: Answer) -> bool:
    """Whether a 2xx contradicts neither itself nor what was asked; of a compressed one nothing can be said."""
    headers = dict(answer.headers)
    if b"content-encoding" in headers:
        return True
    kind = headers.get(b"content-type")
    if kind == b"image/png":
        return answer.body.endswith(_PNG_END)
    try:
        if kind == b"application/x-npy":
            npy.read(answer.body)
        else:
            _check_document(request, answer.body, headers.get(HEADER_LENGTH))
    except (ServingError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return True


def _check_document(request: InferenceRequest, body: bytes, header_length: bytes | None) -> None:
    """JSON, and raw tensors after it. Raises what `is_whole` catches."""
    length = len(body) if header_length is None else int(header_length)
    if not 0 < length <= len(body):
        raise ValueError(f"the JSON part is said to have {length} bytes of {len(body)}")
    head, tail = body[:length], memoryview(body)[length:]
    if length > PARSED:
        if head.rstrip()[-1:] != b"}":
            raise ValueError("the JSON does not end")
        return
    document = orjson.loads(head)
    if request.route != "infer":
        document["predictions"]
        return
    names = _check_outputs(document["outputs"], tail)
    asked = _asked(request)
    if not names or (asked and names != asked):
        raise ValueError(f"the outputs are {sorted(names)}; {sorted(asked) or 'any'} were asked for")


def _check_outputs(outputs: list[dict[str, Any]], tail: memoryview) -> Collection[str]:
    """The outputs' names, once each has as many values of its datatype as its shape takes."""
    names: set[str] = set()
    position = 0
    for output in outputs:
        name, datatype = output["name"], output["datatype"]
        shape = parse_shape(output["shape"], name)
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            reshape(v2_client.values(output["data"], datatype, name), shape, name)
        else:
            _check_bytes(tail[position : position + size], datatype, math.prod(shape))
            position += size
        names.add(name)
    if position != len(tail) or len(names) != len(outputs):
        raise ValueError("bytes that belong to no output, or an output that is given twice")
    return names


def _check_bytes(raw: memoryview, datatype: str, count: int) -> None:
    """Strings are counted, one by one; what they hold is nobody's business here."""
    if datatype != "BYTES":
        size = count * _SIZES[datatype]
    else:
        size = 0
        for _ in range(count):
            size += _PREFIX + int.from_bytes(raw[size : size + _PREFIX], "little")
            if size > len(raw):
                break
    if size != len(raw):
        raise ValueError(f"{count} of {datatype} do not take {len(raw)} bytes")


def _asked(request: InferenceRequest) -> Collection[str]:
    """The names of the outputs that the request asks for; none where it leaves that to the server, or is too long."""
    head = bytes(request.body[: request.header_length])
    if request.encoding or len(head) > PARSED or b'"outputs"' not in head:
        return ()
    wanted = orjson.loads(head).get("outputs")
    return {output["name"] for output in wanted or ()}

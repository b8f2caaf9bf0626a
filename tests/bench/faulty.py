"""``python faulty.py PORT FAULT``: a candidate for the tiny model that has one fault, until it is ended."""

import json
import signal
import sys
from typing import Any

from tests.server import candidate_stub
from tests.server.candidate_stub import Behaviour, Candidate, answer, says

REFUSES = "refuses connections"


def _v2(*outputs: dict[str, Any]) -> Behaviour:
    return says(answer(body=json.dumps({"model_name": "bench", "outputs": outputs}).encode()))


_OUTPUT: dict[str, Any] = {"name": "output", "datatype": "FP32", "shape": [1, 8], "data": [0.5] * 8}
_WHOLE = json.dumps({"outputs": [_OUTPUT]}).encode()
_BAD_CHUNKS = b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"

FAULTS: dict[str, Behaviour | None] = {
    "hangs": candidate_stub.hangs,
    "hangs in mid-answer": candidate_stub.hangs_after(answer(body=_WHOLE, length=500)),
    REFUSES: None,
    "resets connections": candidate_stub.resets,
    "closes without a word": candidate_stub.closes,
    "cuts its answer off": says(answer(body=_WHOLE, length=500), then_close=True),
    "says less than it sends": says(answer(body=_WHOLE, length=20)),
    "breaks its chunks": says(_BAD_CHUNKS, then_close=True),
    "speaks no HTTP": says(b"hello\r\n\r\n", then_close=True),
    "answers 500": says(answer(500)),
    "answers 503": says(answer(503)),
    "refuses what stable takes (400)": says(answer(400)),
    "answers no outputs": _v2(),
    "too few values for its shape": _v2({**_OUTPUT, "data": [0.5] * 7}),
    "another shape than its values": _v2({**_OUTPUT, "shape": [2, 8]}),
    "values of another datatype": _v2({**_OUTPUT, "data": ["0.5"] * 8}),
    "another output than asked for": _v2({**_OUTPUT, "name": "other"}),
}
"""By name; None: nobody listens."""


def main(port: int, fault: str) -> None:
    behaviour = FAULTS[fault]
    assert behaviour is not None
    candidate = Candidate(port)
    candidate.behave = behaviour
    signal.sigwait([signal.SIGTERM])
    candidate.stop()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    main(int(sys.argv[1]), sys.argv[2])

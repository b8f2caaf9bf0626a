"""The part `bad`: what a server holds after ten thousand bad requests, and after a hundred thousand.

Two tables of the tests in turn: bodies and headers that are wrong each in its own way, which come again and again; and
requests no two of which are alike, each with 8 KiB of its own.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rich.progress import track

from tests.server import models
from tests.server.test_bad_input import CASES, GOOD, HEADERS, INFER, v2
from tests.server.test_leaks import Request, bad_requests, send

from .servers import BenchFailed, Servers

FIRST, THEN, AT_ONCE = 10_000, 90_000, 1_000


@dataclass(frozen=True)
class Held:
    """MiB, resident, after so many bad requests."""

    after: dict[int, float]

    @property
    def growth(self) -> float:
        """From the first count to the last."""
        held = list(self.after.values())
        return held[-1] - held[0]


def run(folder: Path) -> Held:
    """One server.

    Raises:
        BenchFailed: it answered one of them otherwise than with a 4xx.
    """
    with ExitStack() as stack:
        model = models.onnx_folder(folder / "digits", models.onnx_classifier(models.classifier()))
        server = Servers(stack, folder).modelramp(model, name="digits")
        server.get("/v2/health/ready")
        requests = _requests()
        after: dict[int, float] = {}
        for sent in track(range(AT_ONCE, FIRST + THEN + 1, AT_ONCE), f"bad: {FIRST + THEN:,} requests"):
            try:
                send(server.port, islice(requests, AT_ONCE))
            except (AssertionError, OSError) as error:
                raise BenchFailed(f"a bad request got no 4xx: {error}") from error
            if sent in (FIRST, FIRST + THEN):
                after[sent] = server.memory_mib()
        return Held(after)


def _requests() -> Iterator[Request]:
    unlike = bad_requests(GOOD)
    while True:
        for path, _, body, _, _ in CASES:
            yield "POST", path, body, {}
            yield next(unlike)
        for _, headers, _ in HEADERS:
            yield "POST", INFER, v2(), headers
            yield next(unlike)

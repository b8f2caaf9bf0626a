"""Whether a forward is spread over threads.

Torch spreads it over all CPUs. To wake threads for each layer of a small network takes longer than the layer, and the
CPUs are not idle either: one reads and writes requests. So of brief forwards it is measured what threads bring.
"""

import time
from collections.abc import Callable, Mapping

from modelramp_server.protocol.tensors import Array
from modelramp_server.runtime.base import Runtime, UsesThreads

BRIEF = 0.050  # seconds of a full batch's forward; longer ones keep their threads
WORTH = 1.5  # times as fast, with threads
_TIMES = 3


def use_few_threads(
    runtime: Runtime, batch: Mapping[str, Array], threads: int, clock: Callable[[], float] = time.monotonic
) -> None:
    """Leave a brief model one thread, unless more of them make it `WORTH` times as fast.

    Args:
        runtime: warm, and spread over its threads.
        batch: as many rows as a forward may take.
        threads: that it is spread over.
    """

    def seconds() -> float:
        began = clock()
        runtime.predict(batch)
        return clock() - began

    if not isinstance(runtime, UsesThreads) or runtime.device != "cpu" or threads == 1 or seconds() > BRIEF:
        return
    spread = min(seconds() for _ in range(_TIMES))
    runtime.use_threads(1)
    seconds()
    if min(seconds() for _ in range(_TIMES)) > WORTH * spread:
        runtime.use_threads(threads)
        seconds()

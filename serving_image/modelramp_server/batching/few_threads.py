"""Whether a forward is spread over threads.

Torch spreads it over all CPUs. To wake threads for each layer of a small network takes longer than the layer, and the
CPUs are not idle either: one reads and writes requests. So of brief forwards it is measured what threads bring.
"""

import logging
import time
from collections.abc import Callable

from modelramp_server.batching.forward import seconds
from modelramp_server.protocol.tensors import Array
from modelramp_server.runtime.base import Runtime, UsesThreads

BRIEF = 0.050  # seconds of a full batch's forward; longer ones keep their threads
WORTH = 1.5  # times as fast, with threads
_TIMES = 3

log = logging.getLogger(__name__)


def use_few_threads(
    runtime: Runtime, batch: dict[str, Array], threads: int, clock: Callable[[], float] = time.monotonic
) -> None:
    """Leave a brief model one thread, unless more of them make it `WORTH` times as fast.

    Args:
        runtime: warm, and spread over its threads.
        batch: as many rows as a forward may take.
        threads: that it is spread over.
    """

    def best(times: int) -> float:
        return min(seconds(runtime, batch, clock) for _ in range(times))

    if not isinstance(runtime, UsesThreads) or runtime.device != "cpu" or threads == 1 or best(2) > BRIEF:
        return
    spread = best(_TIMES)
    runtime.use_threads(1)
    runtime.predict(batch)
    alone = best(_TIMES)
    chosen = threads if alone > WORTH * spread else 1
    runtime.use_threads(chosen)
    told = "a full batch takes %.2g ms on one thread and %.2g ms on %d; it gets %d"
    log.info(told, alone * 1000, spread * 1000, threads, chosen)

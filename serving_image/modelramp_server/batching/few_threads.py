"""Whether a forward is spread over threads.

Torch and onnxruntime spread it over all CPUs. To wake threads for each layer of a small network takes about as long as
the layer, and the CPUs are not idle either: one reads and writes requests. So of brief forwards it is measured what
threads bring. Rows of a millisecond have to gain more by them: two of those may run at one time (short_forwards.py).
"""

import logging
import time
from collections.abc import Callable
from statistics import median

from modelramp_server.batching.forward import row_costs, seconds
from modelramp_server.batching.row_limit import worth_the_wait
from modelramp_server.batching.short_forwards import SHORT
from modelramp_server.protocol.tensors import Array
from modelramp_server.runtime.base import Runtime, UsesThreads

BRIEF = 0.050  # seconds of a full batch's forward; longer ones keep their threads
WORTH = 1.5  # times as fast, with threads
WORTH_IF_SHORT = 2.5  # where a row takes SHORT or less with one: more than two forwards at one time bring
_TIMES = 5

log = logging.getLogger(__name__)


def use_few_threads(
    runtime: Runtime, batch: list[dict[str, Array]], threads: int, clock: Callable[[], float] = time.monotonic
) -> int:
    """Leave a brief model one thread, unless more of them make it `WORTH` times as fast; returns how many it has.

    Args:
        runtime: warm, and spread over its threads.
        batch: as many requests' rows as a forward may take.
        threads: that it is spread over.
    """

    def row() -> float:
        """What one takes, alone or in company, as it will be run."""
        costs = row_costs(runtime, batch, _TIMES, median, clock)
        return costs[worth_the_wait(costs)]

    if not isinstance(runtime, UsesThreads):
        return 1
    if runtime.device != "cpu" or threads == 1 or min(seconds(runtime, batch, clock) for _ in range(2)) > BRIEF:
        return threads
    spread = row()
    runtime.use_threads(1)
    seconds(runtime, batch)
    alone = row()
    chosen = threads if alone > (WORTH if alone > SHORT else WORTH_IF_SHORT) * spread else 1
    if chosen != 1:
        runtime.use_threads(chosen)
        seconds(runtime, batch)
    told = "a row takes %.2g ms on one thread and %.2g ms on %d; the model gets %d"
    log.info(told, alone * 1000, spread * 1000, threads, chosen)
    return chosen

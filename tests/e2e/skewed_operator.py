"""``python -m tests.e2e.skewed_operator SECONDS``: the operator with its wall clock wrong by so much.

In the process itself, as libfaketime crashes one that has threads; the monotonic clock stays right, as in life.
"""

import sys
import time
from datetime import UTC, datetime, timedelta

from modelramp.__main__ import main
from modelramp.adapters.clock import SystemClock

if __name__ == "__main__":
    skew, true_time = timedelta(seconds=float(sys.argv[1])), time.time
    time.time = lambda: true_time() + skew.total_seconds()
    SystemClock.now = lambda self: datetime.now(UTC) + skew  # type: ignore[method-assign]
    sys.exit(main())

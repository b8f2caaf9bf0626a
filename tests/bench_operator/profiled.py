"""The operator's process under cProfile: ``python -m tests.bench_operator.profiled FILE``."""

import cProfile
import sys
from pathlib import Path

from modelramp.__main__ import main

if __name__ == "__main__":
    profile, out = cProfile.Profile(), Path(sys.argv[1])
    profile.enable()
    try:
        main()
    finally:
        profile.disable()
        profile.dump_stats(out)

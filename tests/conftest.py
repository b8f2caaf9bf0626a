"""Property tests judge what comes out, never how long it took: tiers run beside each other on two cores."""

import gc

from hypothesis import HealthCheck, settings

settings.register_profile("no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clock")


def pytest_collection_finish() -> None:
    """What is imported by now stays: it need not be searched for garbage again and again."""
    gc.freeze()

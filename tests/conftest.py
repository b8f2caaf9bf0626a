"""Property tests judge what comes out, never how long it took: tiers run beside each other on two cores."""

from hypothesis import HealthCheck, settings

settings.register_profile("no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clock")

"""What holds for every test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Shared machines stall: a slow example is no defect. The same code gives the same verdict; to search further:
# pytest --hypothesis-profile=thorough
settings.register_profile("default", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")

"""What holds for every test."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# Shared machines stall: a slow example is no defect. The same code gives the same verdict; to search further:
# pytest --hypothesis-profile=thorough
settings.register_profile("default", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")

# Files are shared out among processes: what takes minutes begins first, so that none is left to one of them at the end.
LONGEST = (
    *("test_run", "test_energy", "test_survival", "test_adb_devices", "test_native"),
    *("test_reasons", "test_suite", "test_bad_input", "test_security", "test_devices", "test_broken_links"),
    *("test_ssh", "test_delegates", "test_lab", "test_conditions", "test_preparation"),
    *("test_store_upkeep", "test_store", "test_store_migrations", "test_nightly_examples"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; the order within a file stays."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))

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
LONGEST = [
    f"test_{name}"
    for name in (
        "links hostile run energy survival adb_devices native reasons suite bad_input security devices broken_links ssh "
        "delegates workers hosts stores lab conditions store_upkeep store store_migrations nightly_examples"
    ).split()
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; the order within a file stays."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))

"""A minute of what `make soak` does for an hour, and whether it would see what it looks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.soak import Looks, flat, soak

HOST, AGENT = 1, 2


def looks(kb: float, files: float) -> Looks:
    """A host and an agent whose growth a case is that, over two hundred cases."""
    each = [(case, 50_000 + round(kb * case) + case % 3 * 100, 13 + round(files * case)) for case in range(200)]
    return Looks({HOST: each, AGENT: each})


def test_what_grows_is_seen() -> None:
    assert flat(looks(0.5, 0.0), HOST) == []
    assert len(flat(looks(100.0, 0.0), HOST)) == 2
    assert len(flat(looks(40.0, 0.0), HOST)) == 1, "what a host may keep of a case is too much for an agent"
    assert len(flat(looks(0.0, 0.1), HOST)) == 2


@pytest.mark.timeout(1200)
def test_a_lab_under_random_faults(tmp_path: Path) -> None:
    assert soak(tmp_path, 1.0, 20261126) == []

"""Stores for tests: in an SQLite file, and in a PostgreSQL database of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pocketbench.store.store import Store
from tests.peers import postgresql


@pytest.fixture(scope="session")
def server() -> Iterator[postgresql.Server]:
    """A PostgreSQL server for the whole session."""
    why = postgresql.why_not()
    if why is not None:
        pytest.skip(why)
    with postgresql.postgresql() as started:
        yield started


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind; rows that it cannot take are spooled into the test's own folder."""
    if request.param == "sqlite":
        return str(tmp_path / "results.db")
    return str(request.getfixturevalue("server").database())


@pytest.fixture
def opened(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store in it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    made = Store(url)
    yield made
    made.close()

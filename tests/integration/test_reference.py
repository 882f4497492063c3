"""Outputs of this machine's CPU, asked for by several commands at once, and after its agent has died."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from pocketbench.fleet.reference import HostReference
from pocketbench.models import open_model
from pocketbench.plan import Case, Plan, RuntimeChoice
from tests.integration.conftest import DIGITS

PLAN = Plan(processes=1)


def test_two_at_once_and_one_whose_agent_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its outputs, and they are the same, from a new agent where one died; nothing is left of the second's
    home.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    case = Case("board", open_model(DIGITS / "digits-int8.tflite"), RuntimeChoice("litert"))
    one, other = HostReference(print), HostReference(print)
    try:
        found = [reference.outputs(case, PLAN, None, 1) for reference in (one, other)]
        assert found[0] is not None and found[1] is not None
        assert np.array_equal(found[0][0].array, found[1][0].array)
        assert one._session is not None
        os.kill(one._session.agent.process._process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        again = one.outputs(case, PLAN, None, 2)
        assert again is not None and np.array_equal(again[0].array, found[0][0].array)
    finally:
        one.close()
        other.close()
    assert [path.name for path in (tmp_path / "pocketbench").iterdir() if path.is_dir()] == ["reference"]

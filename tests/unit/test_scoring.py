"""Scoring through the agent says how far it is."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pocketbench.figures.accuracy import Scored
from pocketbench.fleet import progress
from pocketbench.fleet.scoring import Scoring
from pocketbench.workload import Score, Workload
from tests.unit import facts

ITEMS = 5


def scoring(folder: Path, said: list[str]) -> Scoring:
    module = ModuleType("work")

    def score(predict: Any) -> Score:
        return Score("top-1", [float(predict(np.full((1, 4), item, np.float32))[0].sum()) for item in range(ITEMS)])

    module.score = score  # type: ignore[attr-defined]

    @contextlib.contextmanager
    def loaded(*_: Any) -> Iterator[Any]:
        def call(arrays: Sequence[Any]) -> list[Any]:
            return [np.zeros((1, 2), np.float32)]

        yield SimpleNamespace(call=call, facts=facts.FILE_FACTS)

    link: Any = SimpleNamespace(live=SimpleNamespace(scoring=loaded))
    plan: Any = None
    return Scoring(
        Workload(folder / "work.py", "0" * 64, module),
        link,
        plan,
        lambda case: case,  # type: ignore[arg-type,return-value]
        threading.Event(),
        folder,
        said.append,
    )


def test_how_many_inferences_there_are_is_known_of_the_second_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "WORKING_EVERY_S", 0.0)
    said: list[str] = []
    one = scoring(tmp_path, said)
    case = facts.case()
    assert isinstance(one.score(case), Scored)
    assert said == [f"accuracy: {case.label}: inference {item} so far" for item in range(1, ITEMS + 1)]
    said.clear()
    one.score(case)
    assert [text.partition(" about")[0] for text in said] == [
        f"accuracy: {case.label}: inference {item} of {ITEMS}," for item in range(1, ITEMS)
    ]

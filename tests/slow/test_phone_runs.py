"""The emulated phone with what people would run on a real one: the plan as it is, and a model of today's size."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.conftest import DIGITS, SHARED, Bench
from tests.peers import phone as phones
from tests.peers.phone import Phone
from tests.slow.emulated import BUNDLE_MISSING, emulated, needs_models

MISSING = phones.why_not() or BUNDLE_MISSING
pytestmark = [pytest.mark.skipif(MISSING is not None, reason=str(MISSING)), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phone]:
    """One for the file."""
    log = tmp_path_factory.mktemp("phone") / "log"
    with phones.phone(log=log) as started:
        yield started
    assert log.read_text() == ""


@pytest.fixture
def known(ready: Bench, phone: Phone) -> Bench:
    """A bench that knows it."""
    entry = f"{{transport: adb, address: '{phone.address}', adb: direct}}"
    (ready.home / "devices.yaml").write_text(f"devices:\n  phone: {entry}\n")
    return ready


def test_the_plan_as_it_is(known: Bench) -> None:
    """Six processes, 120 inferences each at least, rests in between: without an option that makes it shorter."""
    done = known("--device", "phone", "--model", DIGITS / "digits-int8.tflite", "--format", "json")
    (result,) = done.results
    assert (done.code, result["status"]) == (0, "OK"), done.stderr
    assert result["latency_ms"]["processes"] == 6
    assert result["latency_ms"]["n"] >= 6 * 8
    emulated(result)


@needs_models
def test_a_detector(known: Bench) -> None:
    """YOLOv5n computes what it computes here; three inferences are no measurement, and the row says so."""
    model = SHARED / "tflite" / "yolov5n-int8.tflite"
    plan = ("--processes", "1", "--max-runs", "3", "--cooldown", "0", "--format", "json")
    done = known("--device", "phone", "--model", model, *plan)
    (result,) = done.results
    assert (done.code, result["status"]) == (3, "INVALID"), done.stderr
    assert "too_few_samples" in [each["code"] for each in result["reasons"] if each["severity"] == "invalid"]
    emulated(result)

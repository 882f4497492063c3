"""An emulated arm64 phone without Python: the bundle, LiteRT and ONNX Runtime, end to end. Its times mean nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import DIGITS, Bench, wait_until
from tests.peers.phone import Phone, phone, why_not
from tests.slow.emulated import BUNDLE_MISSING, TIMEOUT_S

MISSING = why_not() or BUNDLE_MISSING
pytestmark = [pytest.mark.skipif(MISSING is not None, reason=str(MISSING)), pytest.mark.timeout(600)]
WORKDIR = "local/tmp/pocketbench"
TWO = ("--processes", "2", "--min-runs", "8", "--min-time", "0.1", "--max-time", "20", "--cooldown", "0")


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phone]:
    """The phone that most tests use."""
    with phone(log=tmp_path_factory.mktemp("phone") / "log") as started:
        yield started


def register(bench: Bench, to: Phone, **more: str) -> None:
    """Write devices.yaml; an adb server is nowhere."""
    bench.environment["ANDROID_ADB_SERVER_PORT"] = "1"
    keys = {"transport": "adb", "address": to.address, **more}
    told = ", ".join(f'{key}: "{value}"' for key, value in keys.items())
    (bench.home / "devices.yaml").write_text(f"devices:\n  phone: {{{told}}}\n")


def pushed(to: Phone) -> dict[str, int]:
    """What lies in the phone's folder by name, with its time; runs' own files aside."""
    root = to.data / WORKDIR
    kept = [*root.glob("pythons/*"), *root.glob("agents/*"), *root.glob("home/runtimes/*"), *root.glob("home/blobs/*")]
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in kept}


def test_a_phone_is_measured(emulated: Phone, ready: Bench) -> None:
    """Nothing is on it beforehand; the second run sends nothing; outputs are those of the host."""
    register(ready, emulated)
    models = ("--model", DIGITS / "digits-int8.tflite", "--model", DIGITS / "digits-float.onnx")
    assert not pushed(emulated)
    first = ready("--device", "phone", *models, *TWO, "--format", "json")
    assert first.code == 0, first.stderr
    assert re.search(r"^phone: sending the bundle \(\d+ MB, once\)$", first.stderr, re.MULTILINE)
    for result in first.results:
        assert (result["status"], result["transport"], result["emulated"]) == ("OK", "adb", True)
        assert "emulated" in [reason["code"] for reason in result["reasons"]]
        assert result["device_info"]["os"] == "Android 14"
        assert result["environment"]["python"].startswith("3.11.")
        assert result["fidelity"] and all(one["max_abs"] <= one["tolerance"] for one in result["fidelity"])
        assert result["memory_mb"]["peak"] > 0
    left = pushed(emulated)
    second = ready("--device", "phone", *models, *TWO)
    assert second.code == 0, second.stderr
    assert "sending" not in second.stderr
    assert "(emulated)" in re.search(r"^notes: .*$", second.stdout, re.MULTILINE)[0]  # type: ignore[index]
    assert pushed(emulated) == left


def test_a_phone_that_is_full(ready: Bench, tmp_path: Path) -> None:
    """Said in numbers before anything is sent; what an older version left there goes first."""
    with phone(data_bytes=100_000_000, log=tmp_path / "log") as small:
        register(ready, small)
        done = ready("--device", "phone", "--model", ready.null(), *TWO, "--format", "json")
        result = done.results[0]
        assert (done.code, result["status"]) == (3, "SKIPPED")
        assert re.search(r"100 MB are free in /data/local/tmp/pocketbench, 4\d\d are needed", done.stderr)


def test_a_phone_that_starts_anew(ready: Bench, emulated: Phone) -> None:
    """In the middle of a case: LOST, with the reason; the next run works, and sends nothing."""
    register(ready, emulated)
    arguments = ("--device", "phone", "--model", ready.null(sleep_ms=20), "--processes", "3", "--cooldown", "0")
    process = ready.start(*arguments, "--format", "json")
    log = emulated.data / WORKDIR / "home" / "agent.log"
    seen = len(log.read_text()) if log.exists() else 0
    assert wait_until(lambda: log.exists() and "begins" in log.read_text()[seen:], 120)
    emulated.reboot()
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    result = json.loads(stdout)["results"][0]
    assert (process.returncode, result["status"]) == (3, "LOST"), stderr
    assert "was started anew while it was measured" in result["reasons"][0]["message"]
    again = ready(*arguments, "--format", "json")
    assert again.code == 0, again.stderr
    assert "sending" not in again.stderr


def test_no_python_and_no_bundle(ready: Bench, emulated: Phone) -> None:
    """`python: system` on a phone says what else there is."""
    register(ready, emulated, python="system")
    done = ready("--device", "phone", "--model", ready.null(), *TWO, "--format", "json")
    assert (done.code, done.results[0]["status"]) == (3, "SKIPPED")
    assert "with 'python: bundle' pocketbench brings its own" in done.stderr

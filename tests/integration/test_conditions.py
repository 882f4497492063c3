"""Scenarios, heat and preparation through the command line."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pocketbench_agent.framing import FramingError, read_messages
from pocketbench_agent.rpc import agent_pb2 as pb
from tests.integration.conftest import QUICK, ROOT, Bench, wait_until

SCHEMA = json.loads((ROOT / "host" / "pocketbench" / "report" / "result.schema.json").read_text())


def put(root: Path, path: str, text: object) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n")
    return file


def test_real_time_comes_from_paced_frames(bench: Bench) -> None:
    """2.5 ms a frame: 400 frames/s back to back, and never real time at 500."""
    told = ("--device", "local", "--model", bench.null(sleep_ms=2.5), "--processes", "1", "--cooldown", "0")
    good = bench(*told, "--rate", "100", "--min-time", "5", "--max-time", "6", "--format", "json")
    jsonschema.validate(good.doc, SCHEMA)
    (result,) = good.results
    assert result["scenario"] == "paced:100" and result["real_time"]["n"] == pytest.approx(500, abs=2)
    # What else runs here may make frames late; that they are counted is the test's matter.
    late = sum(ns > 10_000_000 for process in result["samples_ns"] for ns in process)
    assert result["real_time"]["missed"] == late < result["real_time"]["n"]
    assert result["latency_ms"]["min"] >= 2.5
    (result,) = bench(*told, "--rate", "500", "--max-time", "1", "--min-time", "1", "--format", "json").results
    assert result["real_time"]["holds"] is False
    # Frames queue: the last waits for all that are late before it.
    assert result["latency_ms"]["max"] > 100
    table = bench(*told, "--rate", "500", "--max-time", "1").stdout
    assert "paced:500" in table and "no, " in table and " late" in table


def timed(jobs: Path) -> bool:
    """Has a job begun its timed runs?"""
    for path in jobs.glob("*/events"):
        with contextlib.suppress(OSError, FramingError), path.open("rb") as file:
            return any(event.phase.name == "timed" for event in read_messages(file, pb.Event))
    return False


def test_a_sustained_run_has_a_curve(bench: Bench) -> None:
    root = bench.home / "root"
    temp = put(root, "sys/class/thermal/thermal_zone0/temp", 40_000)
    put(root, "sys/class/thermal/thermal_zone0/type", "cpu-thermal")
    for number, unbelieved in enumerate((-274_000, 255_000, 45), 1):
        put(root, f"sys/class/thermal/thermal_zone{number}/temp", unbelieved)
    put(root, "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq", 1_800_000)
    ceiling = put(root, "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq", 2_400_000)
    bench.environment["POCKETBENCH_ROOT"] = str(root)
    plan = ("--sustained", "6", "--cooldown", "0", "--format", "json")
    running = bench.start("--device", "local", "--model", bench.null(sleep_ms=2), *plan)
    jobs = bench.home / "xdg_cache_home" / "pocketbench" / "agent" / "jobs"
    assert wait_until(lambda: timed(jobs), 60)
    for step in range(200):
        temp.write_text(f"{40_000 + 500 * step}\n")
        if step == 16:
            ceiling.write_text("1200000\n")
        if running.poll() is not None:
            break
        time.sleep(0.25)
    stdout, stderr = running.communicate()
    assert running.returncode == 0, stderr
    doc = json.loads(stdout)
    jsonschema.validate(doc, SCHEMA)
    (result,) = doc["results"]
    curve = result["curve"]
    assert len(curve) == 6 and result["latency_ms"]["processes"] == 1
    # On a busy machine a second may pass without a sample; heat never falls.
    heat = [point["temperature_c"] for point in curve if point["temperature_c"] is not None]
    assert len(heat) > 3 and all(a < b for a, b in pairwise(heat))
    ceilings = [point["ceiling_mhz"] for point in curve if point["ceiling_mhz"] is not None]
    assert (ceilings[0], ceilings[-1]) == (2400, 1200)
    assert {r["code"]: r["severity"] for r in result["reasons"]}["throttled"] == "warn"
    assert result["temperature_c"]["start"] >= 40
    (process,) = result["heat"]
    assert (process["temperature_c"], process["ceiling_mhz"]) == (result["temperature_c"]["end"], 2400)


@pytest.mark.parametrize("teller", ["a cooling device", "a Raspberry Pi's firmware"])
def test_throttled_is_invalid(bench: Bench, teller: str) -> None:
    root = bench.home / "root"
    if teller == "a cooling device":
        put(root, "sys/class/thermal/cooling_device0/type", "cpufreq-cpu0")
        put(root, "sys/class/thermal/cooling_device0/cur_state", 1)
    else:
        # Bit 18 of an earlier hour; bit 2, of now, from the second question on.
        asked = root / "asked"
        script = f"echo x >> {asked}; [ $(wc -l < {asked}) -gt 1 ] && echo throttled=0x40004 || echo throttled=0x40000"
        put(root, "usr/bin/vcgencmd", f"#!/bin/sh\n[ $1 = get_throttled ] || exit 1\n{script}").chmod(0o755)
    bench.environment["POCKETBENCH_ROOT"] = str(root)
    ended = bench("--device", "local", "--model", bench.null(sleep_ms=1), *QUICK, "--fail-on", "throttled")
    assert ended.code == 1 and "throttled" in ended.stdout and "INVALID" in ended.stdout


def test_a_zone_of_whole_degrees_alone_is_no_thermal_sensor(bench: Bench) -> None:
    put(bench.home / "root", "sys/class/thermal/thermal_zone0/temp", 45)
    bench.environment["POCKETBENCH_ROOT"] = str(bench.home / "root")
    ended = bench("--device", "local", "--model", bench.null(sleep_ms=1), *QUICK, "--format", "json")
    (result,) = ended.results
    assert result["temperature_c"] is None
    assert "no_thermal_sensor" in {r["code"] for r in result["reasons"]}


def test_what_android_says_of_heat_and_savings_counts(bench: Bench) -> None:
    root = bench.home / "root"
    status = "printf 'IsStatusOverride: false\\nThermal Status: 2\\n'"
    put(root, "system/bin/dumpsys", f"#!/bin/sh\n[ $1 = thermalservice ] && {status}").chmod(0o755)
    put(root, "system/bin/settings", "#!/bin/sh\necho 1").chmod(0o755)
    put(root, "proc/self/cpuset", "/background")
    bench.environment["POCKETBENCH_ROOT"] = str(root)
    ended = bench("--device", "local", "--model", bench.null(sleep_ms=1), *QUICK, "--format", "json")
    found = {r["code"]: r["severity"] for r in ended.results[0]["reasons"]}
    assert (ended.code, found["throttled"]) == (3, "invalid")
    assert (found["battery_saver"], found["background_cpuset"]) == ("warn", "warn")


def test_a_scenario_is_measured_again_as_it_was(bench: Bench) -> None:
    told = ("--device", "local", "--model", bench.null(sleep_ms=1), *QUICK, "--rate", "50", "--format", "json")
    first = bench(*told)
    again = bench("rerun", first.doc["run_id"], "--format", "json")
    assert again.results[0]["scenario"] == "paced:50" and again.results[0]["real_time"]["rate_hz"] == 50


@contextmanager
def plug(watts: float, late_s: float = 0.0) -> Iterator[tuple[str, Any]]:
    """An HTTP server that speaks like a Shelly and like a Tasmota; the watts that it says can be changed."""
    said = {"watts": watts}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(late_s)
            said["watts"] += 0.001
            # As the APIs of both are published; Tasmota's SetOption of decimals and two channels.
            energy = {
                "TotalStartTime": "2026-01-01T00:00:00",
                "Total": 1.234,
                "Power": [said["watts"], 0],
                "Factor": 0.9,
            }
            answers: dict[str, object] = {
                "/rpc/Switch.GetStatus?id=0": {"id": 0, "output": True, "apower": said["watts"], "voltage": 230.1},
                "/cm?cmnd=Status%208": {"StatusSNS": {"Time": "2026-01-01T00:00:00", "ENERGY": energy}},
            }
            self.send_response(200 if self.path in answers else 404)
            self.end_headers()
            self.wfile.write(json.dumps(answers.get(self.path)).encode())

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}", said
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("make", ["shelly", "tasmota"])
def test_a_plug_on_the_wall_is_a_meter(bench: Bench, make: str) -> None:
    devices = bench.home / "lab.yaml"
    told = ("--device", "local", "--model", bench.null(sleep_ms=5), *QUICK, "--energy", "6", "--format", "json")
    with plug(7.0) as (address, said):
        devices.write_text(f"devices:\n  local: {{transport: local, power: {{meter: '{make}:{address}'}}}}\n")
        (result,) = bench(*told, "--devices", devices).results
        assert result["energy"]["source"] == make
        assert result["energy"]["power_mw"] == pytest.approx(7000, rel=0.01)
        assert not [r for r in result["reasons"] if r["scope"] == "energy"]
        said["watts"] = float("nan")
        (result,) = bench(*told, "--devices", devices).results
        assert result["energy"] is None
    (result,) = bench(*told, "--devices", devices).results
    assert result["energy"] is None and result["status"] == "OK"
    message = next(r["message"] for r in result["reasons"] if r["code"] == "energy_unavailable")
    assert address in message


def test_a_plug_that_answers_late_has_no_clock(bench: Bench) -> None:
    devices = bench.home / "lab.yaml"
    with plug(7.0, late_s=0.3) as (address, _):
        devices.write_text(f"devices:\n  local: {{transport: local, power: {{meter: 'shelly:{address}'}}}}\n")
        told = ("--device", "local", "--model", bench.null(sleep_ms=5), *QUICK, "--energy", "4", "--format", "json")
        (result,) = bench(*told, "--devices", devices).results
    found = {r["code"]: r["severity"] for r in result["reasons"] if r["scope"] == "energy"}
    assert (result["status"], found.get("energy_clock")) == ("OK", "invalid")

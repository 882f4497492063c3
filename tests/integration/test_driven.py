"""`python: host`: nothing of ours runs on the device, which has a shell and toybox; the tools are stand-ins."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pocketbench.config import devices as config
from pocketbench.config import native_tools
from pocketbench.deploy import agent as deploy
from pocketbench.models import open_model
from pocketbench.plan import Case, Plan, RuntimeChoice
from pocketbench.session.session import Session
from pocketbench.session.wire import JobFiles
from pocketbench.transports import create
from tests.integration.adb_clients import daemon, free_port
from tests.integration.conftest import DIGITS, QUICK, ROOT, TIMEOUT_S, Bench, command_lines, wait_until
from tests.peers import bare_device, native_tool
from tests.peers.faults import Faults, faults
from tests.peers.sshd import SSHD, Sshd, sshd

pytestmark = pytest.mark.skipif(
    SSHD is None or os.geteuid() != 0 or bare_device.TOYBOX is None or bare_device.MKSH is None,
    reason="needs root, and Debian's openssh-server, toybox and mksh: apt-get install openssh-server toybox mksh",
)
DATA = ROOT / "tests" / "data" / "native"
TFLITE, ONNX = DIGITS / "digits-int8.tflite", DIGITS / "digits-int8.onnx"
GPU = "benchmark_model-2.19-gpu-full.txt"
JSON = ("--format", "json")


@dataclass(frozen=True)
class Device:
    """One whose shell this host drives: how it is reached, in devices.yaml, and where its files lie; its work folder is
    the one below `workdir` that has its name.
    """

    reached: str
    workdir: Path
    root: Path

    def described(self, name: str = "bare", **tools: str) -> str:
        """Its entry of devices.yaml."""
        listed = ", ".join(f"{tool}: {path}" for tool, path in tools.items())
        return (
            f"  {name}:\n    {self.reached}\n    workdir: {self.workdir}/{name}\n    python: host\n"
            f"    env: {{POCKETBENCH_ROOT: {self.root}, STAND_IN_LOG: {self.log}}}\n    native_tools: {{{listed}}}\n"
        )

    def describe(self, bench: Bench, more: str = "", **tools: str) -> None:
        """A devices.yaml with it, named `bare`."""
        (bench.home / "devices.yaml").write_text(f"devices:\n{self.described(**tools)}{more}")

    @property
    def log(self) -> Path:
        """What the tool was asked, a line a start."""
        return self.root.parent / "asked.txt"

    def running(self) -> list[str]:
        """Command lines of what runs from its work folder."""
        return [words for words in command_lines() if f"{self.workdir}/" in words and "sleep" not in words]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the device."""
    return bare_device.programs(tmp_path_factory.mktemp("bare") / "bin")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, path: Path) -> Iterator[Sshd]:
    """An SSH server whose sessions have that path alone."""
    with sshd(tmp_path_factory.mktemp("ssh") / "server", only=path) as started:
        yield started


def over_ssh(server: Sshd, folder: Path, port: int = 0) -> Device:
    """The device behind that server, or behind a port that leads to it."""
    host_key = server.host_key.with_suffix(".pub").read_text().strip()
    told = {"transport": "ssh", "host": "127.0.0.1", "port": port or server.port, "user": server.user}
    lines = [f"{key}: {value}" for key, value in {**told, "key": server.key, "host_key": host_key}.items()]
    return Device("\n    ".join(lines), folder / "there", bare_device.root(folder / "root"))


@contextmanager
def over_adb(path: Path, folder: Path) -> Iterator[Device]:
    """The same behind the ADB daemon."""
    with daemon(folder / "adb", "--shell", str(path / "sh"), PATH=str(path)) as one:
        reached = f'transport: adb\n    address: "{one.address}"\n    adb: direct'
        yield Device(reached, folder / "there", bare_device.root(folder / "root"))


@pytest.fixture(params=["ssh", "adb"])
def device(request: pytest.FixtureRequest, server: Sshd, path: Path, bench: Bench) -> Iterator[Device]:
    """Either way."""
    bench.environment["ANDROID_ADB_SERVER_PORT"] = str(free_port())
    if request.param == "ssh":
        yield over_ssh(server, bench.home)
    else:
        with over_adb(path, bench.home) as one:
            yield one


@pytest.fixture
def board(server: Sshd, bench: Bench) -> Device:
    """Over SSH."""
    return over_ssh(server, bench.home)


@pytest.fixture
def spoilt(server: Sshd, bench: Bench) -> Iterator[tuple[Device, Faults]]:
    """Over SSH, behind a proxy that can cut it."""
    with faults(server.port) as proxy:
        yield over_ssh(server, bench.home, proxy.port), proxy


def stand_in(bench: Bench, name: str, fixture: str, how: str = "normal", **more: Path) -> str:
    """The tool's path, relative to devices.yaml."""
    return str(native_tool.write(bench.home / how / name, DATA / fixture, how, **more).relative_to(bench.home))


def codes(result: dict[str, Any]) -> dict[str, str]:
    """Messages of its reasons, by code."""
    return {reason["code"]: reason["message"] for reason in result["reasons"]}


def test_a_tool_is_measured_from_here(bench: Bench, device: Device) -> None:
    """The row is that of a tool that is started on the spot, the facts are the device's, another runtime is skipped,
    and nothing of ours is left running there.
    """
    tool = stand_in(bench, "benchmark_model", GPU)
    local = f"  local:\n    transport: local\n    native_tools: {{benchmark_model: {tool}}}\n"
    device.describe(bench, local, benchmark_model=tool)
    both = ("--device", "bare", "--device", "local", "--model", TFLITE, "--delegate", "gpu", "--processes", "2")
    told = bench(*both, "--runtime", "native", "--runtime", "litert", *QUICK[2:], *JSON)
    rows = {(row["device"], row["runtime"]["name"]): row for row in told.results}
    bare, local_row, other = rows["bare", "native"], rows["local", "native"], rows["bare", "litert"]
    assert (other["status"], "'python: host'" in codes(other)["not_available"]) == ("SKIPPED", True), told.stderr
    assert (bare["status"], bare["emulated"]) == (local_row["status"], False) == ("OK", False), bare["reasons"]
    same = (
        "latency_ms",
        "load_ms",
        "first_inference_ms",
        "warm_up",
        "delegate",
        "runtime",
        "told_p50_ns",
        "samples_ns",
    )
    assert {key: bare[key] for key in same} == {key: local_row[key] for key in same}
    assert bare.keys() == local_row.keys()
    assert set(codes(bare)) - set(codes(local_row)) >= {"driven_from_host", "battery_saver"}
    assert bare["device_info"] == {
        **{"model": "Acme Phone 3", "soc": None, "os": "Android 9", "kernel": "4.9.186-acme", "cpu": "Acme X1"},
        "boot_id": bare_device.FACTS["proc/sys/kernel/random/boot_id"].strip(),
        "fingerprint": bare["device_info"]["fingerprint"],
        "clusters": None,
    }
    assert bare["device_info"]["fingerprint"] != local_row["device_info"]["fingerprint"]
    assert (bare["load_avg"], bare["temperature_c"]["max"], bare["cpu_mhz"]["ceiling"]) == (7.25, 41.5, 1456.0)
    about = bare["environment"]
    assert (about["python"], about["libc"], about["cpus"], about["governor"]) == (None, None, 3, "acmegov")
    assert about["memory_bytes"] == 3_000_000 * 1024
    assert bare["memory_mb"]["peak"] > 1 and bare["memory_mb"]["metric"] == local_row["memory_mb"]["metric"]
    assert "sending model.tflite" in told.stderr
    assert device.running() == []
    assert json.loads((device.workdir / "bare" / "home" / "lease.json").read_text())["owner"] == ""
    assert sorted(one.name for one in (device.workdir / "bare" / "driven").iterdir()) == ["files", "programs"]


def test_files_that_a_tool_leaves_and_programs_that_it_keeps(bench: Bench, board: Device) -> None:
    """Single runs come from a file of the tool's; what a delegate compiled is looked after there."""
    results = DATA / "onnxruntime_perf_test-1.20-results.csv"
    tool = stand_in(bench, "onnxruntime_perf_test", "onnxruntime_perf_test-1.20-qnn.txt", results=results)
    board.describe(bench, onnxruntime_perf_test=tool)
    plan = ("--min-runs", "20", "--processes", "1", "--cooldown", "0", "--max-time", "2")
    arguments = ("--delegate", "npu", *plan, "--cpus", "0", "--energy", "1")
    told = bench("--device", "bare", "--model", ONNX, "--runtime", "native", *arguments, *JSON)
    (row,) = told.results
    assert (row["status"], row["cpus"], len(row["samples_ns"][0])) == ("OK", [0], 20), (row["reasons"], told.stderr)
    assert row["energy"] is None and "energy_unavailable" in codes(row)
    assert 31.19 < row["latency_ms"]["p50"] < 31.32
    assert str(board.workdir) in board.log.read_text() and str(bench.home / "xdg") not in board.log.read_text()
    assert len(list((board.workdir / "bare" / "driven" / "programs").iterdir())) == 1


def started(device: Device) -> int:
    """How often its tool was."""
    return len(device.log.read_text().splitlines()) if device.log.exists() else 0


def begun(bench: Bench, device: Device, times: int = 1, processes: int = 1) -> subprocess.Popen[str]:
    """A run whose tool has been started so often."""
    arguments = ("--runtime", "native", "--delegate", "gpu", "--processes", processes, "--cooldown", "0", *JSON)
    process = bench.start("--device", "bare", "--model", TFLITE, *arguments)
    assert wait_until(lambda: started(device) >= times and bool(device.running()), 30), process.communicate(timeout=5)
    return process


def nothing_runs(device: Device) -> bool:
    """Of the tool, or of what watched it; its shells need a moment."""
    return wait_until(lambda: not device.running(), 10)


def test_a_run_that_is_stopped(bench: Bench, board: Device) -> None:
    """The tool ends with it."""
    board.describe(bench, benchmark_model=stand_in(bench, "benchmark_model", GPU, "hangs"))
    process = begun(bench, board)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert (process.returncode, nothing_runs(board)) == (130, True), board.running()


def test_a_host_that_is_killed(bench: Bench, device: Device) -> None:
    """Its link ends with it, the tool with that, and the agent, which is on this side, as well."""
    device.describe(bench, benchmark_model=stand_in(bench, "benchmark_model", GPU, "hangs"))
    process = begun(bench, device)
    process.kill()
    process.communicate(timeout=30)
    assert nothing_runs(device), device.running()
    assert wait_until(lambda: not bench.agents(), 15)


def test_a_tool_that_hangs_is_ended_at_its_deadline(
    bench: Bench, board: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the stage where it hung; the device is as it was, and the link goes on."""
    monkeypatch.setattr(Plan, "deadline_s", property(lambda plan: 3))
    monkeypatch.setenv("XDG_CACHE_HOME", str(bench.home / "cache"))
    board.describe(bench, benchmark_model=stand_in(bench, "benchmark_model", GPU, "hangs"))
    entry = config.load(bench.home / "devices.yaml")["bare"]
    tool = native_tools.choose("bare", entry, ".tflite", "gpu")
    case = Case("bare", open_model(TFLITE), RuntimeChoice("native"), "gpu", tool=tool)
    transport = create("bare", entry)
    transport.open()
    with closing(transport):
        running = deploy.launch("bare", transport, entry, print)
        session = Session("bare", running, "me")
        session.open()
        found = session.measure(case, Plan(), JobFiles(), 0, "hang")
        assert (found.ended.how, found.ended.stage) == ("timeout", "load"), found.ended
        assert nothing_runs(board), board.running()
        assert session.observe(0.1).values("load_avg") == [7250]
        session.close()
        running.process.end()


def test_a_link_that_is_cut(bench: Bench, spoilt: tuple[Device, Faults]) -> None:
    """The tool ends with it, and is started again over the next; a second time in one case it is lost."""
    device, link = spoilt
    device.describe(bench, benchmark_model=stand_in(bench, "benchmark_model", GPU, "slow"))
    process = begun(bench, device)
    link.cut()
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    (row,) = json.loads(stdout)["results"]
    assert (process.returncode, row["status"], row["attempt"], started(device)) == (0, "OK", 2, 2), stderr
    assert nothing_runs(device) and stderr.count("sending") == 2, "what was sent once is there"
    device.log.unlink()
    process = begun(bench, device)
    link.cut()
    assert wait_until(lambda: started(device) == 2, 30)
    link.cut()
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    (row,) = json.loads(stdout)["results"]
    assert (process.returncode, row["status"], started(device)) == (3, "LOST", 2), stderr
    assert nothing_runs(device)


def test_a_device_that_was_started_anew(bench: Bench, spoilt: tuple[Device, Faults]) -> None:
    """By its boot id, not by this host's."""
    device, link = spoilt
    device.describe(bench, benchmark_model=stand_in(bench, "benchmark_model", GPU, "slow"))
    process = begun(bench, device)
    bare_device.root(device.root, **{"proc/sys/kernel/random/boot_id": "another\n"})
    link.cut()
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    (row,) = json.loads(stdout)["results"]
    assert (process.returncode, row["status"]) == (3, "LOST"), stderr
    assert "was started anew while it was measured" in codes(row)["device_lost"]


def test_what_the_device_says_of_its_own_tool(bench: Bench, board: Device, tmp_path: Path) -> None:
    """`device:PATH` is started where it lies; one that is missing, may not run, dies or fails is told by name."""
    own = native_tool.write(tmp_path / "own" / "benchmark_model", DATA / GPU)
    barred = native_tool.write(tmp_path / "barred" / "benchmark_model", DATA / GPU)
    barred.write_text(f"#!/nowhere\n{barred.read_text()}")
    expected = {
        "own": (f"device:{own}", "OK", "told_by_tool", "latency is what the tool says"),
        "absent": ("device:/nowhere/benchmark_model", "SKIPPED", "not_available", "this device has no such file"),
        "barred": (f"device:{barred}", "FAILED", "load_failed", "cannot be started: "),
        "dies": (stand_in(bench, "benchmark_model", GPU, "dies"), "CRASHED", "worker_died", "died of SIGSEGV"),
        "fails": (stand_in(bench, "benchmark_model", GPU, "fails"), "FAILED", "run_failed", "Benchmarking failed"),
    }
    entries = [board.described(name, benchmark_model=f'"{told[0]}"') for name, told in expected.items()]
    (bench.home / "devices.yaml").write_text(f"devices:\n{''.join(entries)}")
    arguments = ("--runtime", "native", "--delegate", "gpu", *QUICK, *JSON)
    rows = {row["device"]: row for row in bench("--device", "all", "--model", TFLITE, *arguments).results}
    for name, (_, status, code, says) in expected.items():
        reasons = codes(rows[name])
        assert (rows[name]["status"], says in reasons.get(code, "")) == (status, True), (name, reasons)
    assert len(str(rows["own"]["runtime"]["version"]).split()[-1]) == 8


def test_devices_that_are_driven(bench: Bench, board: Device) -> None:
    """The list, the check and the log say what there is; a device without tools has nothing to be measured with."""
    tools = {"benchmark_model": stand_in(bench, "benchmark_model", GPU), "benchncnn": '"device:/nowhere/x"'}
    board.describe(bench, board.described("idle"), **tools)
    listed = bench("devices").stdout
    assert "native benchmark_model, native benchncnn" in listed
    assert "idle: 'python: host' needs native_tools in devices.yaml" in listed
    checked = bench("devices", "check", "bare", "--delegates")
    assert (checked.code, "Traceback" in checked.stderr) == (3, False), checked.stdout
    for line in (
        "ok       tool       benchmark_model: can be sent",
        "failed   tool       benchncnn: /nowhere/x: no program there",
        "ok       heat       41.5 °C",
        "ok       load       7.2",
    ):
        assert line in checked.stdout, checked.stdout
    assert "serving protocol" in bench("devices", "log", "bare").stdout


def test_a_device_that_somebody_else_has(bench: Bench, board: Device) -> None:
    """By the lease that lies there, and what it measures is left alone."""
    board.describe(bench, benchmark_model=stand_in(bench, "benchmark_model", GPU))
    home = board.workdir / "bare" / "home"
    home.mkdir(parents=True)
    lease = {"epoch": 7, "owner": "ann@lab (process 7)", "until_unix_s": round(time.time()) + 80}
    (home / "lease.json").write_text(json.dumps(lease))
    told = bench("--device", "bare", "--model", TFLITE, "--runtime", "native", *QUICK, *JSON)
    (row,) = told.results
    assert (row["status"], "in use by ann@lab (process 7)" in codes(row)["device_busy"]) == ("SKIPPED", True), (
        told.stderr
    )

"""Facts of the device, read from a recorded tree."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pocketbench_agent import device_info, observe

# As a Raspberry Pi 5 with Debian 12 shows them.
TREE = {
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "sys/devices/soc0/machine": "BCM2712\n",
    "etc/os-release": 'NAME="Debian GNU/Linux"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n',
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "proc/sys/kernel/random/boot_id": "5bd8f4f3-83bb-4e38-8fcd-3a7a0ea5ee2f\n",
    "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 108.00\nmodel name\t: Cortex-A76\n\nprocessor\t: 1\nmodel name\t: x\n",
    "proc/meminfo": "MemTotal:        8255040 kB\nMemFree:         6000000 kB\n",
    "proc/stat": "cpu  100 5 50 1000 20 3 2 7 0 0\ncpu0 25 1 12 250 5 1 1 2 0 0\nintr 1\n",
    "proc/vmstat": "nr_free_pages 12\noom_kill 3\noom_kill_other 9\n",
}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "root"
    monkeypatch.setenv(device_info.ROOT_VARIABLE, str(root))
    for name, text in TREE.items():
        write(root, name, text)
    return root


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def test_what_the_device_says_of_itself(tree: Path, tmp_path: Path) -> None:
    info = device_info.device_info(tmp_path)
    assert info.model == "Raspberry Pi 5 Model B Rev 1.0"
    assert (info.soc, info.os, info.cpu) == ("BCM2712", "Debian GNU/Linux 12 (bookworm)", "Cortex-A76")
    assert info.boot_id == "5bd8f4f3-83bb-4e38-8fcd-3a7a0ea5ee2f"
    assert info.memory_bytes == 8_255_040 * 1024
    assert len(info.fingerprint) == 16
    assert info.cpus >= 1 and info.free_bytes > 0


def test_big_and_little_cores(tree: Path, tmp_path: Path) -> None:
    """As the kernel groups them by clock; what it does not tell is unknown."""
    assert device_info.device_info(tmp_path).clusters == ()
    cpus = "sys/devices/system/cpu"
    for policy, cores, khz in ((0, "0 1 2 3", "1803000"), (10, "10 11 99999999999 ²", "x"), (4, "4 5 6 7", "2802000")):
        write(tree, f"{cpus}/cpufreq/policy{policy}/related_cpus", f"{cores}\n")
        write(tree, f"{cpus}/cpufreq/policy{policy}/cpuinfo_max_freq", f"{khz}\n")
    write(tree, f"{cpus}/cpu0/cpu_capacity", "381\n")
    write(tree, f"{cpus}/cpu4/cpu_capacity", "1024\n")
    assert device_info.device_info(tmp_path).clusters == (
        device_info.Cluster("policy0", (0, 1, 2, 3), 1_803_000, 381),
        device_info.Cluster("policy4", (4, 5, 6, 7), 2_802_000, 1024),
        device_info.Cluster("policy10", (10, 11), 0, 0),
    )


def test_a_pc_has_its_name_in_dmi(tree: Path, tmp_path: Path) -> None:
    (tree / "proc/device-tree/model").unlink()
    write(tree, "sys/class/dmi/id/product_name", "NUC13\n")
    assert device_info.device_info(tmp_path).model == "NUC13"


PHONE = """
[ro.product.manufacturer]: [Google]
[ro.product.model]: [Pixel 8]
[ro.soc.manufacturer]: [Google]
[ro.soc.model]: [Tensor G3]
[ro.build.version.release]: [14]
[ro.build.fingerprint]: [google/shiba/shiba:14/AP1A.240305.019/11445699:user/release-keys]
[ro.empty]: []
"""


def test_a_phone_has_its_names_in_its_properties(tree: Path, tmp_path: Path) -> None:
    write(tree, "getprop.txt", PHONE)
    info = device_info.device_info(tmp_path)
    assert (info.model, info.soc, info.os, info.emulated_by) == ("Google Pixel 8", "Google Tensor G3", "Android 14", "")
    write(tree, "getprop.txt", PHONE.replace("AP1A", "AP2A"))
    assert device_info.device_info(tmp_path).fingerprint != info.fingerprint


X86 = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon\n"
ARM = "processor\t: 0\nBogoMIPS\t: 100.00\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n"


@pytest.mark.parametrize(
    ("arch", "name", "text", "expected"),
    [
        ("aarch64", "proc/cpuinfo", ARM, ""),
        ("x86_64", "proc/cpuinfo", X86, ""),
        ("aarch64", "proc/cpuinfo", X86, "qemu-user"),
        ("aarch64", "proc/cpuinfo", ARM.replace("0x41", "0x00"), "qemu-user"),
        ("aarch64", "proc/device-tree/compatible", "linux,dummy-virt\0", "a virtual machine of QEMU"),
        ("aarch64", "proc/device-tree/compatible", "raspberrypi,5-model-b\0brcm,bcm2712\0", ""),
    ],
)
def test_what_stands_in_for_the_hardware(tree: Path, arch: str, name: str, text: str, expected: str) -> None:
    write(tree, "proc/cpuinfo", ARM if arch == "aarch64" else X86)
    write(tree, name, text)
    assert device_info.emulated_by(arch, {}) == expected
    assert device_info.emulated_by(arch, {"ro.kernel.qemu": "1"}) == "the Android emulator"


@pytest.mark.parametrize("changed", ["etc/machine-id", "etc/os-release", "sys/devices/soc0/machine", "proc/cpuinfo"])
def test_the_fingerprint_is_that_of_one_device_with_one_system(tree: Path, tmp_path: Path, changed: str) -> None:
    before = device_info.device_info(tmp_path).fingerprint
    write(tree, "proc/sys/kernel/random/boot_id", "another\n")
    assert device_info.device_info(tmp_path).fingerprint == before
    write(
        tree, changed, TREE[changed].replace("0", "1").replace("12 (", "13 (").replace("A76", "A78").replace("2", "3")
    )
    assert device_info.device_info(tmp_path).fingerprint != before


def test_a_device_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(device_info.ROOT_VARIABLE, str(tmp_path / "nothing"))
    info = device_info.device_info(tmp_path)
    assert (info.model, info.soc, info.boot_id, info.memory_bytes) == ("", "", "", 0)
    assert info.os and info.cpu and info.fingerprint
    assert device_info.cpu_times() is None and device_info.oom_kills() is None


def test_cpu_times_count_busy_stolen_and_all(tree: Path) -> None:
    assert device_info.cpu_times() == (100 + 5 + 50 + 3 + 2, 7, 1187)
    write(tree, "proc/stat", "cpu  10 0 5 85\n")
    assert device_info.cpu_times() == (15, 0, 100)


@pytest.mark.parametrize("text", ["", "intr 1\n", "cpu0 1 2 3 4\n"])
def test_without_a_total_there_are_no_cpu_times(tree: Path, text: str) -> None:
    write(tree, "proc/stat", text)
    assert device_info.cpu_times() is None


def test_oom_kills(tree: Path) -> None:
    assert device_info.oom_kills() == 3


def test_read_text_stays_below_the_root_and_survives_bytes(tree: Path) -> None:
    (tree / "odd").write_bytes(b"\xff\xfe ok\n")
    assert (device_info.read_text("/odd") or "").endswith("ok")
    assert device_info.read_text("/proc") is None
    assert device_info.read_text("/etc/hostname") is None


def test_the_clocks_are_in_nanoseconds_and_go_on() -> None:
    first = device_info.clocks()
    time.sleep(0.02)
    second = device_info.clocks()
    assert second.mono_ns - first.mono_ns >= 15_000_000
    assert second.realtime_ns - first.realtime_ns >= 15_000_000
    assert 1.7e18 < first.realtime_ns < 5e18
    if first.boottime_ns is not None and second.boottime_ns is not None:
        assert second.boottime_ns - first.boottime_ns >= 15_000_000


GROWS = """
from pocketbench_agent import device_info
before, peak = device_info.rss_bytes(), device_info.peak_rss_bytes()
assert before is not None and peak is not None and peak >= before > 1_000_000
held = b"x" * 40_000_000
after = device_info.rss_bytes()
assert after is not None and after - before > 30_000_000
assert (device_info.peak_rss_bytes() or 0) >= after
assert device_info.swap_bytes() is not None
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs a /proc of this process")
def test_memory_of_this_process_is_seen_to_grow() -> None:
    """One of its own: what runs tests has room to spare that was used before."""
    subprocess.run([sys.executable, "-c", GROWS], check=True)


def test_observe_without_sensors_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(device_info.ROOT_VARIABLE, str(tmp_path / "nothing"))
    found = {(r.source, r.quantity): r for r in observe.observe(5.0)}
    for key in (("thermal", "temperature"), ("cpufreq", "frequency"), ("system", "busy")):
        assert found[key].missing and not found[key].value


def test_a_device_that_is_elsewhere(tree: Path, tmp_path: Path) -> None:
    """Of what is recorded nothing is this machine's: what the record lacks is unknown."""
    write(tree, "facts.txt", "system=Linux\nnode=acme\nrelease=4.9-acme\nmachine=armv7l\ndf=/dev/x 9 8 7 50% /\n")
    info = device_info.device_info(tmp_path)
    assert (info.kernel, info.arch, info.cpus, info.free_bytes) == ("4.9-acme", "armv7l", 2, 7 * 1024)
    assert (info.libc, info.python) == ("", "")
    assert device_info.load_average() is None
    write(tree, "proc/loadavg", "3.50 1 1 1/2 3\n")
    assert device_info.load_average() == 3.5
    for name in ("facts.txt", "proc/cpuinfo", "etc/os-release"):
        (tree / name).unlink()
    write(tree, "facts.txt", "node=acme\n")
    assert (device_info.device_info(tmp_path).cpus, device_info.device_info(tmp_path).free_bytes) == (0, 0)


def test_observe_counts_busy_time_over_the_window(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(seconds: float) -> None:
        assert seconds == 0.25
        write(tree, "proc/stat", "cpu  140 5 50 1060 20 3 2 7 0 0\n")

    monkeypatch.setattr("pocketbench_agent.observe.time.sleep", work)
    monkeypatch.setattr("pocketbench_agent.device_info.os.cpu_count", lambda: 4)
    (busy,) = [r for r in observe.observe(0.25) if r.quantity == "busy"]
    assert list(busy.value) == [round(1000 * 4 * 0.4)]
    assert busy.unit == "milli-core"

"""Facts of the device: what it is, its clocks, and a process's own memory and waiting time.

Everything is read below a root folder, `/` unless POCKETBENCH_ROOT names another, so that a recorded or
simulated tree can stand in.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT_VARIABLE = "POCKETBENCH_ROOT"
GETPROP = "/system/bin/getprop"
# Below a root that stands for a device: what its getprop printed.
RECORDED_PROPERTIES = "/getprop.txt"
# And what no file tells, in lines of key=value: system, node, release, machine, and df, the last line of `df -Pk`.
RECORDED_FACTS = "/facts.txt"
CPUS = "/sys/devices/system/cpu"


@dataclass(frozen=True)
class Cluster:
    """Cores that share a clock: `big` or `little` ones. `capacity` is of 1024, the fastest core's; 0 where unknown."""

    policy: str
    cpus: tuple[int, ...]
    max_khz: int
    capacity: int


@dataclass(frozen=True)
class DeviceInfo:
    """The device; empty strings and 0 where it does not say."""

    model: str
    soc: str
    os: str
    kernel: str
    cpu: str
    boot_id: str
    fingerprint: str
    cpus: int
    arch: str
    libc: str
    python: str
    free_bytes: int
    memory_bytes: int
    emulated_by: str
    clusters: tuple[Cluster, ...] = ()


@dataclass(frozen=True)
class Clocks:
    """One reading of the three clocks, nanoseconds; None where the system has no such clock."""

    mono_ns: int
    boottime_ns: int | None
    realtime_ns: int


def root() -> Path:
    """The folder that stands for `/` when facts of the device are read."""
    return Path(os.environ.get(ROOT_VARIABLE, "/"))


def read_text(path: str) -> str | None:
    """A small file below the root, stripped; None where it cannot be read."""
    try:
        return (root() / path.lstrip("/")).read_text(errors="replace").strip()
    except OSError:
        return None


def machine() -> str:
    """The processor's architecture, as uname has it."""
    return _recorded().get("machine") or platform.machine()


def cpu_count() -> int:
    """All cores; 0 where it cannot be told."""
    if _recorded():
        return len(re.findall(r"^processor\s*:", read_text("/proc/cpuinfo") or "", re.MULTILINE))
    return os.cpu_count() or 0


def load_average() -> float | None:
    """Over the last minute; None where the system has none."""
    try:
        if root() != Path("/"):
            return float((read_text("/proc/loadavg") or "").split()[0])
        return os.getloadavg()[0]
    except (OSError, ValueError, IndexError):
        return None


def clocks() -> Clocks:
    """Read the clocks as near together as Python can."""
    boottime = time.clock_gettime_ns(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else None
    return Clocks(time.perf_counter_ns(), boottime, time.time_ns())


def boot_id() -> str:
    """The kernel's id of this boot, or an empty string."""
    return read_text("/proc/sys/kernel/random/boot_id") or ""


def device_info(home: Path) -> DeviceInfo:
    """What this device says of itself; `home` is the folder whose disk counts."""
    properties, recorded = _properties(), _recorded()
    system = _os_name(properties)
    model = " ".join(filter(None, (properties.get("ro.product.manufacturer"), properties.get("ro.product.model"))))
    model = model or read_text("/proc/device-tree/model") or read_text("/sys/class/dmi/id/product_name") or ""
    soc = " ".join(filter(None, (properties.get("ro.soc.manufacturer"), properties.get("ro.soc.model"))))
    soc = soc or read_text("/sys/devices/soc0/machine") or properties.get("ro.board.platform", "")
    kernel, node = recorded.get("release") or platform.release(), recorded.get("node") or platform.node()
    cpu = _cpu_name()
    built = properties.get("ro.build.fingerprint", "") + properties.get("ro.serialno", "")
    identity = "\n".join((node, model, soc, system, kernel, cpu, _machine_id(), built))
    return DeviceInfo(
        model=model.rstrip("\0"),
        soc=soc,
        os=system,
        kernel=kernel,
        cpu=cpu,
        boot_id=boot_id(),
        fingerprint=hashlib.sha256(identity.encode()).hexdigest()[:16],
        cpus=_usable_cpus(),
        arch=machine(),
        # Of a device that is elsewhere neither is known, for what runs here is none of its.
        libc="" if recorded else "-".join(platform.libc_ver()),
        python="" if recorded else platform.python_version(),
        free_bytes=df_free_bytes(recorded.get("df", "")) or 0 if recorded else shutil.disk_usage(home).free,
        memory_bytes=_memory_bytes(),
        emulated_by=emulated_by(machine(), properties),
        clusters=clusters(),
    )


def clusters() -> tuple[Cluster, ...]:
    """By policies of cpufreq (https://docs.kernel.org/admin-guide/pm/cpufreq.html) and the scheduler's cpu_capacity."""
    found = []
    for path in sorted(
        (root() / CPUS.lstrip("/")).glob("cpufreq/policy*"), key=lambda path: (len(path.name), path.name)
    ):
        policy = f"{CPUS}/cpufreq/{path.name}"
        told = (read_text(f"{policy}/related_cpus") or "").split()
        cpus = tuple(int(word) for word in told if re.fullmatch("[0-9]{1,4}", word, re.ASCII))
        if cpus:
            found.append(
                Cluster(
                    path.name,
                    cpus,
                    _whole(f"{policy}/cpuinfo_max_freq"),
                    _whole(f"{CPUS}/cpu{cpus[0]}/cpu_capacity"),
                )
            )
    return tuple(found)


def _whole(path: str) -> int:
    text = read_text(path) or ""
    return int(text) if re.fullmatch("[0-9]{1,9}", text, re.ASCII) else 0


def emulated_by(arch: str, properties: Mapping[str, str]) -> str:
    """What stands in for the hardware where something does, so that its times say nothing; else an empty string.

    qemu-user shows the host's /proc/cpuinfo (x86: `vendor_id`; ARM's has `CPU implementer`, and 0 as its value where
    qemu makes one up). A virtual ARM machine of QEMU calls itself `linux,dummy-virt` in its device tree.
    """
    if properties.get("ro.kernel.qemu") == "1" or properties.get("ro.boot.qemu") == "1":
        return "the Android emulator"
    if "linux,dummy-virt" in (read_text("/proc/device-tree/compatible") or ""):
        return "a virtual machine of QEMU"
    cpuinfo = read_text("/proc/cpuinfo") or ""
    made_up = re.search(r"^CPU implementer\s*: 0x0*$", cpuinfo, re.MULTILINE) is not None
    if arch == "aarch64" and (made_up or "vendor_id" in cpuinfo):
        return "qemu-user"
    return ""


def rss_bytes() -> int | None:
    """Resident memory of this process now (VmRSS)."""
    return _status_bytes("VmRSS")


def peak_rss_bytes() -> int | None:
    """The most resident memory that this process ever had (VmHWM)."""
    return _status_bytes("VmHWM")


def reset_peak_rss() -> bool:
    """Let VmHWM count from now on (proc(5), clear_refs); False where the kernel does not allow it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def pss_bytes() -> int | None:
    """This process's memory with each shared page counted by its share (Pss of smaps_rollup)."""
    try:
        found = re.search(r"^Pss:\s+(\d+) kB$", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def swap_bytes() -> int | None:
    """Memory of this process that was swapped out (VmSwap)."""
    return _status_bytes("VmSwap")


def run_delay_ns() -> int | None:
    """Time that this process's threads were ready but had no core (second field of /proc/*/schedstat)."""
    total = 0
    try:
        for task in Path("/proc/self/task").iterdir():
            total += int((task / "schedstat").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return total


def cpu_times() -> tuple[int, int, int] | None:
    """(busy, stolen, all) in clock ticks since boot, over all cores (proc(5), /proc/stat)."""
    text = read_text("/proc/stat")
    if not text or not text.startswith("cpu "):
        return None
    fields = [int(field) for field in text.splitlines()[0].split()[1:]]
    idle = fields[3] + (fields[4] if len(fields) > 4 else 0)
    stolen = fields[7] if len(fields) > 7 else 0
    everything = sum(fields[:8])
    return everything - idle - stolen, stolen, everything


def oom_kills() -> int | None:
    """How many processes the kernel has killed for want of memory since boot (/proc/vmstat)."""
    for line in (read_text("/proc/vmstat") or "").splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return None


def _status_bytes(key: str) -> int | None:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return None
    return None


def _recorded() -> Mapping[str, str]:
    lines = (read_text(RECORDED_FACTS) or "").splitlines() if root() != Path("/") else []
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if not _recorded() and hasattr(os, "sched_getaffinity") else cpu_count()


def df_free_bytes(line: str) -> int | None:
    """Of the last line of `df -Pk`; from the right, for a device's name may hold blanks. None where there is none."""
    match = re.search(r"\s[0-9]+\s+[0-9]+\s+([0-9]{1,15})\s+(?:[0-9]+%|-)", line, re.ASCII)
    return int(match[1]) * 1024 if match else None


def _properties() -> Mapping[str, str]:
    """Android's system properties; none elsewhere."""
    if root() != Path("/") or not Path(GETPROP).exists():
        return parse_properties(read_text(RECORDED_PROPERTIES) or "")
    try:
        done = subprocess.run([GETPROP], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return parse_properties(done.stdout.decode(errors="replace"))


def parse_properties(text: str) -> Mapping[str, str]:
    """Lines of getprop: `[ro.product.model]: [Pixel 8]`."""
    return dict(re.findall(r"^\[([^\]\n]+)\]: \[(.*)\]\r?$", text, re.MULTILINE))


def _os_name(properties: Mapping[str, str]) -> str:
    release = properties.get("ro.build.version.release")
    if release:
        return f"Android {release}"
    for line in (read_text("/etc/os-release") or "").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    recorded = _recorded()
    return f"{recorded.get('system') or platform.system()} {recorded.get('release') or platform.release()}"


def _cpu_name() -> str:
    text = read_text("/proc/cpuinfo") or ""
    # qemu-user shows the host's: that is not what runs the program.
    foreign = machine() == "aarch64" and "vendor_id" in text
    for line in text.splitlines():
        if line.lower().startswith(("model name", "hardware")) and not foreign:
            return line.partition(":")[2].strip()
    return (platform.processor() if not _recorded() else "") or machine()


def _memory_bytes() -> int:
    for line in (read_text("/proc/meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def _machine_id() -> str:
    return read_text("/etc/machine-id") or ""

"""What is read from an accelerator's log, from a library's header, and from a Vulkan loader."""

from __future__ import annotations

import os
import platform
import random
import sys
from pathlib import Path

import pytest

from pocketbench_agent import libraries, vulkan
from pocketbench_agent.errors import StageError
from pocketbench_agent.overhear import overhear
from pocketbench_agent.runtimes.litert_compiled import Log, read_log
from pocketbench_agent.runtimes.onnxruntime import stretches
from pocketbench_agent.runtimes.ort_providers import CPU

# As LiteRT 2.3.0 wrote them on SwiftShader; PARTITIONED is the format string of its library, for no NPU was here.
ADAPTER = (
    "I0000 00:00:1795673096.873059   11129 environment.cc:532] Selected adapter: SwiftShader Device (Subzero), "
    "arch=swiftshader, vendor=google, backend=Vulkan, adapterType=CPU / Software"
)
PARTLY = """\
INFO: [gpu_environment.h:155] Created LiteRT GpuEnvironment.
ERROR: Following operations are not supported by GPU delegate:
ZEROS_LIKE: Operation is not supported.
1 operations will run on the GPU, and the remaining 2 operations will run on the CPU.
"""
PARTITIONED = (
    "INFO: [compiler_plugin.cc:720] Partitioned subgraph<0>, selected 30 ops, from a total of 31 ops. "
    "resulted in 2 partitions."
)


def test_the_log_of_a_compilation() -> None:
    adapter = (
        "SwiftShader Device (Subzero), arch=swiftshader, vendor=google, backend=Vulkan, adapterType=CPU / Software"
    )
    assert read_log(f"{ADAPTER}\n{PARTLY}") == Log(adapter, 3, 1, None, ("ZEROS_LIKE",))
    assert read_log(PARTITIONED) == Log("", 31, 30, 2)
    assert read_log("") == Log()
    # The second compilation counts, not the first that refused.
    assert read_log(PARTLY + PARTLY.replace("1 operations", "0 operations")).delegated == 0


def test_partitions_are_stretches_and_not_kernels() -> None:
    """WebGPU runs each node as a kernel of its own, or several; QNN a whole partition as one."""
    assert stretches(["A", CPU, "A", "A", CPU, CPU, "A"]) == 3
    assert (stretches(["A"]), stretches([CPU, CPU]), stretches([])) == (1, 0, 0)


def test_a_log_that_is_cut_or_shuffled_never_claims_more() -> None:
    text = f"{ADAPTER}\n{PARTLY}"
    for end in range(len(text)):
        found = read_log(text[:end])
        assert found.delegated in (None, 1) and (found.delegated is None) == (found.nodes is None)
    lines = text.splitlines()
    random.Random(7).shuffle(lines)
    assert read_log("\n".join(lines)).delegated == 1


def test_a_library_of_another_processor(tmp_path: Path) -> None:
    """The loader's own word for it would be 'no such file'."""
    own = Path(sys.executable).resolve().read_bytes()[:64]
    (tmp_path / "own.so").write_bytes(own)
    libraries.check(tmp_path / "own.so")
    (tmp_path / "other.so").write_bytes(own[:18] + (164).to_bytes(2, "little") + own[20:])
    with pytest.raises(StageError, match=rf"other\.so is made for hexagon, and this device is {platform.machine()}"):
        libraries.check(tmp_path / "other.so")
    for content in (b"", b"\x7fELF", b"MZ" + bytes(100)):
        (tmp_path / "text.so").write_bytes(content)
        with pytest.raises(StageError, match=r"text\.so is not a shared library"):
            libraries.check(tmp_path / "text.so")


def test_no_vulkan_loader_is_no_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vulkan, "LIBRARIES", ("libnosuchvulkan.so",))
    assert vulkan.adapter() == ""


def test_hardware_goes_before_software(monkeypatch: pytest.MonkeyPatch) -> None:
    """As runtimes choose: a desktop has llvmpipe beside its GPU."""
    monkeypatch.setattr(vulkan, "adapters", lambda: [("llvmpipe", True), ("Adreno 740", False), ("Other", False)])
    assert vulkan.adapter() == "Adreno 740"
    monkeypatch.setattr(vulkan, "adapters", lambda: [("llvmpipe", True)])
    assert vulkan.adapter() == "llvmpipe"


def test_what_a_library_says_is_heard_and_still_reaches_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    """More than a pipe holds, written while nobody else can run."""
    with overhear() as heard:
        for _ in range(100):
            os.write(2, b"x" * 1023 + b"\n")
    assert len(heard.text) == 100 * 1024
    assert len(capfd.readouterr().err) == 100 * 1024
    os.write(2, b"after\n")
    assert "after" not in heard.text

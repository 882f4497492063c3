"""Delegates through the command line: what they took, and libraries that are not what they should be."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pocketbench.models import PlacedFile, place
from pocketbench_agent.cache import BlobCache
from pocketbench_agent.jobs import Jobs
from pocketbench_agent.rpc import agent_pb2 as pb
from tests.integration.conftest import DIGITS, QUICK, ROOT, Bench
from tests.integration.test_run import codes
from tests.peers import chains

SOURCE = ROOT / "tests" / "peers" / "stub_delegate.c"
SETUPS = """\
devices:
  local:
    transport: local
    delegates:
      stub: {library: libstub.so}
      takes-none: {library: libstub.so, options: {take: 77}}
      small-only: {library: libstub.so, options: {most: 64}}
      garbage: {library: libstub.so, options: {take: 0}}
      caching: {library: libstub.so, options: {cache: "{program_cache}"}}
      failing: {library: libstub.so, options: {fail: true}}
      no-device: {library: libstub.so, options: {no_device: true}}
      crashing: {library: libstub.so, options: {crash: true}}
      unknown-option: {library: libstub.so, options: {speed: 11}}
      no-library: {library: text.so}
      foreign: {library: foreign.so}
      no-delegate: {library: empty.so}
      slow: {base: cpu, options: {xnnpack: off}}
      mistyped: {base: cpu, options: {xnpack: off}}
"""
CC = shutil.which("cc") or shutil.which("gcc")

pytestmark = pytest.mark.skipif(CC is None, reason="no C compiler here: external delegates were not tried")


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stub delegate, and files that are none."""
    folder = tmp_path_factory.mktemp("libraries")
    build = [str(CC), "-shared", "-fPIC", "-O1"]
    subprocess.run([*build, "-o", folder / "libstub.so", SOURCE], check=True)
    (folder / "empty.c").write_text("int nothing;\n")
    subprocess.run([*build, "-o", folder / "empty.so", folder / "empty.c"], check=True)
    (folder / "text.so").write_text("not a library\n")
    stub = bytearray((folder / "libstub.so").read_bytes())
    # Of another processor: e_machine (elf(5)).
    stub[18:20] = (243).to_bytes(2, "little")
    (folder / "foreign.so").write_bytes(stub)
    (folder / "devices.yaml").write_text(SETUPS)
    return folder


def measure(
    bench: Bench, libraries: Path, model: Path, *delegates: str, arguments: tuple[object, ...] = ()
) -> dict[str, dict[str, Any]]:
    """Results by delegate."""
    wanted = [argument for name in delegates for argument in ("--delegate", name)]
    devices = ("--devices", libraries / "devices.yaml", "--device", "local")
    ended = bench(*devices, "--model", model, *wanted, *QUICK, *arguments, "--format", "json")
    assert ended.code in (0, 3), ended.stderr
    return {result["delegate"]["requested"]: result for result in ended.results}


def test_what_a_delegate_took(bench: Bench, libraries: Path) -> None:
    """All, some, nothing, and nonsense: coverage, status and reasons; the rest of the graph is XNNPACK's."""
    mixed = chains.write(bench.home / "mixed.tflite", ["NEG", "ADD", "NEG"])
    external = f"external:{libraries / 'libstub.so'}"
    found = measure(bench, libraries, mixed, "cpu", "xnnpack", "stub", "takes-none", "garbage", external)
    shown = {name: (r["status"], r["delegate"]["coverage"], r["delegate"]["used"]) for name, r in found.items()}
    assert shown == {
        "cpu": ("OK", "n/a", "cpu"),
        "xnnpack": ("OK", "full", "xnnpack"),
        "stub": ("OK", "partial", "external"),
        "takes-none": ("FALLBACK", "none", "cpu"),
        "garbage": ("INVALID", "partial", "external"),
        external: ("OK", "partial", "external"),
    }
    stub = found["stub"]["delegate"]
    assert (stub["nodes"], stub["nodes_delegated"], stub["partitions"], stub["on_cpu"]) == (3, 2, 2, {"ADD": 1})
    assert stub["accelerated_by"] == "libstub.so"
    assert codes(found["stub"], "warn") == {"partial_delegation"}
    assert found["takes-none"]["delegate"]["nodes_delegated"] == 0
    assert found["takes-none"]["delegate"]["options"] == {"take": "77"}
    assert codes(found["takes-none"], "invalid") == {"fallback"}
    assert "output_mismatch" in codes(found["garbage"], "invalid")
    whole = chains.write(bench.home / "whole.tflite", ["NEG", "NEG", "NEG"])
    full = measure(bench, libraries, whole, "stub")["stub"]
    assert (full["status"], full["delegate"]["coverage"], full["delegate"]["on_cpu"]) == ("OK", "full", {})


def test_what_a_delegate_took_in_the_shape_that_was_asked_for(bench: Bench, libraries: Path) -> None:
    """It takes what is small, as the file's own shape is: none of what ran."""
    model = chains.write(bench.home / "open.tflite", ["NEG", "NEG"], open_batch=True)
    for batch, expected in {1: ("OK", "full", 2), 8: ("FALLBACK", "none", 0)}.items():
        shape = ("--shape", f"x={batch}x64")
        (result,) = measure(bench, libraries, model, "small-only", arguments=shape).values()
        told = result["delegate"]
        assert (result["status"], told["coverage"], told["nodes_delegated"]) == expected, result["reasons"]


def test_the_first_load_apart_from_those_with_a_filled_cache(bench: Bench, libraries: Path) -> None:
    """What a delegate compiled is kept for the case's next processes, and begun anew with the next run."""
    model = chains.write(bench.home / "m.tflite", ["NEG"])
    found = measure(bench, libraries, model, "caching", "stub", "cpu", arguments=("--processes", "3"))
    caching = found["caching"]
    assert caching["status"] == "OK", caching["reasons"]
    assert caching["cold_load_ms"] > 300 > caching["load_ms"]
    assert caching["cold_first_inference_ms"] is not None
    for plain in ("stub", "cpu"):
        assert (found[plain]["cold_load_ms"], found[plain]["cold_first_inference_ms"]) == (None, None)
        assert found[plain]["load_ms"] is not None
    alone = measure(bench, libraries, model, "caching")["caching"]
    assert (alone["load_ms"], alone["first_inference_ms"]) == (None, None), "nothing was loaded from a filled cache"
    assert alone["cold_load_ms"] > 300
    devices = ("--devices", libraries / "devices.yaml", "--device", "local")
    table = bench(*devices, "--model", model, "--delegate", "caching", *QUICK).stdout
    assert "cold load ms" in table
    assert "cold" not in bench(*devices, "--model", model, *QUICK).stdout


def test_libraries_that_are_not_what_they_should_be(bench: Bench, libraries: Path) -> None:
    """Each ends with a status of its own and says why; none takes another down."""
    model = chains.write(bench.home / "m.tflite", ["NEG"])
    expected = {
        "failing": ("FAILED", "cannot use libstub.so: Restored original execution plan"),
        "no-device": ("FAILED", "libstub.so made no delegate: no device answers"),
        "unknown-option": ("FAILED", "libstub.so made no delegate: unknown option speed"),
        "crashing": ("CRASHED", "SIGSEGV in stage load"),
        "no-library": ("FAILED", "text.so is not a shared library"),
        "foreign": ("FAILED", "foreign.so is made for riscv64, and this device is "),
        "no-delegate": ("FAILED", "empty.so is no TFLite delegate"),
        "mistyped": ("FAILED", "has no option xnpack; it has xnnpack"),
        "npu": ("SKIPPED", "npu"),
        "nnapi": ("SKIPPED", "no delegate 'nnapi'"),
        "slow": ("OK", ""),
    }
    found = measure(bench, libraries, model, *expected)
    for name, (status, says) in expected.items():
        messages = [reason["message"] for reason in found[name]["reasons"]]
        assert found[name]["status"] == status, (name, messages)
        assert any(says in message for message in messages), (name, messages)
    assert found["slow"]["delegate"]["nodes_delegated"] == 0, "XNNPACK was switched off"


def test_a_delegate_that_hangs_is_ended(libraries: Path, tmp_path: Path) -> None:
    """At the job's deadline, by the agent, in the stage where it hung."""
    cache = BlobCache(tmp_path / "blobs")

    def sent(file: PlacedFile) -> pb.File:
        data = file.path.read_bytes()
        cache.put(bytes.fromhex(file.sha256), 0, len(data), iter([data]))
        return pb.File(path=file.name, sha256=bytes.fromhex(file.sha256))

    model = place(DIGITS / "digits-float.tflite", "model.tflite", "--model")
    library = place(libraries / "libstub.so", ".delegate/libstub.so", "--delegate")
    program = pb.Program(runtime="litert", delegate="external", options={"hang": "1"}, delegate_files=[sent(library)])
    jobs = Jobs(tmp_path, cache)
    jobs.start(pb.Job(job_id="hang", files=[sent(model)], program=program, deadline_s=5, phase="latency"))
    ended = list(jobs.watch("hang", 1))[-1].ended
    assert (ended.how, ended.stage) == (pb.Ended.TIMEOUT, "load"), ended
    jobs.close()


def test_a_library_that_is_missing_is_found_before_anything_runs(bench: Bench, libraries: Path) -> None:
    """Exit code 2, with the place where it was looked for."""
    (bench.home / "devices.yaml").write_text(
        "devices:\n  local: {transport: local, delegates: {gone: {library: libgone.so}, odd: {base: gqu}}}\n"
    )
    case = ("--device", "local", "--model", DIGITS / "digits-int8.tflite")
    for delegate, says in {
        "gone": "local: delegate gone: library",
        "external:nowhere.so": "nowhere.so: no such file",
        "odd": "unknown base 'gqu' (did you mean 'gpu'?)",
        "gonne": "unknown delegate 'gonne' (did you mean 'gone'?)",
    }.items():
        ended = bench(*case, "--delegate", delegate)
        assert (ended.code, says in ended.stderr) == (2, True), ended.stderr
    (bench.home / "devices.yaml").write_text(
        "devices:\n  local:\n    transport: local\n    delegates: {a: {librari: x}}\n"
    )
    ended = bench(*case)
    assert (ended.code, "unknown key 'librari' (did you mean 'library'?)" in ended.stderr) == (2, True), ended.stderr


def test_strict_and_again(bench: Bench, libraries: Path) -> None:
    """--require-full-delegation fails on a part; a rerun loads the same library, and no other in its place."""
    model = chains.write(bench.home / "m.tflite", ["NEG", "ADD"])
    shutil.copy(libraries / "libstub.so", bench.home / "libmine.so")
    case = ("--device", "local", "--model", model, "--delegate", "external:libmine.so", *QUICK, "--format", "json")
    strict = bench(*case, "--require-full-delegation")
    assert (strict.code, "coverage partial" in strict.stderr) == (1, True)
    again = bench("rerun", strict.results[0]["id"], "--format", "json")
    assert again.code == 0, again.stderr
    assert again.results[0]["delegate"]["nodes_delegated"] == 1
    shutil.copy(libraries / "empty.so", bench.home / "libmine.so")
    changed = bench("rerun", strict.results[0]["id"])
    assert (changed.code, "is not the library that was used then" in changed.stderr) == (2, True)


def test_lies_about_placement_through_the_command_line(bench: Bench) -> None:
    """A runtime that took a part, nothing, or was software all along."""
    told = {
        "part": ({"nodes": 9, "delegated": 7, "on_cpu": {"SOFTMAX": 2}}, "OK", "partial_delegation"),
        "nothing": ({"nodes": 9, "delegated": 0}, "FALLBACK", "fallback"),
        "software": ({"nodes": 9, "delegated": 9, "adapter": "llvmpipe (LLVM 15)"}, "OK", "software_adapter"),
        "silent": ({}, "OK", "coverage_unknown"),
    }
    models = [a for name, (how, _, _) in told.items() for a in ("--model", bench.null(name, sleep_ms=1, placement=how))]
    ended = bench("--device", "local", *models, "--delegate", "gpu", *QUICK, "--format", "json")
    for result in ended.results:
        _, status, code = told[result["model"]["name"]]
        assert (result["status"], code in codes(result)) == (status, True), result["reasons"]


def test_what_a_device_can_really_do(bench: Bench, libraries: Path) -> None:
    """Each delegate by a tiny model: absent, crashing, useless and working ones told apart, and remembered."""
    (bench.home / "devices.yaml").write_text(
        "devices:\n  local:\n    transport: local\n    delegates:\n"
        f"      adds: {{library: {libraries / 'libstub.so'}, options: {{take: 0}}}}\n"
        f"      idle: {{library: {libraries / 'libstub.so'}}}\n"
        f"      crashing: {{library: {libraries / 'libstub.so'}, options: {{crash: true}}}}\n"
    )
    before = bench("devices", "--format", "json").doc[0]
    assert before["delegates"] == ["cpu"]
    checked = bench("devices", "check", "local", "--delegates")
    assert checked.code == 0, checked.stdout
    for line in (
        r"ok +delegate +litert [\d.]+ cpu: computes",
        r"ok +delegate +litert gpu: is not there: LiteRT finds no gpu here",
        r"ok +delegate +litert npu: is not there: LiteRT finds no npu here",
        r"ok +delegate +litert [\d.]+ adds: takes 1 of 2 nodes of a tiny model",
        r"warning +delegate +litert [\d.]+ idle: is there, and takes no node",
        r"warning +delegate +litert crashing: crashes: the worker died of SIGSEGV",
        r"ok +delegate +onnxruntime [\d.]+ cpu: computes",
    ):
        assert re.search(line, checked.stdout), (line, checked.stdout)
    after = bench("devices", "--format", "json").doc[0]
    assert after["delegates"] == ["cpu", "litert adds"]
    (remembered,) = (bench.home / "xdg_cache_home" / "pocketbench" / "abilities").iterdir()
    told = json.loads(remembered.read_text())
    remembered.write_text(json.dumps({**told, "identity": "another board's"}))
    assert bench("devices", "--format", "json").doc[0]["delegates"] == ["cpu"]
    remembered.write_text("{")
    assert bench("devices", "--format", "json").doc[0]["delegates"] == ["cpu"]


def test_no_usage_data_is_gathered(bench: Bench) -> None:
    """ONNX Runtime 1.32 keeps a device id and a database in the cache folder, unless it is told not to."""
    assert bench("--device", "local", "--model", DIGITS / "digits-int8.onnx", *QUICK).code == 0
    assert not [path for path in bench.home.rglob("*") if "Microsoft" in path.name or path.name == "deviceid"]

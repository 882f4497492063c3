"""What nobody may see or reach: the token, the device's shell, what lies outside of the work folder."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.adb_clients import daemon, free_port
from tests.integration.conftest import Bench, wait_until, workers
from tests.peers.sshd import SSHD, sshd

pytestmark = pytest.mark.skipif(
    SSHD is None or os.geteuid() != 0, reason="needs root and Debian's openssh-server: apt-get install openssh-server"
)
PYTHON = shutil.which("python3", path="/usr/bin") or "python3"
QUICK = ("--processes", "1", "--min-time", "0.05", "--max-time", "0.3", "--cooldown", "0", "--format", "json")
TOKEN = "5ec2e7" * 10
# Python imports it before anything else.
KNOWN_TOKEN = f"""
import secrets
made = secrets.token_hex
secrets.token_hex = lambda count=32: {TOKEN!r} if count == 32 else made(count)
"""
# As a device, as a model, and as a file of the run.
NAMES = ("$(touch pwned)", "; touch pwned;", "-rf", "a\nb`touch pwned`", "ü 'x' \"y\" && touch pwned", "a\\..\\b|*")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outside the home, in which tests look at every file."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(params=["ssh", "adb"])
def reached(request: pytest.FixtureRequest, tmp_path: Path, bench: Bench, cache: Path) -> Iterator[str]:
    """What an entry of devices.yaml says of a device, workdir aside; over either transport."""
    bench.environment.update(XDG_CACHE_HOME=str(cache), ANDROID_ADB_SERVER_PORT=str(free_port()))
    common = f'python: {PYTHON}, env: {{HOME: "{tmp_path}"}}'
    if request.param == "adb":
        with daemon(tmp_path / "phone") as phone:
            yield f'transport: adb, address: "{phone.address}", adb: direct, {common}'
    else:
        with sshd(tmp_path / "server") as server:
            host_key = server.host_key.with_suffix(".pub").read_text().strip()
            yield (
                f"transport: ssh, host: 127.0.0.1, port: {server.port}, user: {server.user}, key: {server.key}, "
                f"host_key: {host_key}, {common}"
            )


def register(bench: Bench, reached: str, name: str = "board", workdir: str = "device") -> Path:
    """Write devices.yaml; the device's work folder."""
    folder = bench.home / workdir
    quoted = name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    (bench.home / "devices.yaml").write_text(f'devices:\n  "{quoted}": {{{reached}, workdir: "{folder}"}}\n')
    return folder


def everything(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


def test_the_token_is_nowhere(bench: Bench, reached: str) -> None:
    """No process shows it while the run goes on; no file has it afterwards; bench never says it, --debug or not."""
    workdir = register(bench, reached)
    known = bench.home / "known"
    known.mkdir()
    (known / "sitecustomize.py").write_text(KNOWN_TOKEN)
    paths = os.pathsep.join([str(known), *filter(None, [os.environ.get("PYTHONPATH")])])
    shown: set[str] = set()
    looked, ended = threading.Event(), threading.Event()

    def look() -> None:
        while not ended.is_set():
            for process in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    try:
                        if TOKEN.encode() in (process / name).read_bytes():
                            shown.add(f"{process.name} {name}")
                    except OSError:
                        continue
            looked.set()

    looking = threading.Thread(target=look)
    looking.start()
    try:
        good = bench("--device", "board", "--model", bench.null(sleep_ms=5), *QUICK, "--debug", PYTHONPATH=paths)
        bad = bench("--device", "board", "--model", bench.null("bad", fail={"stage": "load"}), *QUICK, PYTHONPATH=paths)
    finally:
        ended.set()
        looking.join()
    assert (good.code, bad.code) == (0, 3), good.stderr + bad.stderr
    assert looked.is_set() and not shown
    assert not [text for text in (good.stdout, good.stderr, bad.stdout, bad.stderr) if TOKEN in text]
    assert (workdir / "home" / "agent.log").is_file()
    having = {path for path in everything(bench.home) if TOKEN.encode() in path.read_bytes()}
    assert having == {path for path in everything(known) if TOKEN.encode() in path.read_bytes()}


def test_names_reach_neither_the_shell_nor_other_folders(bench: Bench, reached: str) -> None:
    """Of devices, of models and of the work folder: files appear below the work folder, and no command runs."""
    name = "../../outside " + " ".join(NAMES)
    workdir = register(bench, reached, name, "$(touch pwned); 'a b' -rf `touch pwned` ü=")
    assert bench(f"--device={name}", "--model", bench.null(), *QUICK).code == 0
    before = everything(bench.home)
    models = [bench.null(each, sleep_ms=1) for each in NAMES]
    done = bench(f"--device={name}", *(f"--model={model}" for model in models), *QUICK)
    assert done.code == 0, done.stderr
    assert [result["device"] for result in done.results] == [name] * len(NAMES)
    assert (workdir / "home" / "blobs").is_dir()
    ours = [*(bench.home / folder for folder in ("xdg_data_home", "xdg_state_home", ".android")), workdir, *models]
    new = everything(bench.home) - before
    assert not [path for path in new if not any(path == one or one in path.parents for one in ours)]
    assert not [place for place in (Path.cwd(), Path("/"), Path.home(), Path("/root")) if any(place.glob("pwned*"))]
    assert not [path for path in bench.home.rglob("*") if path.name.startswith(("pwned", "outside"))]


def test_the_second_host_is_told_who_and_for_how_long(bench: Bench, reached: str, tmp_path: Path) -> None:
    """Two homes, two stores, one device: the first one's run is not harmed."""
    register(bench, reached)
    other = Bench(tmp_path / "other", dict(bench.environment))
    other.home.mkdir()
    shutil.copy(bench.home / "devices.yaml", other.home)
    slow = ("--min-time", "4", "--max-time", "5", "--processes", "1", "--cooldown", "0", "--format", "json")
    process = bench.start("--device", "board", "--model", bench.null(sleep_ms=10), *slow)
    assert wait_until(lambda: bool(workers(bench)), 90)
    second = other("--device", "board", "--model", other.null(), *QUICK)
    reason = second.results[0]["reasons"][0]
    assert (second.code, second.results[0]["status"], reason["code"]) == (3, "SKIPPED", "device_busy")
    told = re.search(rf"board: in use by \S+ \(process {process.pid}\) for (\d+) s more", reason["message"])
    assert told is not None, reason["message"]
    assert 0 < int(told[1]) <= 90
    stdout, stderr = process.communicate(timeout=90)
    assert process.returncode == 0, stderr
    assert '"OK"' in stdout

"""Devices that are driven from the host: what each kind of shell is told, and what may be answered."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketbench.config import devices as config
from pocketbench.config.devices import DeviceEntry
from pocketbench.deploy import bundle, remote
from pocketbench.driven import scripts
from pocketbench.driven.bridge import Bridge, exited
from pocketbench.driven.files import Files
from pocketbench.driven.mirror import MAX_FILES, MAX_LINES, MAX_TEXT, Mirror, Nonsense, allowed
from pocketbench.errors import ConfigError, DeviceError, NotReachable
from pocketbench.models import place
from pocketbench.session.session import NoSpaceOnDevice
from pocketbench.transports import Completed, Sent, unheard
from pocketbench.transports.local import Local
from pocketbench_agent import driven
from pocketbench_agent.native.start import _moved
from tests.integration.conftest import wait_until
from tests.peers import bare_device

SHELLS = {"dash": ("dash",), "bash": ("bash", "--posix"), "busybox": ("busybox", "sh"), "mksh": ("mksh",)}


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> Sequence[str]:
    """Android has mksh, Debian dash, small boards busybox."""
    words = SHELLS[request.param]
    if shutil.which(words[0]) is None:
        pytest.skip(f"no {words[0]} here: apt-get install {words[0]}")
    return words


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """Of the device, with something that is none of ours."""
    folder = tmp_path / "a b"
    (folder / "driven" / "files").mkdir(parents=True)
    (folder / "driven" / "programs").mkdir()
    (folder / "home").mkdir()
    (folder / "tmp").mkdir()
    return folder


def run(shell: Sequence[str], workdir: Path, *command: str, limit_s: int = 20) -> subprocess.Popen[str]:
    """A command as a device runs it."""
    words = [*shell, "-c", scripts.RUN, "sh", "nonce", str(limit_s), str(workdir), "A=b  'c'", "--", *command]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[str, driven.Exited]:
    """What it printed, and how it ended; its stdin stays open until then."""
    assert process.stdout is not None and process.stderr is not None and process.stdin is not None
    out, err = process.stdout.read(), process.stderr.read()
    process.wait(10)
    process.stdin.close()
    process.stdout.close()
    process.stderr.close()
    return out, exited(err, "nonce")


def sleepers(seconds: str) -> list[str]:
    """Processes that sleep so long."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += [path.parent.name] if path.read_bytes() == f"sleep\0{seconds}\0".encode() else []
    return found


def test_a_command_with_its_streams_code_and_memory(shell: Sequence[str], workdir: Path) -> None:
    script = 'echo "$A"; echo err >&2; pwd; : >left; printf "nonce code 3"; sleep 0.4; exit 7'
    out, told = ended(run(shell, workdir, "sh", "-c", script))
    assert out == f"b  'c'\nerr\n{workdir}/driven/scratch\nnonce code 3"
    assert told.code == 7 and told.peak_bytes is not None and 100_000 < told.peak_bytes < 50_000_000
    assert ended(run(shell, workdir, "sh", "-c", "ls; kill -SEGV $$"))[0] == "", "the folder is emptied"
    assert ended(run(shell, workdir, "sh", "-c", "kill -SEGV $$"))[1].code == 128 + signal.SIGSEGV
    assert ended(run(shell, workdir, "/no/such"))[1].code == 127
    assert sorted(path.name for path in workdir.iterdir()) == ["driven", "home", "tmp"]


@pytest.fixture
def hangup() -> Iterator[None]:
    """Under nohup SIGHUP is ignored, and a shell cannot change that; an adbd does not ignore it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_all_that_a_command_started_ends_with_its_stdin_its_time_and_itself(
    shell: Sequence[str], workdir: Path, hangup: None
) -> None:
    seconds = str(4000 + os.getpid() / 1e6)
    tree = ("sh", "-c", f"sleep {seconds} & sleep {seconds} & wait")
    process = run(shell, workdir, *tree)
    assert wait_until(lambda: len(sleepers(seconds)) == 2, 5)
    assert process.stdin is not None
    process.stdin.close()
    assert wait_until(lambda: not sleepers(seconds), 5)
    process.wait(5)
    killed = run(shell, workdir, *tree)
    assert wait_until(lambda: len(sleepers(seconds)) == 2, 5)
    # As adbd does where its client is gone.
    killed.send_signal(signal.SIGHUP)
    assert wait_until(lambda: not sleepers(seconds), 5)
    begin = time.monotonic()
    assert ended(run(shell, workdir, *tree, limit_s=1))[1].code == 128 + signal.SIGKILL
    assert time.monotonic() - begin < 10 and not sleepers(seconds)
    assert ended(run(shell, workdir, "sh", "-c", f"sleep {seconds} >/dev/null 2>&1 & exit 0"))[1].code == 0
    assert wait_until(lambda: not sleepers(seconds), 5)
    for one in (process, killed):
        one.wait(5)
        for pipe in (one.stdin, one.stdout, one.stderr):
            assert pipe is not None
            pipe.close()


def test_what_a_device_says_of_itself(shell: Sequence[str], workdir: Path, tmp_path: Path) -> None:
    """Files below a folder, as its kernel shows them; the lease says who has it; it ends with its stdin."""
    root = bare_device.root(tmp_path / "the root")
    mirror = Mirror(tmp_path / "mirror")
    held = '{"epoch": 3, "owner": "me \\\\ you", "until_unix_s": '
    words = [*shell, "-c", scripts.WATCH, "sh", str(root), str(workdir), held]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        while not mirror.line(process.stdout.readline()):
            pass
        lease = json.loads((workdir / "home" / "lease.json").read_text())
        (root / "sys/class/thermal/thermal_zone0/temp").write_text("99000\n")
        (root / "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq").unlink()
        for _ in range(2):
            while not mirror.line(process.stdout.readline()):
                pass
        process.stdin.close()
        assert process.wait(5) is not None
    seen = {str(path.relative_to(tmp_path / "mirror")): path.read_text() for path in _files(tmp_path / "mirror")}
    for name, text in bare_device.FACTS.items():
        if "scaling_cur_freq" not in name and "sys/kernel" not in name and name != "proc/stat":
            assert seen.get(name, "").split() == text.replace("99000", "").split() or "temp" in name, name
    assert seen["sys/class/thermal/thermal_zone0/temp"] == "99000\n"
    assert "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq" not in seen
    facts = dict(line.split("=", 1) for line in seen["facts.txt"].splitlines())
    assert (facts["node"], facts["release"], facts["system"]) == ("acme", "4.9.186-acme", "Linux")
    assert (lease["owner"], lease["epoch"]) == ("me \\ you", 3)
    assert 80 < lease["until_unix_s"] - time.time() < 100


def test_what_a_broken_link_left_running_ends(shell: Sequence[str], workdir: Path) -> None:
    """By its environment: nothing of another work folder, and no other file of this one."""
    seconds = [str(5000 + number + os.getpid() / 1e6) for number in range(2)]
    (workdir / "driven" / "scratch").mkdir()
    marks = (f"{workdir}:", f"{workdir}2:")
    left = [
        subprocess.Popen(["sleep", one], env={**os.environ, "POCKETBENCH_WORKDIR": mark})
        for one, mark in zip(seconds, marks, strict=True)
    ]
    assert wait_until(lambda: all(sleepers(one) for one in seconds), 5)
    done = subprocess.run([*shell, "-c", scripts.TIDY, "sh", str(workdir)], capture_output=True, timeout=20, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
    assert left[0].wait(5) == -signal.SIGKILL and left[1].poll() is None
    left[1].kill()
    left[1].wait(5)
    assert sorted(path.name for path in workdir.iterdir()) == ["driven", "home", "tmp"]
    assert sorted(path.name for path in (workdir / "driven").iterdir()) == ["files", "programs"]


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "name",
    [
        *(
            "/etc/passwd",
            "/../../etc/passwd",
            "/sys/class/thermal/thermal_zone0/../../x/temp",
            "proc/stat",
            "//proc/stat",
        ),
        *("/sys/class/thermal/thermal_zone0\n/temp", "/sys/class/thermal/thermal_zone99999/temp", "/proc/statx", "/"),
        *("/sys/class/thermal/thermal_zone٣/temp", "/facts.txt", "/proc/device-tree/model/x", "/getpropXtxt", ""),
    ],
)
def test_no_other_path_is_written(name: str, tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "deep" / "mirror")
    for line in (f"{name}:x\n", "/proc/loadavg:1\n", "end\n"):
        mirror.line(line)
    assert allowed(name) == 0
    found = sorted(str(path.relative_to(tmp_path)) for path in _files(tmp_path))
    assert found == ["deep/mirror/facts.txt", "deep/mirror/proc/loadavg"]


def test_what_is_huge_is_cut_or_refused(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "m")
    mirror.line(f"/proc/loadavg:{'9' * 1_000_000}\n")
    mirror.line("/proc/loadavg:2\n")
    mirror.line(".node:\x1b[2J\x00evil=1\n")
    mirror.line(".program.dumpsys:rm -rf\n")
    mirror.line(".program.rm:/bin/rm\n")
    mirror.line("end\n")
    assert (tmp_path / "m/proc/loadavg").read_text() == "9" * MAX_TEXT + "\n"
    assert (tmp_path / "m/facts.txt").read_text() == "node=\\x1b[2J\\x00evil=1\n"
    assert mirror.programs == {}
    with pytest.raises(Nonsense, match="more than"):
        for _ in range(MAX_LINES + 1):
            mirror.line("x\n")
    mirror = Mirror(tmp_path / "m")
    with pytest.raises(Nonsense, match="sensors"):
        for number in range(MAX_FILES + 1):
            mirror.line(f"/sys/class/thermal/thermal_zone{number}/temp:1\n")


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.text(max_size=60) | st.sampled_from(["end", "/proc/stat:cpu 1", "/proc/../x:1", ".df:1"]), max_size=20)
)
def test_whatever_a_device_says_stays_below_the_folder(lines: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        mirror = Mirror(Path(folder) / "m")
        for line in lines:
            mirror.line(line + "\n")
        assert {path.relative_to(folder).parts[0] for path in _files(Path(folder))} <= {"m"}


@given(st.text(max_size=200))
def test_whatever_stands_on_stderr_is_an_end_or_none(said: str) -> None:
    assert exited(said, "nonce") == driven.Exited(None, None)
    assert exited(f"{said}\nnonce peak 12\nnonce code 0\nnonce code x\nnonce code -1", "nonce") == driven.Exited(
        0, 12288
    )


@contextlib.contextmanager
def bridged(workdir: Path, lost: Callable[[], None] = lambda: None) -> Iterator[tuple[driven.Link, Bridge, Local]]:
    """This machine's shell as the device's."""
    here = Local("here", DeviceEntry(transport="local"))
    bridge = Bridge("here", here, str(workdir), Mirror(workdir / "mirror"), lost)
    try:
        bridge.open(["", str(workdir), '{"epoch": 0, "owner": "", "until_unix_s": '])
        yield driven.Link(**bridge.link({"OWN": "x"})), bridge, here
    finally:
        bridge.close()
        here.close()


def test_the_agent_asks_and_the_host_answers(workdir: Path) -> None:
    said: list[str] = []
    with bridged(workdir) as (link, _, _):
        told = driven.run(
            link, ["sh", "-c", 'echo "$A" "$OWN"; echo; exit 3'], {**link.environment, "A": "b"}, 9, said.append
        )
        assert (told.code, said) == (3, ["b x\n", "\n"])
        assert driven.ask(link, "sh", "-c", "echo out; echo err >&2; exit 4") == "out\n"
        assert driven.ask(link, "/no/such") == ""
        assert link.environment["POCKETBENCH_WORKDIR"] == f"{workdir}:"


def test_a_stranger_at_the_port_is_hung_up_on(workdir: Path) -> None:
    with bridged(workdir) as (link, _, _):
        for line in (
            *(b"", b"\n", b"{}\n", b"[]\n", b"x" * 2_000_000, b"[" * 100_000 + b"\n"),
            json.dumps({"token": "guess", "command": ["touch", str(workdir / "boom")], "ask": True}).encode() + b"\n",
            json.dumps({"token": link.token, "command": []}).encode() + b"\n",
        ):
            with socket.create_connection(("127.0.0.1", link.port), 5) as connection, contextlib.suppress(OSError):
                connection.sendall(line)
                connection.shutdown(socket.SHUT_WR)
                assert connection.recv(1) == b""
        assert not (workdir / "boom").exists()


def test_a_device_that_is_lost_is_told_once_and_answers_nothing(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[str] = []
    with bridged(workdir, lambda: lost.append("lost")) as (link, bridge, here):
        assert (workdir / "mirror" / "proc" / "loadavg").exists()
        # All that runs on the device ends, and so do the sessions that ask.
        monkeypatch.setattr(here, "run", _refused)
        monkeypatch.setattr(here, "spawn", _refused)
        here.close()
        assert wait_until(lambda: bridge.gone and bool(lost), 5)
        with socket.create_connection(("127.0.0.1", link.port), 5) as connection:
            connection.sendall(
                json.dumps({"token": link.token, "command": ["true"], "limit_s": 1, "environment": {}}).encode() + b"\n"
            )
            connection.settimeout(0.5)
            with pytest.raises(TimeoutError):
                connection.recv(1)
        assert lost == ["lost"] and not (workdir / "mirror" / "proc").exists()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("exit 3", "its shell does not tell what it is"),
        ("yes /proc/stat:1", "what it says of itself makes no sense: it says more than"),
        ("head -c 30000000 /dev/zero", "its shell does not tell what it is"),
    ],
)
def test_a_device_that_tells_nothing_or_too_much(
    answer: str, why: str, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pocketbench.driven.bridge.WATCH", f"exec 2>/dev/null; {answer}")
    monkeypatch.setattr("pocketbench.transports.local.END_WAIT_S", 0.3)
    begin = time.monotonic()
    with pytest.raises(NotReachable, match=f"here: {why}"), bridged(workdir):
        raise AssertionError("it was opened")
    assert time.monotonic() - begin < 15
    assert not (workdir / "mirror").exists()


def test_a_tool_that_prints_without_end(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended, and nothing of it stays in memory here: whoever reads slowly is not written to faster."""
    monkeypatch.setattr("pocketbench.driven.bridge.MAX_OUT_BYTES", 200_000)
    lines: list[str] = []
    with bridged(workdir) as (link, _, _):
        told = driven.run(link, ["yes", "x" * 100], {}, 60, lines.append)
        assert told.code == 128 + signal.SIGKILL
        assert 190_000 < sum(map(len, lines)) <= 200_200
        said = driven.run(link, ["sh", "-c", "head -c 150000 /dev/zero | tr '\\0' x"], {}, 60, lines.append)
        assert said.code == 0 and sum(map(len, lines[-3:])) == 150_000, "a line without an end is cut, and whole"


def _refused(*_: object) -> Completed:
    raise DeviceError("gone")


def test_files_are_sent_once_and_again_where_they_are_spoilt(workdir: Path, tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "m.onnx").write_bytes(b"model")
    (tmp_path / "m.data").write_bytes(b"weights")
    (tmp_path / "tool").write_bytes(b"program")
    names = {"m.onnx": "model.onnx", "m.data": "a b/it's.data"}
    model = [place(tmp_path / file, name, "x") for file, name in names.items()]
    tool = [place(tmp_path / "tool", ".tool/tool", "x")]
    here = Local("here", DeviceEntry(transport="local"))
    for _ in range(2):
        files = Files("here", here, str(workdir), said.append)
        for _ in range(2):
            files.put(model)
            files.put(tool)
            files.put([])
    assert len(said) == 3
    folders = {path.name: path for path in (workdir / "driven" / "files").iterdir()}
    folder = folders[driven.set_name((file.name, bytes.fromhex(file.sha256)) for file in model)]
    assert (folder / "a b" / "it's.data").read_bytes() == b"weights"
    (program,) = [path for path in _files(workdir / "driven" / "files") if path.name == "tool"]
    assert program.stat().st_mode & 0o777 == 0o700
    (folder / "model.onnx").write_bytes(b"modem")
    Files("here", here, str(workdir), said.append).put(model)
    assert (len(said), (folder / "model.onnx").read_bytes()) == (4, b"model")


class Full(Local):
    """Nothing has room there."""

    def run(self, command: Sequence[str], timeout_s: float) -> Completed:
        """As it is, but for df."""
        done = super().run(command, timeout_s)
        return Completed(done.code, b"/dev/x 100 90 10 90% /\n", b"") if "df -Pk" in command[2] else done


def test_what_this_run_does_not_use_goes_where_space_is_short(workdir: Path, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(bytes(1000))
    (workdir / "driven" / "files" / "old").mkdir()
    files = Files("here", Full("here", DeviceEntry(transport="local")), str(workdir), print)
    with pytest.raises(NoSpaceOnDevice, match=r"here: 0 MB are free in .*, 20 are needed; make room there"):
        files.put([place(tmp_path / "m", "m", "x")])
    assert "old" not in [path.name for path in (workdir / "driven" / "files").iterdir()]
    assert (workdir / "tmp").is_dir()


def test_arguments_name_places_of_the_device() -> None:
    places = {"/h/files/m": "/d/1/m", "/h/files/m.data": "/d/1/m.data", "/h/programs/x": "/d/p/x"}
    assert _moved("--graph=/h/files/m", places) == "--graph=/d/1/m"
    assert _moved("a|/h/files/m.data b|/h/programs/x", places) == "a|/d/1/m.data b|/d/p/x"
    assert _moved("--num_threads=1", places) == "--num_threads=1"


def test_only_a_device_elsewhere_can_be_driven(tmp_path: Path) -> None:
    path = tmp_path / "devices.yaml"
    path.write_text("devices:\n  here:\n    transport: local\n    python: host\n")
    with pytest.raises(ConfigError, match=r"devices\.yaml:\d: .*'python: host' is for devices over adb or ssh"):
        config.load(path)


class Ends:
    """A transport whose last command ends so."""

    def __init__(self, code: int) -> None:
        self.code = code

    def push(self, source: Path, target: str, sent: Sent = unheard) -> None:
        """It arrives."""

    def run(self, command: Sequence[str], timeout_s: float) -> Completed:
        """As told."""
        return Completed(self.code, b"", b"")


@pytest.mark.parametrize(("code", "why"), [(159, "SIGSYS"), (126, "noexec")])
def test_where_nothing_of_ours_can_run_the_way_out_is_told(code: int, why: str, tmp_path: Path) -> None:
    (tmp_path / "bundle").write_bytes(b"x")
    packed = bundle.Bundle(tmp_path / "bundle", "0" * 64, (3, 11, 0), 1)
    with pytest.raises(
        NotReachable, match=rf"{why}.*with 'python: host' and native_tools .* can be measured from here"
    ):
        remote._put_bundle("phone", Ends(code), packed, "/w", print)  # type: ignore[arg-type]

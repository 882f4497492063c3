"""`python -m pocketbench_agent --home DIR`: the agent.

The session's token is the first line of stdin, so that it stands in no process list. One line of JSON on
stdout is the handshake: {"protocol_min", "protocol_max", "build", "port"}; where an agent of this build has the home
already it is that one's, and this one ends; or {"busy": WHO, "left_s": SECONDS} where that cannot be. The agent ends
when it was idle for 90 s, on SIGTERM, and with --end-with-stdin when stdin closes.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import hashlib
import json
import logging
import logging.handlers
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import IO

from pocketbench_agent import PROTOCOL_MAX, PROTOCOL_MIN, handover
from pocketbench_agent.server import serve

IDLE_S = 90.0
RELEASED_IDLE_S = 0.5
HANDOVER_S = 4.0
# How often the agent looks whether it is to end; while it measures, no oftener than needed.
LOOK_S = 1.0
RELEASED_LOOK_S = 0.1
LOG_BYTES = 1_000_000

# https://man7.org/linux/man-pages/man3/mallopt.3.html: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_TOP_PAD.
_MALLOC = ((-1, 32 * 1024 * 1024), (-3, 32 * 1024 * 1024), (-2, 4 * 1024 * 1024))


def main() -> int:
    """Serve until idle, told to stop, or replaced. Exit code 0, 3 where the home is taken."""
    parser = argparse.ArgumentParser(prog="pocketbench_agent")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--idle", type=float, default=IDLE_S, help="seconds without a call or a job before it ends")
    parser.add_argument("--end-with-stdin", action="store_true", help="end when stdin closes")
    arguments = parser.parse_args()
    _tune_malloc()
    home: Path = arguments.home
    refusal = _own(home)
    if refusal:
        print(json.dumps({"error": refusal}), flush=True)
        return 2
    token = sys.stdin.readline().strip()
    if not token:
        print(json.dumps({"error": "no token on stdin"}), flush=True)
        return 2
    build = build_sha256()
    lock = _lock(home, None if arguments.end_with_stdin else handover.Request(home, build, token))
    if isinstance(lock, int):
        _greet(build, lock)
        return 0
    if lock is None:
        print(json.dumps(_holder(home)), flush=True)
        return 3
    _log_to(home / "agent.log")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if not arguments.end_with_stdin:
        # A link that hangs up takes its shell with it; a job outlives its link.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    server, agent, guard, port = serve(home, build, token)
    _greet(build, port)
    logging.info("serving protocol %d to %d, build %s", PROTOCOL_MIN, PROTOCOL_MAX, build)

    def let_in(token_sha256: str) -> None:
        # Whoever comes is about to take the lease, and must not find an agent that is leaving.
        agent.lease.released = False
        guard.let_in(token_sha256)

    if arguments.end_with_stdin:
        threading.Thread(target=_wait_for_end, args=(sys.stdin, stop), daemon=True).start()
    while not stop.wait(RELEASED_LOOK_S if agent.lease.released else LOOK_S):
        # Where no host holds its stdin, the released lease is what says that the host has gone.
        gone = not arguments.end_with_stdin and (handover.answer(home, build, port, let_in) or agent.lease.released)
        patience_s = min(arguments.idle, RELEASED_IDLE_S) if gone else arguments.idle
        # Asked whatever else holds: a lease is renewed by a running job only as long as somebody asks.
        held = agent.lease.in_force()
        if guard.idle_s() > patience_s and not agent.jobs.busy() and not held:
            break
    agent.jobs.close()
    server.stop(1.0).wait()
    logging.info("ended")
    return 0


def build_sha256() -> str:
    """A hash over the agent's own sources: what the host deployed is what runs."""
    digest = hashlib.sha256()
    folder = Path(__file__).resolve().parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _greet(build: str, port: int) -> None:
    handshake = {"protocol_min": PROTOCOL_MIN, "protocol_max": PROTOCOL_MAX, "build": build, "port": port}
    print(json.dumps(handshake), flush=True)


def _lock(home: Path, request: handover.Request | None) -> IO[str] | int | None:
    """One agent a home: the lock goes with the process, however it ends.

    An agent that its host has just released is given the moment that it needs to end. The port of the one that has
    the lock where it lets this one's host in; None where it does not in time.
    """
    file = (home / "agent.lock").open("a")
    deadline = time.monotonic() + HANDOVER_S
    try:
        while time.monotonic() < deadline:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return file
            except OSError:
                port = request.port() if request else None
                if port is not None:
                    file.close()
                    return port
            time.sleep(0.1)
    finally:
        if request is not None:
            request.withdraw()
    file.close()
    return None


def _tune_malloc() -> None:
    """Keep freed buffers of a chunk's size.

    glibc gives them back to the kernel by default, and an upload then pays for page faults on every chunk. Where the
    C library is another one there is nothing to tune. It concerns this process alone: a worker keeps the system's own
    defaults, for its memory is measured.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in _MALLOC:
            mallopt(parameter, value)


def _own(home: Path) -> str:
    """Make the home, for this user alone; why it cannot be used, or an empty string.

    Whoever may write there could let himself in, or have this user write elsewhere through a link.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if home.stat().st_uid != os.geteuid():
            return f"{home} belongs to another user: name another folder with 'workdir' in devices.yaml"
        home.chmod(0o700)
    except OSError as error:
        return f"{home} cannot be used: {error.strerror}"
    return ""


def _log_to(path: Path) -> None:
    """Only the agent that has the home writes there: two would take each other's file away when it is full."""
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=1)
    logging.basicConfig(handlers=[handler], level=logging.INFO, format="%(asctime)s %(name)s %(message)s")


def _holder(home: Path) -> dict[str, str | int]:
    try:
        told = json.loads((home / "lease.json").read_text())
        if told["owner"]:
            return {"busy": str(told["owner"]), "left_s": max(0, int(told["until_unix_s"]) - int(time.time()))}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {"busy": "another agent"}


def _wait_for_end(stream: IO[str], stop: threading.Event) -> None:
    while stream.read(4096):
        pass
    stop.set()


if __name__ == "__main__":
    sys.exit(main())

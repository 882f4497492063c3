"""The daemon's command line."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shlex
import signal
from pathlib import Path

from tests.peers.adbd.connection import BANNER, FEATURES, Options
from tests.peers.adbd.services import serve
from tests.peers.adbd.wire import LARGEST_MAXDATA, VERSION_NO_CHECKSUM


def main() -> None:
    """Read the options and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.peers.adbd", description="an ADB device daemon")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=0, help="TCP port there; 0 picks one")
    parser.add_argument("--root", type=Path, required=True, help="where commands start and relative paths lie")
    parser.add_argument("--auth", type=Path, metavar="KEYDIR", help="let in only clients with a *.pub in this folder")
    parser.add_argument("--accept-new", action="store_true", help="accept and keep any key that is offered")
    parser.add_argument("--banner", default=BANNER, help="what the device calls itself")
    parser.add_argument("--features", default=",".join(FEATURES))
    parser.add_argument("--protocol", type=lambda text: int(text, 0), default=VERSION_NO_CHECKSUM)
    parser.add_argument("--maxdata", type=int, default=LARGEST_MAXDATA, help="bytes of a packet at most")
    parser.add_argument("--shell", default="/bin/sh")
    parser.add_argument("--exec-prefix", default="", metavar="CMD", help="put before every command, e.g. a chroot")
    parser.add_argument("--sync-root", type=Path, help="below it lie the absolute paths of sync")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="for every command")
    parser.add_argument("--cut-after", type=int, metavar="BYTES", help="drop the link after so much from the client")
    parser.add_argument("--hole-after", type=int, metavar="BYTES", help="read nothing more after so much")
    parser.add_argument("--trusting", action="store_true", help="look at no checksum, as today's adbd does")
    parser.add_argument("--verbose", action="store_true", help="every packet on stderr")
    told = parser.parse_args()
    options = Options(
        root=told.root.absolute(),
        exec_prefix=tuple(shlex.split(told.exec_prefix)),
        sync_root=told.sync_root,
        shell=told.shell,
        environment=dict(word.split("=", 1) for word in told.env),
        banner=told.banner,
        features=tuple(filter(None, told.features.split(","))),
        version=told.protocol,
        maxdata=told.maxdata,
        keys=told.auth,
        accept_new=told.accept_new,
        cut_after=told.cut_after,
        hole_after=told.hole_after,
        trusting=told.trusting,
        verbose=told.verbose,
    )
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_until_told(options, told.host, told.port))


async def _until_told(options: Options, host: str, port: int) -> None:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    await serve(options, port, lambda found: print(f"PORT {found}", flush=True), host)


if __name__ == "__main__":
    main()

"""A phone for a person: its devices.yaml on stdout once it is up, until Ctrl-C."""

from __future__ import annotations

import argparse

from tests.peers.person import offer, until_told
from tests.peers.phone.machine import phone, why_not


def main() -> None:
    """Read the options and run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.peers.phone", description="an emulated arm64 phone")
    parser.add_argument("--port", type=int, default=0, help="TCP port on loopback; 0 picks one")
    told = parser.parse_args()
    until_told()
    offer(
        "phone",
        why_not(),
        phone(told.port),
        lambda started: f'transport: adb, address: "{started.address}", adb: direct',
    )


if __name__ == "__main__":
    main()

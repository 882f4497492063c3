"""A phone for a person: its devices.yaml on stdout once it is up, until Ctrl-C."""

from __future__ import annotations

import argparse
import sys

from tests.peers.person import until_told
from tests.peers.phone.machine import phone, why_not
from tests.peers.rootfs import Missing


def main() -> None:
    """Read the options and run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.peers.phone", description="an emulated arm64 phone")
    parser.add_argument("--port", type=int, default=0, help="TCP port on loopback; 0 picks one")
    told = parser.parse_args()
    until_told()
    reason = why_not()
    if reason is not None:
        sys.exit(f"No phone: {reason}")
    try:
        with phone(told.port) as started:
            print(f'---\ndevices:\n  phone: {{transport: adb, address: "{started.address}", adb: direct}}', flush=True)
            started.wait()
    except (Missing, RuntimeError) as error:
        sys.exit(f"No phone: {error}")
    sys.exit("The phone has died.")


if __name__ == "__main__":
    main()

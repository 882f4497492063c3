"""What it costs to begin: the first and the second run on a device, and each further case.

What: `bench` measures sleeping models (`null`, 1 ms, 8 runs, one process a case, no rest) on each device given: one
case on a device that has nothing of ours yet, the same again, and six cases. Wall seconds of the whole command. A
further case is what each of the five others adds, less what it was told to do (warm-up and timed runs): three workers
started, one for the times and two for the outputs. No bounds: the emulated devices of `make phone` and `make board` are
30 to 500 times slower than real ones.

    python benchmarks/startup.py devices.yaml [more.yaml]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from conditions import conditions  # type: ignore[import-not-found]

from pocketbench.config.devices import load

MORE = 6
BRIEF = ("--processes", "1", "--min-runs", "8", "--max-runs", "8", "--min-time", "0", "--cooldown", "0")
# The warm-up's half second, and eight runs of a millisecond.
TOLD_S = 0.508


def main() -> int:
    """Measure each device in turn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("devices", type=Path, nargs="+", help="devices.yaml, as `make phone` prints it")
    arguments = parser.parse_args()
    print(conditions(("grpcio", "paramiko")))
    with tempfile.TemporaryDirectory(prefix="startup-") as name:
        folder = Path(name)
        models = [_model(folder, number) for number in range(MORE)]
        devices = folder / "devices.yaml"
        devices.write_text("\n".join(f"---\n{path.read_text()}" for path in arguments.devices))
        for device in load(devices):
            first, second, six = (_bench(folder, device, some) for some in (models[:1], models[:1], models))
            each = (six - second) / (MORE - 1) - TOLD_S
            print(f"  {device:10s} first run {first:6.1f} s, second {second:5.1f} s, a further case {each:5.2f} s")
    print(conditions(("grpcio", "paramiko")))
    return 0


def _bench(folder: Path, device: str, models: Sequence[Path]) -> float:
    words = [sys.executable, "-m", "pocketbench", "--devices", "devices.yaml", "--device", device, *BRIEF]
    words += [word for model in models for word in ("--model", str(model))]
    # The user's own HOME has the keys of adb; nothing else of it is used.
    folders = {name: str(folder / name) for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME")}
    begin = time.perf_counter()
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, **folders}, capture_output=True, text=True, timeout=1200, check=False
    )
    if done.returncode:
        raise SystemExit(f"{device}: exit code {done.returncode}: {done.stderr[-2000:]}")
    return time.perf_counter() - begin


def _model(folder: Path, number: int) -> Path:
    path = folder / f"sleep{number}.null"
    path.write_text(json.dumps({"sleep_ms": 1 + number / 1e6}))
    return path


if __name__ == "__main__":
    sys.exit(main())

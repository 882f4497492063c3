"""A stand-in for the vendors' benchmark programs: it calls itself by the tool's name, takes that one's arguments, and
prints a recorded output with the numbers of runs that it was asked for. It says of itself that it emulates.

    write(folder / "benchmark_model", fixture, how)

`how`: normal, slow (two seconds), dies (in the middle, of SIGSEGV), hangs, silent (prints nothing), fails (code 1),
changes (another file the next time, as an update between two processes).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

TEMPLATE = """#!{python}
import re, sys, time, os, signal, pathlib
HOW, FIXTURE = {how!r}, {fixture!r}
NAME = pathlib.Path(sys.argv[0]).name
text = pathlib.Path(FIXTURE).read_text()
flags = dict(a[2:].split("=", 1) for a in sys.argv[1:] if a.startswith("--") and "=" in a)
if os.environ.get("STAND_IN_LOG"):
    pathlib.Path(os.environ["STAND_IN_LOG"]).open("a").write(" ".join(sys.argv[1:]) + "\\n")
known = {{"graph", "num_threads", "warmup_runs", "warmup_min_secs", "num_runs", "min_secs", "max_secs", "use_gpu",
         "use_npu", "use_nnapi", "use_xnnpack", "enable_op_profiling", "use_profiler", "external_delegate_path",
         "external_delegate_options", "input_layer", "input_layer_shape"}}
unknown = ["--" + k + "=" + v for k, v in flags.items() if k not in known]
print("emulated by a stand-in for " + NAME, flush=True)
if HOW == "silent":
    os.execvp("true", ["true"])
if unknown:
    print("WARN: Unconsumed cmdline flags: " + " ".join(unknown))
if NAME == "onnxruntime_perf_test":
    runs = int(sys.argv[sys.argv.index("-r") + 1])
    text = re.sub(r"Total inference requests: \\d+", "Total inference requests: %d" % runs, text)
    if "-v" not in sys.argv:
        text = "\\n".join(line for line in text.splitlines() if "VerifyEachNode" not in line) + "\\n"
    rows = [line for line in pathlib.Path({csv!r}).read_text().splitlines() if line.startswith("files,")]
    with open(sys.argv[-1], "a") as results:
        for run in range(runs):
            results.write(rows[run % len(rows)].rpartition(",")[0] + ",%d\\n" % run)
elif NAME == "benchncnn":
    told = dict(a.split("=", 1) for a in sys.argv[6:])
    text = text.replace("model.param", told["param"]).replace("loop_count = 60", "loop_count = " + sys.argv[1])
else:
    text = re.sub(r"count=(50|140|135|8) ", "count=%d " % int(flags["num_runs"]), text)
    text = re.sub(r"\\((50) runs\\)", "(%d runs)" % int(flags["num_runs"]), text)
    if "enable_op_profiling" not in flags:
        text = re.split(r"INFO: Profiling Info", text)[0]
if HOW == "changes":
    with open(sys.argv[0], "a") as itself:
        itself.write("# updated\\n")
lines = text.splitlines(keepends=True)
for number, line in enumerate(lines):
    if number == len(lines) // 2:
        if HOW == "dies":
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGSEGV)
        if HOW in ("hangs", "slow"):
            sys.stdout.flush()
            time.sleep(3600 if HOW == "hangs" else 2)
    print(line, end="", flush=True)
    if "Running benchmark" in line:
        time.sleep(0.05)
if HOW == "fails":
    print("ERROR: Benchmarking failed.")
    sys.exit(1)
"""


def write(path: Path, fixture: Path, how: str = "normal", results: Path | None = None) -> Path:
    """Make the stand-in; `results` is the file of single runs that onnxruntime_perf_test writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = TEMPLATE.format(python=sys.executable, how=how, fixture=str(fixture), csv=str(results or fixture))
    assert re.match(r"#!\S+\n", text)
    path.write_text(text)
    path.chmod(0o755)
    return path

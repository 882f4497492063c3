"""The files that start nights: each one's command is what bench knows, and the suite that they run is read."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pocketbench.config import suite
from tests.integration.conftest import ROOT, Bench

NIGHTLY = ROOT / "examples" / "nightly"


def command(text: str) -> list[str]:
    """The words after bench, up to what is the shell's."""
    found = re.search(r"\.venv/bin/bench ((?:[^\n]|\n {10}--)*)", text)
    assert found is not None
    return shlex.split(re.split(r"\s(?:2>>|\|\|)", found[1])[0])


def commands() -> dict[str, list[str]]:
    job = YAML(typ="safe").load((NIGHTLY / "github-actions.yml").read_text())
    steps = [step["run"] for step in job["jobs"]["nightly"]["steps"] if "bench suite" in step.get("run", "")]
    return {
        "cron": command((NIGHTLY / "crontab").read_text()),
        "systemd": command((NIGHTLY / "pocketbench-nightly.service").read_text()),
        "ci": command(steps[0]),
    }


@pytest.mark.parametrize("how", ["cron", "systemd", "ci"])
def test_a_night_is_started(bench: Bench, how: str) -> None:
    words = [word.replace("$HOME", str(bench.home)).replace("%h", str(bench.home)) for word in commands()[how]]
    (bench.home / "nightly").mkdir()
    file = bench.home / "suite.yaml"
    bench.null("a", sleep_ms=1)
    bench.null("b", sleep_ms=1)
    plan = "plan: {processes: 2, min_runs: 8, max_runs: 8, min_time_s: 0, max_time_s: 1, cooldown_s: 0}"
    file.write_text(f"suite: sim\ndevices: [local]\nmeasure: [{{models: [a.null, b.null]}}]\n{plan}\n")
    assert words[2] == "examples/nightly/suite.yaml"
    ended = bench(*words[:2], file, *words[3:])
    assert ended.code == 0, ended.stderr
    written = sorted(
        path.suffix for path in bench.home.rglob("*") if path.stem in ("latest", "nightly") and path.is_file()
    )
    assert written == ([".html", ".md", ".xml"] if how == "ci" else [".html", ".txt", ".xml"])


def test_the_suite_is_read() -> None:
    found = suite.load(NIGHTLY / "suite.yaml")
    assert all(model.is_file() for group in found.measure for model in group.models)
    assert all(group.workload is not None and group.workload.is_file() for group in found.measure)
    assert found.budget == 7200


def test_cron_and_systemd_take_their_files(tmp_path: Path) -> None:
    lines = [line for line in (NIGHTLY / "crontab").read_text().splitlines() if line and not line.startswith("#")]
    jobs = [line for line in lines if not re.match(r"[A-Z_]+=", line)]
    assert len(jobs) == 1 and re.match(r"30 1 \* \* \* \S", jobs[0]) and "%" not in jobs[0], "cron ends a line at a %"
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("no systemd-analyze here")
    for name in ("service", "timer"):
        text = (NIGHTLY / f"pocketbench-nightly.{name}").read_text()
        text = text.replace("/opt/pocketbench/.venv/bin/bench", "/bin/true").replace("/opt/pocketbench", "/")
        (tmp_path / f"pocketbench-nightly.{name}").write_text(text)
    units = [str(path) for path in sorted(tmp_path.iterdir())]
    done = subprocess.run([tool, "verify", "--man=no", *units], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

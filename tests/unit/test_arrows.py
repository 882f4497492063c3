"""The rules that keep the house in order: who may import whom, and what must not come along."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pocketbench
import pocketbench_agent

HOST = Path(pocketbench.__file__).parent
AGENT = Path(pocketbench_agent.__file__).parent
MAX_LINES = 450


def sources(folder: Path) -> list[Path]:
    found = [p for p in sorted(folder.rglob("*.py")) if "rpc" not in p.relative_to(folder).parts]
    assert found
    return found


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at its top or inside a function, and every name taken from one."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(folder: Path, forbidden: set[str]) -> list[tuple[str, str]]:
    return [
        (path.relative_to(folder).as_posix(), name)
        for path in sources(folder)
        for name in imports(path)
        if name.split(".")[0] in forbidden or name in forbidden
    ]


def test_the_agent_imports_nothing_of_the_host() -> None:
    forbidden = {
        "pocketbench",
        "torch",
        "pydantic",
        "click",
        "rich",
        "sqlalchemy",
        "tabulate",
        "ruamel",
        "platformdirs",
    }
    assert importers(AGENT, forbidden) == []


def test_the_host_runs_where_there_is_no_posix() -> None:
    forbidden = {"fcntl", "resource", "pwd", "grp", "termios", "pty", "os.fork", "os.forkpty"}
    assert importers(HOST, forbidden) == []


def test_the_host_reads_no_proc_and_forks_no_process() -> None:
    found = []
    for path in sources(HOST):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("/proc"):
                found.append((path.name, node.value))
            if isinstance(node, ast.Attribute) and node.attr in ("fork", "forkpty"):
                found.append((path.name, node.attr))
    assert found == []


def test_protobuf_is_for_the_session_alone() -> None:
    found = importers(HOST, {"grpc", "google", "pocketbench_agent.rpc"})
    assert {name.split("/")[0] for name, _ in found} == {"session"}


def test_sql_is_in_the_store_alone() -> None:
    assert {name.split("/")[0] for name, _ in importers(HOST, {"sqlalchemy"})} == {"store"}


def test_pydantic_is_for_configuration_alone() -> None:
    assert {name.split("/")[0] for name, _ in importers(HOST, {"pydantic"})} == {"config"}


@pytest.mark.parametrize("folder", [HOST, AGENT], ids=["host", "agent"])
def test_no_file_is_too_long_or_a_drawer_of_odds_and_ends(folder: Path) -> None:
    lengths = {path.relative_to(folder).as_posix(): len(path.read_text().splitlines()) for path in sources(folder)}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}
    assert [name for name in lengths if Path(name).stem in ("utils", "util", "helpers", "misc", "common")] == []


def loaded(code: str, *arguments: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after that code."""
    shown = "import sys; print('\\n'.join(sorted({name.split('.')[0] for name in sys.modules})), file=sys.stderr)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(HOST.parent), str(AGENT.parent)))}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{shown}", *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        timeout=50,
    )
    return set(done.stderr.split())


HEAVY = {"grpc", "numpy", "scipy", "sqlalchemy", "paramiko", "torch", "google", "pydantic", "rich", "tabulate"}
HELP = """
import sys
from pocketbench.cli.main import main
sys.argv = ["bench", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""


def test_the_command_line_is_light() -> None:
    assert "click" in loaded("import pocketbench.cli.main")
    assert loaded("import pocketbench.cli.main") & HEAVY == set()


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_imports_nothing_heavy(option: str) -> None:
    assert loaded(HELP, option) & HEAVY == set()


def test_a_worker_imports_no_grpc_and_nothing_of_the_host() -> None:
    found = loaded("import pocketbench_agent.worker")
    assert "numpy" in found
    assert found & {"grpc", "pocketbench", "onnxruntime", "ai_edge_litert", "concurrent", "asyncio"} <= {"concurrent"}


def test_the_meters_import_no_grpc_and_no_numpy() -> None:
    code = "import pocketbench_agent.meters.__main__, pocketbench_agent.meters.thermal"
    assert loaded(code) & {"grpc", "numpy", "pocketbench"} == set()


def test_every_reason_is_documented() -> None:
    from pocketbench.verdict.verdict import CODES

    text = (HOST.parents[1] / "docs" / "reasons.md").read_text()
    assert [code for code in CODES if f"`{code}`" not in text] == []

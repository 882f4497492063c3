"""What docs/security.md claims of the code itself, and that each of its claims has a test."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.unit.test_arrows import AGENT, HOST, importers, sources

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "security.md"
TEST = re.compile(r"`(tests/\S+?\.py)::(\w+)`")
# The user's own words, of devices.yaml on the host, for the host's shell; and a cache of the user's own networks.
SHELLS, PICKLES = {"fleet/restore.py"}, {"compress/networks.py"}


def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("folder", [HOST, AGENT], ids=["host", "agent"])
def test_nothing_is_unpickled(folder: Path) -> None:
    found = {name for name, _ in importers(folder, {"pickle", "cPickle", "dill", "shelve", "marshal", "joblib"})}
    assert found <= PICKLES
    for path in sources(folder):
        for call in calls(path):
            words = {word.arg: word.value for word in call.keywords}
            text = ast.unparse(call.func)
            assert text not in ("yaml.load", "yaml.unsafe_load"), path
            if text.endswith(("np.load", "numpy.load")):
                assert ast.unparse(words["allow_pickle"]) == "False", path
            if text.endswith("YAML"):
                assert "unsafe" not in ast.unparse(call), path


@pytest.mark.parametrize("folder", [HOST, AGENT], ids=["host", "agent"])
def test_no_text_becomes_a_command(folder: Path) -> None:
    """Programs are started by lists of words; nothing is evaluated."""
    for path in sources(folder):
        for call in calls(path):
            text = ast.unparse(call.func)
            assert text not in ("os.system", "os.popen", "eval", "exec", "subprocess.getoutput"), (path, text)
            shell = next((word.value for word in call.keywords if word.arg == "shell"), None)
            if shell is not None and path.relative_to(folder).as_posix() not in SHELLS:
                assert ast.unparse(shell) == "False", path


def test_the_host_parses_no_model() -> None:
    """Only workers, and what the user asks to compress or convert."""
    found = {name for name, _ in importers(HOST, {"onnxruntime", "ai_edge_litert", "onnx", "ncnn"})}
    assert {name for name in found if name.split("/")[0] not in ("compress", "convert")} <= {"cli/convert.py"}


def test_nothing_that_a_device_says_becomes_a_file_here() -> None:
    """What reads its answers writes no file."""
    for name in ("session/session.py", "session/wire.py", "session/wire_bounds.py", "fleet/link.py", "assemble.py"):
        for call in calls(HOST / name):
            text = ast.unparse(call)
            assert not text.endswith((".write_text", ".write_bytes", ".mkdir", ".symlink_to")), (name, text)
            if ast.unparse(call.func).endswith("open") and call.args and isinstance(call.args[0], ast.Constant):
                assert call.args[0].value == "rb", (name, text)


def test_pages_escape_what_they_show() -> None:
    """Every template that makes HTML."""
    made = [call for path in sources(HOST) for call in calls(path) if ast.unparse(call.func).endswith("Environment")]
    assert made
    for call in made:
        assert "autoescape=True" in ast.unparse(call) or "select_autoescape" in ast.unparse(call), ast.unparse(call)


def test_the_lock_is_whole() -> None:
    """What pyproject.toml asks for, each with its hashes, from nowhere in particular."""
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text and "--index" not in text and "--find-links" not in text
    locked = {}
    for entry in re.split(r"\n(?=\S)", text):
        pinned = re.match(r"([A-Za-z0-9._-]+)==(\S+)", entry)
        if pinned is not None:
            locked[canonical(pinned[1])] = pinned[2]
            assert "--hash=sha256:" in entry, pinned[1]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for asked in (*project["dependencies"], *project["optional-dependencies"]["local"]):
        requirement = Requirement(asked)
        assert locked[canonical(requirement.name)] in requirement.specifier, asked


def canonical(name: str) -> str:
    """A package by the name that indexes know."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_each_claim_has_a_test() -> None:
    tables = re.findall(r"^\| claim \| test \|\n\|---\|---\|\n((?:\|.*\n)+)", PAGE.read_text(), re.MULTILINE)
    rows = [row for table in tables for row in table.splitlines()]
    assert len(tables) == 6 and len(rows) > 30
    for row in rows:
        found = TEST.findall(row)
        assert found, f"no test for: {row}"
        for file, name in found:
            tree = ast.parse((ROOT / file).read_text())
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (file, name)

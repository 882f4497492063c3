"""The table of faults is true to its tests, and the page to the table."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from pocketbench.results import STATUSES
from pocketbench.verdict.verdict import CODES
from tests.faults.table import FAULTS, PAGE, ROOT, Fault, page


def functions(file: str) -> dict[str, ast.FunctionDef]:
    """The tests of a file."""
    tree = ast.parse((ROOT / file).read_text())
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "python -m tests.faults.table"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.fault)
def test_each_fault_has_its_test(fault: Fault) -> None:
    """The test is there, and names the reason and the exit code, where it does not leave them to a table of its own."""
    file, _, name = fault.test.partition("::")
    found = functions(file)
    assert name in found
    assert fault.status in (None, *STATUSES) and fault.reason in (None, "charging", *CODES)
    if file.startswith("tests/faults") and fault.reason is not None:
        assert fault.reason in (ROOT / file).read_text()


def test_no_test_of_a_fault_is_missing_from_the_table() -> None:
    """Of those that inject one."""
    named = {fault.test for fault in FAULTS}
    alike = {
        "test_python_code_in_a_device_list",
        "test_a_model_behind_a_link",
        "test_html_shows_what_a_device_says_as_text",
        "test_the_house_is_where_it_was",
    }
    for path in sorted(Path(ROOT / "tests/faults").glob("test_*.py")):
        if path.name not in ("test_table.py", "test_soak.py"):
            file = path.relative_to(ROOT).as_posix()
            missing = {name for name in functions(file) if name.startswith("test_")} - alike
            assert {name for name in missing if f"{file}::{name}" not in named} == set()

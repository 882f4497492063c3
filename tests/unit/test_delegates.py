"""What stands behind a delegate's name on a device."""

from __future__ import annotations

from pathlib import Path

import pytest

from pocketbench.config import devices
from pocketbench.config.delegates import setups
from pocketbench.errors import ConfigError, UsageError
from pocketbench.plan import DelegateSetup, matrix
from tests.unit import facts

FILE = """\
devices:
  board:
    transport: local
    delegates:
      npu: {options: {htp_performance_mode: burst, soc_model: 60, profile: false}}
      burst: {base: npu, options: {htp_performance_mode: burst}}
      vendor: {library: lib/libvendor.so, files: [lib/data.bin]}
      external: {options: {cache: on}}
  plain: {transport: local}
"""


@pytest.fixture
def entries(tmp_path: Path) -> dict[str, devices.DeviceEntry]:
    """The file, loaded, with its libraries beside it."""
    (tmp_path / "lib").mkdir()
    for name in ("libvendor.so", "data.bin"):
        (tmp_path / "lib" / name).write_text(name)
    (tmp_path / "devices.yaml").write_text(FILE)
    return dict(devices.load(tmp_path / "devices.yaml"))


def test_options_bases_and_libraries(entries: dict[str, devices.DeviceEntry], tmp_path: Path) -> None:
    """Options as text; libraries relative to the file; a library of no known name is an external delegate."""
    given = f"external:{tmp_path / 'lib' / 'data.bin'}"
    found = setups(["cpu", "npu", "burst", "vendor", given], "board", entries["board"])
    assert set(found) == {"npu", "burst", "vendor", given}
    assert found["npu"].base is None
    assert found["npu"].options == (("htp_performance_mode", "burst"), ("soc_model", "60"), ("profile", "false"))
    assert (found["burst"].base, found["burst"].files) == ("npu", ())
    assert (found["vendor"].base, [file.name for file in found["vendor"].files]) == (
        "external",
        [".delegate/libvendor.so", ".delegate/data.bin"],
    )
    assert (found[given].base, found[given].options) == ("external", (("cache", "on"),))
    assert setups(["cpu", "npu"], "plain", entries["plain"]) == {}


def test_what_cannot_be(entries: dict[str, devices.DeviceEntry], tmp_path: Path) -> None:
    (tmp_path / "lib" / "libvendor.so").unlink()
    with pytest.raises(UsageError, match=r"board: delegate vendor: library .*libvendor.so: no such file"):
        setups(["vendor"], "board", entries["board"])
    for text, says in {
        "{x: {files: [a]}}": "'files' lie beside a 'library'",
        "{x: {basis: npu}}": "unknown key 'basis' .did you mean 'base'.. in devices.a.delegates.x",
        "{x: 3}": "devices.a.delegates.x",
        "{x: {options: {k: [1]}}}": "devices.a.delegates.x.options.k",
    }.items():
        (tmp_path / "devices.yaml").write_text(f"devices:\n  a: {{transport: local, delegates: {text}}}\n")
        with pytest.raises(ConfigError, match=says):
            devices.load(tmp_path / "devices.yaml")


def test_another_library_or_option_is_another_case() -> None:
    model = facts.model_file("a.tflite")
    keys = {
        matrix(["pi5"], [model], [], ["npu"], [1], setups={"npu": setup} if setup else {})[0].key
        for setup in (
            None,
            DelegateSetup(options=(("mode", "1"),)),
            DelegateSetup(options=(("mode", "2"),)),
            DelegateSetup("external", (), (facts.model_file("l.so", sha256="01" * 32).files[0],)),
            DelegateSetup("external", (), (facts.model_file("l.so", sha256="02" * 32).files[0],)),
        )
    }
    assert len(keys) == 5

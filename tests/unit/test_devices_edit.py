"""Adding to devices.yaml: the user's text stays as it is, and what cannot be edited is refused and unharmed."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pocketbench.config import devices, edit
from pocketbench.errors import ConfigError, UsageError

PI = {"transport": "ssh", "host": "pi5.lan", "user": "pi"}
LINE = "pi5: {transport: ssh, host: pi5.lan, user: pi}"

CASES = {
    "block": (
        "# The lab\ndevices:\n    a: {transport: ssh,   host: x}   # mine\n\n# the end\n",
        "# The lab\ndevices:\n    a: {transport: ssh,   host: x}   # mine\n    LINE\n\n# the end\n",
    ),
    "block of blocks": (
        "devices:\n  a:\n    transport: 'ssh'\n    tags:\n    - x # why\n    # about b\n  # more\n"
        "defaults: {cooldown: 5}\n",
        "devices:\n  a:\n    transport: 'ssh'\n    tags:\n    - x # why\n  LINE\n    # about b\n  # more\n"
        "defaults: {cooldown: 5}\n",
    ),
    "none, with examples": (
        "defaults: {cooldown: auto}\ndevices: {}\n  # pi: {transport: ssh}\n",
        "defaults: {cooldown: auto}\ndevices:\n  LINE\n  # pi: {transport: ssh}\n",
    ),
    "none at all": ("devices:   # none yet\n", "devices:   # none yet\n  LINE\n"),
    "null": ("devices: null # none\ndefaults: {}\n", "devices: # none\n  LINE\ndefaults: {}\n"),
    "no such key": ("defaults: {cooldown: 5}", "defaults: {cooldown: 5}\ndevices:\n  LINE\n"),
    "flow": (
        "devices: {a: {transport: ssh, host: x}, # one\n}\n",
        "devices: {a: {transport: ssh, host: x}, LINE, # one\n}\n",
    ),
    "flow in flow": (
        "# z\n{defaults: {cooldown: 5}, devices: {}}\n",
        "# z\n{defaults: {cooldown: 5}, devices: {LINE}}\n",
    ),
    "Windows": (
        "devices:\r\n  a: {transport: ssh, host: x}\r\n# z\r\n",
        "devices:\r\n  a: {transport: ssh, host: x}\r\n  LINE\r\n# z\r\n",
    ),
    "a byte order mark": (
        "\ufeffdevices:\n  a: {transport: ssh, host: x}\n",
        "\ufeffdevices:\n  a: {transport: ssh, host: x}\n  LINE\n",
    ),
    "an alias": (
        "devices:\n  a: &a {transport: ssh, host: x}\n  b: *a\n",
        "devices:\n  a: &a {transport: ssh, host: x}\n  b: *a\n  LINE\n",
    ),
    "a block scalar": (
        "devices:\n  a:\n    transport: ssh\n    env:\n      x: |\n        one\n        # two\n\n# z\n",
        "devices:\n  a:\n    transport: ssh\n    env:\n      x: |\n        one\n        # two\n\n  LINE\n# z\n",
    ),
    "an empty last value": (
        "devices:\n  a:\n    transport: ssh\n    user:\n# z\n",
        "devices:\n  a:\n    transport: ssh\n    user:\n  LINE\n# z\n",
    ),
    "document marks": (
        "---\ndevices:\n  a: {transport: ssh, host: x}\n...\n",
        "---\ndevices:\n  a: {transport: ssh, host: x}\n  LINE\n...\n",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_only_lines_are_added(tmp_path: Path, name: str) -> None:
    before, after = CASES[name]
    path = tmp_path / "devices.yaml"
    path.write_bytes(before.encode())
    path.chmod(0o640)
    assert edit.add(path, "pi5", PI) == LINE
    assert path.read_bytes().decode() == after.replace("LINE", LINE)
    assert devices.load(path)["pi5"].host == "pi5.lan"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["devices.yaml"]


@pytest.mark.parametrize("text", ["{}\n", "devices: {}\n...\n# z\n", "defaults: {}\n...\n", "? devices\n: {}\n"])
def test_what_cannot_be_edited_is_refused_with_the_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "devices.yaml"
    path.write_text(text)
    try:
        edit.add(path, "pi5", PI)
    except ConfigError as error:
        assert LINE in str(error)
        assert path.read_text() == text
    else:
        assert devices.load(path)["pi5"].user == "pi"


def test_a_broken_file_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "devices.yaml"
    path.write_text("devices:\n  a: {transport: usb}\n")
    with pytest.raises(ConfigError, match=r"devices\.yaml:2:"):
        edit.add(path, "pi5", PI)
    assert path.read_text() == "devices:\n  a: {transport: usb}\n"


def test_what_a_dead_process_left_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edit, "WAIT_S", 0.1)
    left = tmp_path / ".devices.yaml.new"
    left.touch()
    with pytest.raises(ConfigError, match=r"if nobody is, remove .*\.devices\.yaml\.new"):
        edit.add(tmp_path / "devices.yaml", "pi5", PI)
    assert left.exists()


def test_a_new_file_and_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real.yaml", tmp_path / "link.yaml"
    edit.add(real, "pi5", PI)
    link.symlink_to(real)
    edit.add(link, "phone", {"transport": "adb", "address": "[::1]:5555"})
    assert link.is_symlink()
    assert list(devices.load(real)) == ["local", "pi5", "phone"]
    assert real.read_text().startswith("# Devices that")


names = st.from_regex(edit.NAME, fullmatch=True)
scalars = st.one_of(st.text(max_size=8), st.integers(0, 99), st.booleans(), st.none())
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner))
entries = st.fixed_dictionaries(
    {"transport": st.just("ssh"), "host": st.text(max_size=9)},
    optional={
        "env": st.dictionaries(names, st.text(max_size=5)),
        "delegates": st.dictionaries(names, values, max_size=2),
    },
)


@given(
    known=st.dictionaries(names, entries, max_size=3),
    name=names,
    host=st.text(max_size=12),
    comments=st.lists(st.text(st.characters(codec="ascii", categories=["L", "P", "Zs"])), max_size=3),
    flow=st.sampled_from([None, True, False]),
    tail=st.sampled_from(["", "# the end", "\n\n# the end\n", "defaults: {cooldown: 5}\n"]),
)
def test_whatever_is_in_the_file_stays(
    tmp_path_factory: pytest.TempPathFactory,
    known: dict[str, object],
    name: str,
    host: str,
    comments: list[str],
    flow: bool | None,
    tail: str,
) -> None:
    path = tmp_path_factory.mktemp("edit") / "devices.yaml"
    known.pop(name, None)
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.allow_unicode = flow, True
    with path.open("w", newline="") as file:
        file.writelines(f"# {comment}\n" for comment in comments)
        yaml.dump({"devices": known}, file)
        file.write(tail)
    before = path.read_bytes().decode()
    try:
        devices.load(path)
    except ConfigError:
        return
    try:
        edit.add(path, name, {"transport": "ssh", "host": host})
    except ConfigError:
        assert path.read_bytes().decode() == before
        return
    after = path.read_bytes().decode()
    loaded = devices.load(path)
    assert loaded[name].host == host
    assert {n: e for n, e in loaded.items() if n != name} == devices.load(_copy(path, before))
    assert [line for line in before.splitlines() if line.startswith("#")] == [
        line for line in after.splitlines() if line.startswith("#")
    ]


def _copy(path: Path, text: str) -> Path:
    other = path.with_name("before.yaml")
    other.write_bytes(text.encode())
    return other


KNOWN = {
    "pixel8": devices.DeviceEntry(transport="adb", tags=("phone",)),
    "pi5": devices.DeviceEntry(transport="ssh", host="x"),
}


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a b",
        "-rf",
        "two\nlines",
        "ünï",
        "a: {}",
        "all",
        "local",
        "pixel8",
        "phone",
        "x" * 64,
        "a/b",
        "#",
        "'",
        "..",
    ],
)
def test_a_name_that_would_mislead_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"^--name "):
        edit.check_name(name, KNOWN)


@pytest.mark.parametrize("name", ["5", "yes", "null", "1e3", "0x1f", "no", "2024-01-01", "1_0", "pi5.lan", "~"])
def test_a_name_that_yaml_would_take_for_something_else(tmp_path: Path, name: str) -> None:
    if name != "~":
        edit.check_name(name, KNOWN)
    edit.add(tmp_path / "devices.yaml", name, PI)
    assert list(devices.load(tmp_path / "devices.yaml")) == ["local", name]


@pytest.mark.parametrize(
    ("model", "fallback", "proposal"),
    [
        ("Google Pixel 7", "phone", "pixel7"),
        ("Raspberry Pi 5 Model B Rev 1.0", "host", "pi5-2"),
        ("Raspberry Pi 4 Model B", "host", "pi4"),
        ("", "board.lan", "boardlan"),
        ("日本", "日本", "device"),
        ("phone", "", "phone-2"),
        ("samsung SM-S911B", "", "samsungsms911b"),
        ("x" * 300, "", "x" * 24),
        ("all", "", "all-2"),
    ],
)
def test_a_proposal_is_short_valid_and_free(model: str, fallback: str, proposal: str) -> None:
    assert edit.propose_name(model, fallback, KNOWN) == proposal


@given(st.text(), st.text())
def test_every_proposal_is_a_valid_name(model: str, fallback: str) -> None:
    edit.check_name(edit.propose_name(model, fallback, KNOWN), KNOWN)


def test_where_a_new_device_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(devices.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert edit.target(None) == Path("devices.yaml")
    assert edit.target(tmp_path / "new.yaml") == tmp_path / "new.yaml"
    with pytest.raises(UsageError, match="does not exist"):
        edit.target(tmp_path / "no" / "new.yaml")
    with pytest.raises(UsageError, match="is a folder"):
        edit.target(tmp_path)
    monkeypatch.setenv(devices.VARIABLE, str(tmp_path / "named.yaml"))
    assert edit.target(None) == tmp_path / "named.yaml"

"""devices.yaml: every error names the file, the line, the key and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from pocketbench.config import devices
from pocketbench.errors import ConfigError, UsageError

GOOD = """\
# The lab.
defaults: {cooldown: 5, tags: [lab]}
devices:
  pixel8: {transport: adb, serial: 37101, tags: [phone, nightly]}
  pi5:
    transport: ssh
    host: pi5.lan
    user: pi
    power: {meter: hwmon, sign: -1, switch: {off: "uhubctl -a 0", on: "uhubctl -a 1"}}
  pi4: {transport: ssh, host: pi4.lan, cooldown: auto, cpus: [2, 3]}
""".replace("serial: 37101", 'serial: "37101"')


def write(folder: Path, text: str) -> Path:
    path = folder / "devices.yaml"
    path.write_text(text)
    return path


def test_a_file_of_several_documents(tmp_path: Path) -> None:
    """As `make phone` and `make board` print them, one after the other."""
    path = tmp_path / "devices.yaml"
    phone = "---\ndevices:\n  phone: {transport: adb, address: 'h:1'}\n"
    path.write_text(f"{phone}---\ndefaults: {{user: pi}}\ndevices:\n  board: {{transport: ssh, host: h}}\n")
    found = devices.load(path)
    assert list(found) == ["local", "phone", "board"]
    assert (found["phone"].user, found["board"].user) == (None, "pi")
    path.write_text(phone + phone)
    with pytest.raises(ConfigError, match=r"devices.yaml:6: phone is in the file twice"):
        devices.load(path)


def test_without_a_file_there_is_local() -> None:
    assert {name: entry.transport for name, entry in devices.load(None).items()} == {"local": "local"}


def test_a_good_file(tmp_path: Path) -> None:
    found = devices.load(write(tmp_path, GOOD))
    assert list(found) == ["local", "pixel8", "pi5", "pi4"]
    assert (found["pixel8"].serial, found["pixel8"].tags) == ("37101", ("phone", "nightly"))
    assert found["pi5"].power is not None
    assert (found["pi5"].power.sign, found["pi5"].power.switch) == (-1, {"off": "uhubctl -a 0", "on": "uhubctl -a 1"})
    assert found["pi4"].cpus == (2, 3)


def test_defaults_are_merged_and_the_device_wins(tmp_path: Path) -> None:
    found = devices.load(write(tmp_path, GOOD))
    assert {name: found[name].cooldown for name in ("pixel8", "pi5", "pi4")} == {"pixel8": 5, "pi5": 5, "pi4": "auto"}
    assert (found["pi5"].tags, found["pixel8"].tags) == (("lab",), ("phone", "nightly"))
    assert found["local"].cooldown is None


def test_a_device_named_local_is_the_users(tmp_path: Path) -> None:
    found = devices.load(write(tmp_path, "devices:\n  local: {transport: local, tags: [here]}\n"))
    assert found["local"].tags == ("here",)


ERRORS = {
    "unknown key": (
        "devices:\n  pi5:\n    transport: ssh\n    hosst: pi5.lan\n",
        [":4:", "unknown key 'hosst'", "did you mean 'host'?", "devices.pi5"],
    ),
    "unknown key, flow style": ("devices:\n  pi5: {transport: ssh,\n    usr: x}\n", [":3:", "'usr'", "'user'"]),
    "unknown key of power": (
        "devices:\n  pi5:\n    transport: ssh\n    power:\n      metre: ina\n",
        [":5:", "unknown key 'metre'", "did you mean 'meter'?", "devices.pi5.power"],
    ),
    "unknown key of the file": ("\ndevice:\n  pi5: {transport: ssh}\n", [":2:", "'device'", "did you mean 'devices'?"]),
    "unknown key of defaults": (
        "defaults:\n  cooldwn: 5\ndevices:\n  pi5: {transport: ssh}\n",
        [":2:", "unknown key 'cooldwn'", "did you mean 'cooldown'?"],
    ),
    "unknown key of defaults without devices": ("defaults:\n  cooldwn: 5\n", [":2:", "'cooldwn'", "'cooldown'"]),
    "wrong default": ("devices:\n  pi5: {transport: ssh}\ndefaults: {cooldown: x}\n", [":3:", "cooldown"]),
    "no transport": ("devices:\n  pi4: {transport: ssh}\n  pi5: {host: x}\n", [":3:", "devices.pi5.transport"]),
    "wrong transport": ("devices:\n  pi5: {transport: usb}\n", [":2:", "devices.pi5.transport", "'adb'"]),
    "port too large": ("devices:\n  pi5:\n    transport: ssh\n    port: 70000\n", [":4:", "devices.pi5.port", "65535"]),
    "number for a text": (
        "devices:\n  p:\n    transport: adb\n    serial: 37\n",
        [":4:", "devices.p.serial", "string"],
    ),
    "a list of devices": ("devices:\n  - pi5\n", [":1:", "devices", "dictionary"]),
    "a device that is a word": ("devices:\n  pi5: ssh\n", [":2:", "devices.pi5", "dictionary"]),
    "a number as name": ("devices:\n  5: {transport: ssh}\n", [":2:", "devices.5", "string"]),
    "not a mapping": ("- pi5\n- pixel8\n", [":1:", "mapping with the key 'devices'"]),
    "an empty file": ("", [":1:", "mapping with the key 'devices'"]),
    "malformed": ("devices:\n  pi5: {transport: ssh\n  pi4: {}\n", [":3:", "not YAML"]),
    "a tab": ("devices:\n\tpi5: {transport: ssh}\n", [":2:", "not YAML"]),
    "a key twice": ("devices:\n  a: {transport: ssh}\n  a: {transport: adb}\n", [":3:", "duplicate key"]),
    "an unknown anchor": ("devices:\n  a: *none\n", [":2:", "not YAML"]),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_names_file_line_key_and_hint(tmp_path: Path, name: str) -> None:
    text, expected = ERRORS[name]
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        devices.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}{expected[0]} ")
    assert [part for part in expected[1:] if part not in message] == []
    assert not message.endswith(("in ", "in"))


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n\x00\x00", b"\xff\xfe\x00d", b"devices: \x00\x01"])
def test_a_binary_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "devices.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"devices\.yaml.*: (cannot be read|not YAML)"):
        devices.load(path)


def test_select_prefers_a_name_to_a_tag(tmp_path: Path) -> None:
    text = "devices:\n  a: {transport: ssh, tags: [b]}\n  b: {transport: ssh, tags: [c]}\n  c: {transport: ssh}\n"
    found = devices.load(write(tmp_path, text))
    assert devices.select(["b"], found) == ["b"]
    assert devices.select(["c"], found) == ["c"]


def test_select_by_tag_all_and_several_words(tmp_path: Path) -> None:
    found = devices.load(write(tmp_path, GOOD))
    assert devices.select(["lab"], found) == ["pi5", "pi4"]
    assert devices.select(["all"], found) == ["pixel8", "pi5", "pi4"]
    assert devices.select(["pi4", "lab", "phone", "pi4"], found) == ["pi4", "pi5", "pixel8"]
    assert devices.select(["local"], found) == ["local"]
    assert devices.select([], found) == []


def test_all_of_no_file_is_local() -> None:
    assert devices.select(["all"], devices.load(None)) == ["local"]


@pytest.mark.parametrize(("word", "near"), [("pixle8", "pixel8"), ("nightli", "nightly"), ("locall", "local")])
def test_an_unknown_device_gets_the_nearest_name(tmp_path: Path, word: str, near: str) -> None:
    with pytest.raises(UsageError, match=rf"unknown device '{word}' \(did you mean '{near}'\?\); known: local, pixel8"):
        devices.select([word], devices.load(write(tmp_path, GOOD)))


def test_find_goes_from_the_option_to_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(devices.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert devices.find(None) is None
    users = tmp_path / "config" / "pocketbench" / "devices.yaml"
    users.parent.mkdir(parents=True)
    users.touch()
    assert devices.find(None) == users
    write(tmp_path, GOOD)
    assert devices.find(None) == Path("devices.yaml")
    named = tmp_path / "named.yaml"
    named.touch()
    monkeypatch.setenv(devices.VARIABLE, str(named))
    assert devices.find(None) == named
    assert devices.find(tmp_path / "devices.yaml") == tmp_path / "devices.yaml"


def test_find_refuses_what_was_named_and_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"--devices .*none\.yaml: no such file"):
        devices.find(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="is a folder"):
        devices.find(tmp_path)
    monkeypatch.setenv(devices.VARIABLE, str(tmp_path / "none.yaml"))
    with pytest.raises(UsageError, match=f"^{devices.VARIABLE} "):
        devices.find(None)


@pytest.mark.parametrize("workdir", ["/a:b", "/a\\nb", "/a\\x1bb"])
def test_a_workdir_that_no_path_list_could_hold(workdir: str, tmp_path: Path) -> None:
    text = f'devices:\n  pi5: {{transport: ssh, host: h, workdir: "{workdir}"}}\n'
    with pytest.raises(ConfigError, match=r":2: devices\.pi5\.workdir: .*a colon, or a character"):
        devices.load(write(tmp_path, text))

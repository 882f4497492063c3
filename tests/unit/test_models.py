"""Model files: what belongs together, what is refused, names that cannot harm a terminal."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketbench.errors import UsageError
from pocketbench.models import external_data, open_model, place, printable
from tests.unit import facts


def save(path: Path, location: str | None, tensors: int = 2) -> Path:
    """A real .onnx with its weights inside, or in the file `location` beside it."""
    weights = [onnx.numpy_helper.from_array(np.full((64, 64), k, np.float32), f"w{k}") for k in range(tensors)]
    nodes = [onnx.helper.make_node("MatMul", [f"h{k}", f"w{k}"], [f"h{k + 1}"]) for k in range(tensors)]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "net",
        [value("h0", onnx.TensorProto.FLOAT, [1, 64])],
        [value(f"h{tensors}", onnx.TensorProto.FLOAT, [1, 64])],
        weights,
    )
    model = onnx.helper.make_model(graph)
    if location is None:
        onnx.save(model, str(path))
    else:
        onnx.save(
            model,
            str(path),
            save_as_external_data=True,
            all_tensors_to_one_file=True,
            location=location,
            size_threshold=0,
        )
    return path


def relocated(path: Path, location: str) -> Path:
    """A real .onnx whose weights are said to lie elsewhere."""
    model = onnx.load(str(save(path, "w.data")), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())
    return path


def test_a_model_of_one_file(tmp_path: Path) -> None:
    path = save(tmp_path / "Net.V2.onnx", None)
    model = open_model(path)
    assert external_data(path) == set()
    assert (model.name, model.file_name, model.suffix, model.format) == ("Net.V2", "Net.V2.onnx", ".onnx", "onnx")
    assert [file.name for file in model.files] == ["model.onnx"]
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert model.bytes == path.stat().st_size


@pytest.mark.parametrize("location", ["net.onnx.data", "weights/net.bin", "ünï.data"])
def test_external_data_belongs_to_the_model(tmp_path: Path, location: str) -> None:
    (tmp_path / location).parent.mkdir(exist_ok=True)
    path = save(tmp_path / "net.onnx", location)
    data = tmp_path / location
    assert external_data(path) == {location}
    model = open_model(path)
    assert [(file.name, file.path) for file in model.files] == [("model.onnx", path), (location, data)]
    assert model.files[1].sha256 == hashlib.sha256(data.read_bytes()).hexdigest()
    assert model.bytes == path.stat().st_size + data.stat().st_size


def test_every_file_of_external_data_is_found(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    model = onnx.load(str(save(path, None, tensors=3)))
    onnx.save(model, str(path), save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=0)
    assert external_data(path) == {"w0", "w1", "w2"}
    assert len(open_model(path).files) == 4


def test_missing_external_data_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx", "w.data")
    (tmp_path / "w.data").unlink()
    with pytest.raises(UsageError, match=r"external data file 'w\.data' is missing"):
        open_model(path)


@pytest.mark.parametrize("location", ["model.onnx", "./model.onnx"])
def test_external_data_that_is_named_like_the_model_on_the_device(tmp_path: Path, location: str) -> None:
    path = relocated(tmp_path / "net.onnx", location)
    (tmp_path / "w.data").rename(tmp_path / "model.onnx")
    model = open_model(path)
    assert len({PurePosixPath(file.name) for file in model.files}) == 2
    assert model.files[1].name == location
    assert model.files[0].name.endswith(".onnx")


@pytest.mark.parametrize("location", ["../secret", "a/../../secret", "{absolute}"])
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(b"x" * 40_000)
    (tmp_path / "in").mkdir()
    path = relocated(tmp_path / "in" / "net.onnx", location.format(absolute=tmp_path / "secret"))
    with pytest.raises(UsageError, match="outside its folder"):
        open_model(path)


@pytest.mark.parametrize("location", ["", ".", "nul\0byte"])
def test_a_location_that_is_no_file_is_missing(tmp_path: Path, location: str) -> None:
    path = relocated(tmp_path / "net.onnx", location)
    with pytest.raises(UsageError, match="is missing"):
        open_model(path)


def test_a_truncated_model_never_stops_the_host(tmp_path: Path) -> None:
    whole = save(tmp_path / "net.onnx", "w.data").read_bytes() + save(tmp_path / "in.onnx", None).read_bytes()
    path = tmp_path / "cut.onnx"
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        assert external_data(path) <= {"w.data"}


@given(st.binary(max_size=300))
def test_random_bytes_never_stop_the_host(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "random.onnx"
    path.write_bytes(data)
    external_data(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--model .*none\.tflite: no such file"):
        open_model(tmp_path / "none.tflite")
    (tmp_path / "dir.onnx").mkdir()
    with pytest.raises(UsageError, match=r"dir\.onnx: is a folder"):
        open_model(tmp_path / "dir.onnx")
    with pytest.raises(UsageError, match="--inputs"):
        place(tmp_path / "none.npz", "inputs.npz", "--inputs")


def test_an_empty_file_is_for_the_device_to_judge(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    assert open_model(tmp_path / "empty.onnx").bytes == 0


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain-1.0 ünï 模型", "plain-1.0 ünï 模型"),
        ("a\nb", r"a\nb"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("tab\there", r"tab\there"),
        ("bell\x07 del\x7f", r"bell\x07 del\x7f"),
        ("rtl\u202eexe", r"rtl\u202eexe"),
        ("zero\u200bwidth", r"zero\u200bwidth"),
        ("raw\udcff", r"raw\udcff"),
    ],
)
def test_printable_names(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert facts.model_file(f"{text}.onnx").file_name == f"{shown}.onnx"


@given(st.text())
def test_printable_gives_one_printable_line(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)


@pytest.mark.parametrize(
    ("name", "kind"), [("a.tflite", "tflite"), ("a.ONNX", "onnx"), ("a.ort", "onnx"), ("a.null", None)]
)
def test_formats(name: str, kind: str | None) -> None:
    assert facts.model_file(name).format == kind

"""What a finished file takes and gives, as whoever deploys it has to know it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pocketbench.compress.recipe import in_order


def told(path: Path, form: str) -> Mapping[str, Any]:
    """`inputs` and `outputs` with name, dtype and shape, in the file's order; of TFLite the signature as well, and the
    scale and zero point of what is quantized. A size that is open is its name, or None.

    Our ONNX files take and give floats, which their own first and last nodes quantize: there is no scale to tell.
    """
    return _onnx(path) if form == "onnx" else _tflite(path)


def _onnx(path: Path) -> Mapping[str, Any]:
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}

    def described(values: Iterable[Any]) -> list[Mapping[str, Any]]:
        return [
            {
                "name": one.name,
                # A sequence has none.
                "dtype": onnx.helper.tensor_dtype_to_np_dtype(kind).name if kind else None,
                "shape": [max(0, dim.dim_value) or dim.dim_param or None for dim in one.type.tensor_type.shape.dim],
            }
            for one in values
            for kind in (one.type.tensor_type.elem_type,)
            if one.name not in constants
        ]

    return {"inputs": described(graph.input), "outputs": described(graph.output)}


def _tflite(path: Path) -> Mapping[str, Any]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    signature = interpreter.get_signature_runner()

    def described(details: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = []
        for name in in_order(details):
            scale, zero = details[name]["quantization"]
            shape = [int(size) for size in details[name]["shape"]]
            one = {"name": name, "dtype": details[name]["dtype"].__name__, "shape": shape}
            found.append({**one, "scale": float(scale), "zero_point": int(zero)} if scale else one)
        return found

    return {
        "signature": next(iter(interpreter.get_signature_list())),
        "inputs": described(signature.get_input_details()),
        "outputs": described(signature.get_output_details()),
    }

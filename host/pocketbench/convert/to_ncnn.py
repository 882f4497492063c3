"""From ONNX to ncnn through pnnx, a program of its own: on a copy, and what it made is compared before it is kept."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pocketbench.compress import onnx_graph
from pocketbench.compress.compare import apart
from pocketbench.compress.recipe import Inputs
from pocketbench.convert import programs
from pocketbench.errors import UsageError
from pocketbench.scratch import scratch
from pocketbench_agent.errors import NotAvailable, StageError
from pocketbench_agent.runtimes import Array, LoadOptions, create

# Of each channel of each output, against the source's: what rounding in half precision leaves.
LEAST_COSINE = 0.999
EXTRA = "pip install pnnx ncnn"


def convert(file: Path, shapes: Mapping[str, Sequence[int]], samples: Sequence[Inputs], target: Path) -> list[str]:
    """Write `target` (.param) with its .bin beside it; findings in sentences. UsageError says why there is none."""
    with scratch() as folder:
        copy = Path(folder) / "network.onnx"
        if len(onnx_graph.files(file)) > 1:
            # pnnx reads one file.
            copy.write_bytes(onnx_graph.load(file).SerializeToString())
        else:
            shutil.copyfile(file, copy)
        sizes = ",".join(f"[{','.join(map(str, dims))}]f32" for dims in shapes.values())
        command = [str(_pnnx()), copy.name, f"inputshape={sizes}"]
        try:
            done = programs.run(command, Path(folder))
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UsageError(f"pnnx did not end well: {error}") from error
        param, weights = copy.with_name("network.ncnn.param"), copy.with_name("network.ncnn.bin")
        if done.returncode or not param.is_file() or not weights.is_file():
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise UsageError(
                f"pnnx made nothing of {file.name}: {said[-1] if said else f'exit code {done.returncode}'}"
            )
        worst = _compare(file, [param, weights], shapes, samples)
        shutil.copyfile(weights, target.with_suffix(".bin"))
        shutil.copyfile(param, target)
    return [f"outputs agree with the source's: a cosine of {worst:.5f} in the worst output"]


def _pnnx() -> Path:
    """The program: its package has it as a file, or it is on the path."""
    found = importlib.util.find_spec("pnnx")
    for folder in (found.submodule_search_locations or []) if found else []:
        for name in ("pnnx", "pnnx.exe"):
            path = Path(folder) / name
            if path.is_file():
                # Its wheel does not always say that it is a program.
                path.chmod(path.stat().st_mode | 0o111)
                return path
    on_path = shutil.which("pnnx")
    if on_path is None:
        raise UsageError(f"--to ncnn needs pnnx: {EXTRA}")
    return Path(on_path)


def _compare(file: Path, made: Sequence[Path], shapes: Mapping[str, Sequence[int]], samples: Sequence[Inputs]) -> float:
    try:
        source = _answers("onnxruntime", [file], {name: tuple(dims) for name, dims in shapes.items()}, samples)
        # pnnx names inputs by their position.
        numbered = {f"in{position}": tuple(dims) for position, dims in enumerate(shapes.values())}
        result = _answers("ncnn", made, numbered, samples)
    except (NotAvailable, StageError) as error:
        raise UsageError(f"what pnnx made cannot be compared with {file.name}: {error} ({EXTRA})") from error
    found = apart(source, result)
    bad = [one for one in found if one.cosine < LEAST_COSINE or one.collapsed]
    if bad:
        raise UsageError(
            f"what pnnx made answers otherwise than {file.name}: a cosine of {bad[0].cosine:.4f} in output "
            f"{bad[0].output}; it was not kept"
        )
    return min(one.cosine for one in found)


def _answers(
    name: str, files: Sequence[Path], shapes: Mapping[str, tuple[int, ...]], samples: Sequence[Inputs]
) -> list[list[Array]]:
    """Flat rows of each output, for ncnn leaves the batch out of its shapes."""
    runtime = create(name)
    runtime.load(files, LoadOptions(threads=1, shapes=shapes))
    found = []
    for sample in samples:
        runtime.bind([np.ascontiguousarray(array) for array in sample])
        runtime.run()
        found.append([array.copy() for array in runtime.read()])
    runtime.close()
    return [[array.reshape(-1, array.shape[-1]) for array in arrays] for arrays in found]

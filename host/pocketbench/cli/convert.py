"""`bench convert`: a network's file in other formats, through the stages that recipes begin with."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

from pocketbench.errors import UsageError
from pocketbench.request import parse_shape

if TYPE_CHECKING:
    from pocketbench.workload import Workload

# What both are compared with: as many made-up inputs.
COMPARED = 8
NCNN = "ncnn"


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--to", "formats", multiple=True, required=True, type=click.Choice(["onnx", "tflite", "ncnn"]), help="Repeatable."
)
@click.option(
    "--shape", "shapes", multiple=True, metavar="NAME=1x3x640x640", help="Of an input whose shape is open. Repeatable."
)
@click.option("--output", type=click.Path(path_type=Path), default=Path(), help="Folder for the files; default: here.")
@click.option("--debug", is_flag=True, help="Tracebacks instead of one-line errors.")
def convert(file: Path, formats: tuple[str, ...], shapes: tuple[str, ...], output: Path, debug: bool) -> None:
    """Convert FILE, a float .onnx network, and compare what both answer to made-up inputs."""
    from pocketbench.compress import pipeline
    from pocketbench.compress.quiet import terminal
    from pocketbench.compress.recipe import parse

    if file.suffix.lower() != ".onnx" or not file.is_file():
        raise UsageError(
            f"{file}: an .onnx file is needed; a torch network has `bench compress WORKLOAD --recipe fp32`"
        )
    if not output.is_dir():
        raise UsageError(f"--output {output}: no such folder")
    sizes = _sizes(file, {name: list(dims) for name, dims in map(parse_shape, shapes)})
    work = _workload(file, list(sizes.values()))
    recipes = [one for one in dict.fromkeys(formats) if one != NCNN]
    with terminal() as say:
        outcome = list(pipeline.make(work, [parse("fp32")], recipes, output, say)) if recipes else []
    failed = NCNN in formats and not _to_ncnn(file, sizes, work, output)
    for one in outcome:
        if isinstance(one, pipeline.Failed):
            failed = True
            click.echo(f"{one.format}: not made: {one.why}", err=True)
        else:
            click.echo(f"{one.path}: {one.path.stat().st_size / 1e6:.2f} MB")
            for finding in one.findings:
                click.echo(f"{one.format}: {finding}")
    sys.exit(3 if failed else 0)


def _to_ncnn(file: Path, sizes: dict[str, list[int]], work: Workload, output: Path) -> bool:
    from pocketbench.convert import to_ncnn

    target = output / f"{file.stem}.param"
    try:
        findings = to_ncnn.convert(file, sizes, list(work.module.calibration_batches()), target)
    except UsageError as error:
        click.echo(f"ncnn: not made: {error}", err=True)
        return False
    size = target.stat().st_size + target.with_suffix(".bin").stat().st_size
    click.echo(f"{target}: {size / 1e6:.2f} MB with its .bin")
    for finding in findings:
        click.echo(f"ncnn: {finding}")
    return True


def _workload(file: Path, sizes: list[list[int]]) -> Workload:
    """One whose network is the file, and whose samples are made up."""
    import numpy as np

    from pocketbench.workload import Workload

    # Absolute, as model() is asked for a path that holds from anywhere.
    file = file.absolute()

    def samples() -> Any:
        rng = np.random.default_rng(0)
        for _ in range(COMPARED):
            yield tuple(rng.random(size, dtype=np.float32) for size in sizes)

    module = ModuleType("converted")
    module.model = lambda: file  # type: ignore[attr-defined]
    module.calibration_batches = samples  # type: ignore[attr-defined]
    return Workload(file, hashlib.sha256(file.read_bytes()).hexdigest(), module)


def _sizes(file: Path, shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    """Of the inputs by name, in the file's order. UsageError: one is open, or no float, or a name is not an input's."""
    from pocketbench.compress.recipe import missing_extra

    try:
        import onnx

        from pocketbench.compress import onnx_graph
    except ModuleNotFoundError as error:
        raise missing_extra(error) from error
    graph = onnx_graph.load(file).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = {one.name: one.type.tensor_type for one in graph.input if one.name not in weights}
    for name in shapes:
        if name not in inputs:
            raise UsageError(f"--shape {name}: {file.name} has inputs {', '.join(inputs)}")
    for name, kind in inputs.items():
        if kind.elem_type != onnx.TensorProto.FLOAT:
            held = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
            raise UsageError(f"{file.name}: input {name!r} is {held}: only networks with float32 inputs are converted")
        given = [dim.dim_value for dim in kind.shape.dim]
        wanted = shapes.setdefault(name, given)
        if 0 in wanted:
            raise UsageError(
                f"{file.name}: input {name!r} has open dimensions: --shape {name}="
                + "x".join(str(d or 1) for d in given)
            )
        if len(wanted) != len(given) or any(have not in (0, want) for have, want in zip(given, wanted, strict=False)):
            raise UsageError(f"--shape {name}: {wanted} does not fit {file.name}, where 0 is open: {given}")
    return {name: shapes[name] for name in inputs}

"""`bench convert`: a network's file in other formats, through the stages that recipes begin with."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

from pocketbench.errors import UsageError
from pocketbench.request import parse_shape

if TYPE_CHECKING:
    from pocketbench.compress.recipe import Inputs
    from pocketbench.workload import Workload

# What both are compared with: as many made-up inputs.
COMPARED = 8
NCNN = "ncnn"
ONNX, PROGRAM = ".onnx", ".pt2"
# What ONNX and torch call it.
FLOAT = ("float", "float32")


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
    """Convert FILE, a float .onnx or .pt2 network, and compare what both answer to made-up inputs."""
    from pocketbench.compress import pipeline, source
    from pocketbench.compress.failures import interruptible
    from pocketbench.compress.quiet import terminal
    from pocketbench.compress.recipe import missing_extra, parse
    from pocketbench.scratch import scratch

    if file.suffix.lower() not in (ONNX, PROGRAM) or not file.is_file():
        raise UsageError(
            f"{file}: an .onnx file is needed, or a .pt2 of torch.export.save; any other torch network has "
            "`bench compress WORKLOAD --recipe fp32`"
        )
    program = file.suffix.lower() == PROGRAM
    if program and NCNN in formats:
        raise UsageError(f"--to ncnn takes an .onnx file: convert {file.name} --to onnx first")
    if not output.is_dir():
        raise UsageError(f"--output {output}: no such folder")
    asked = {name: list(dims) for name, dims in map(parse_shape, shapes)}
    recipes = [one for one in dict.fromkeys(formats) if one != NCNN]
    with scratch() as folder, terminal() as say, interruptible():
        try:
            network, sizes = (_program if program else _onnx)(file, asked, Path(folder))
            work = _workload(file, network)
            # As they are, not item by item: the first dimension need not be one of items.
            read = source.Read(source.network(work), _samples(sizes.values()))
        except ModuleNotFoundError as error:
            raise missing_extra(error) from error
        outcome = list(pipeline.make(work, [parse("fp32")], recipes, output, say, read=read)) if recipes else []
        failed = NCNN in formats and not _to_ncnn(network, sizes, read.samples, output)
    for one in outcome:
        if isinstance(one, pipeline.Failed):
            failed = True
            click.echo(f"{one.format}: not made: {one.why}", err=True)
        else:
            click.echo(f"{one.path}: {one.path.stat().st_size / 1e6:.2f} MB")
            for finding in one.findings:
                click.echo(f"{one.format}: {finding}")
    sys.exit(3 if failed else 0)


def _onnx(file: Path, asked: dict[str, list[int]], folder: Path) -> tuple[Path, dict[str, list[int]]]:
    """The file, or one of fixed shapes where it has open ones, and the shapes of its inputs."""
    from pocketbench.convert import onnx_file

    known = onnx_file.inputs(file)
    sizes = _sizes(file, known, asked)
    if sizes == {name: dims for name, (_, dims) in known.items()}:
        return file.absolute(), sizes
    fixed = folder / file.name
    onnx_file.fix(file, sizes, fixed)
    return fixed, sizes


def _program(file: Path, asked: dict[str, list[int]], _: Path) -> tuple[Any, dict[str, list[int]]]:
    from pocketbench.compress.quiet import quiet

    # Its libraries say what they did not find for other machines.
    with quiet():
        from pocketbench.convert import exported
    made = exported.load(file)
    return made, _sizes(file, exported.inputs(made), asked)


def _sizes(file: Path, known: Mapping[str, tuple[str, list[int]]], asked: dict[str, list[int]]) -> dict[str, list[int]]:
    """Of the inputs by name, in order. UsageError: one is open, or no float, or a name is not an input's."""
    for name in asked:
        if name not in known:
            raise UsageError(f"--shape {name}: {file.name} has inputs {', '.join(known)}")
    sizes = {}
    for name, (held, given) in known.items():
        if held not in FLOAT:
            raise UsageError(f"{file.name}: input {name!r} is {held}: only networks with float32 inputs are converted")
        wanted = sizes[name] = asked.get(name, given)
        if 0 in wanted:
            raise UsageError(
                f"{file.name}: input {name!r} has open dimensions: --shape {name}="
                + "x".join(str(d or 1) for d in given)
            )
        if len(wanted) != len(given) or any(have not in (0, want) for have, want in zip(given, wanted, strict=False)):
            raise UsageError(f"--shape {name}: {wanted} does not fit {file.name}, where 0 is open: {given}")
    return sizes


def _workload(file: Path, network: Any) -> Workload:
    """One that gives the network."""
    from pocketbench.workload import Workload

    module = ModuleType("converted")
    module.model = lambda: network  # type: ignore[attr-defined]
    return Workload(file, hashlib.sha256(file.read_bytes()).hexdigest(), module)


def _samples(sizes: Iterable[Sequence[int]]) -> list[Inputs]:
    """Made up."""
    import numpy as np

    rng = np.random.default_rng(0)
    return [tuple(np.asarray(rng.random(size, np.float32)) for size in sizes) for _ in range(COMPARED)]


def _to_ncnn(file: Path, sizes: Mapping[str, list[int]], samples: Sequence[Inputs], output: Path) -> bool:
    from pocketbench.convert import to_ncnn

    target = output / f"{file.stem}.param"
    try:
        findings = to_ncnn.convert(file, sizes, samples, target)
    except UsageError as error:
        click.echo(f"ncnn: not made: {error}", err=True)
        return False
    size = target.stat().st_size + target.with_suffix(".bin").stat().st_size
    click.echo(f"{target}: {size / 1e6:.2f} MB with its .bin")
    for finding in findings:
        click.echo(f"ncnn: {finding}")
    return True

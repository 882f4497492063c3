"""`bench compress`: artifacts of a workload's network, one a recipe and format."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pocketbench.errors import UsageError


@click.command()
@click.argument("workload", type=click.Path(path_type=Path))
@click.option("--recipe", "recipes", multiple=True, required=True, help="int8-static, prune:0.5+fp16, … Repeatable.")
@click.option("--to", "formats", multiple=True, type=click.Choice(["onnx", "tflite"]), help="Default: both.")
@click.option(
    "--target", type=click.Choice(["x86_64", "aarch64"]), help="Processor that it is for; default: this one's."
)
@click.option("--output", type=click.Path(path_type=Path), default=Path(), help="Folder for the files; default: here.")
@click.option("--debug", is_flag=True, help="Tracebacks instead of one-line errors.")
def compress(
    workload: Path, recipes: tuple[str, ...], formats: tuple[str, ...], target: str | None, output: Path, debug: bool
) -> None:
    """Make artifacts of WORKLOAD's network: a Python file with model(), and what its recipes need besides."""
    from tabulate import tabulate

    from pocketbench.compress import pipeline
    from pocketbench.compress.artifact import Artifact
    from pocketbench.compress.failures import interruptible
    from pocketbench.compress.quiet import terminal
    from pocketbench.compress.recipe import FORMATS, parse
    from pocketbench.workload import load

    chosen = [parse(text) for text in dict.fromkeys(recipes)]
    if not output.is_dir():
        raise UsageError(f"--output {output}: no such folder")
    with terminal() as say, interruptible():
        outcome = list(
            pipeline.make(load(workload, scores=False), chosen, formats or FORMATS, output, say, target or "")
        )
    made = [one for one in outcome if isinstance(one, Artifact)]
    failed = [one for one in outcome if isinstance(one, pipeline.Failed)]
    if made:
        headings = ["file", "recipe", "format", "size MB", "sha256"]
        rows = [[m.path.name, m.recipe, m.format, f"{m.path.stat().st_size / 1e6:.2f}", m.sha256[:12]] for m in made]
        click.echo(tabulate(rows, headings, tablefmt="simple", disable_numparse=True))
    for artifact in made:
        for finding in artifact.findings:
            click.echo(f"{artifact.recipe} for {artifact.format}: {finding}")
    for missing in failed:
        click.echo(f"{missing.recipe} for {missing.format}: not made: {missing.why}", err=True)
    sys.exit(3 if failed else 0)

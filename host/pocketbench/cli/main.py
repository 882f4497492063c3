"""`bench`: the root command measures; everything else is a subcommand in a file of its own, imported when used."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from pocketbench import __version__
from pocketbench.cli import streams
from pocketbench.cli.options import refuse_before_subcommand
from pocketbench.errors import PocketbenchError, UsageError

# Short help stands here so that `bench --help` imports no subcommand.
SUBCOMMANDS: Mapping[str, tuple[str, str]] = {
    "compress": ("pocketbench.cli.compress:compress", "Smaller files of a workload's network, by recipe."),
    "convert": ("pocketbench.cli.convert:convert", "A network's file in another format."),
    "devices": ("pocketbench.cli.devices:devices", "Devices: list, add, check, shell, log."),
    "history": ("pocketbench.cli.history:history", "Earlier results of the store."),
    "compare": ("pocketbench.cli.compare:compare", "Two results: is there a difference?"),
    "suite": ("pocketbench.cli.suite:suite", "What a file names, run once or night by night."),
    "baseline": ("pocketbench.cli.baseline:baseline", "What nights are held against: show, pin, accept."),
    "report": ("pocketbench.cli.report:report", "The pages of a night that is over."),
    "export": ("pocketbench.cli.export:export", "The store's results as CSV or Parquet."),
    "store": ("pocketbench.cli.store:store", "Keep the results store small."),
    "worker": ("pocketbench.cli.worker:worker", "Measure on this host's devices what a lab's queue has for them."),
    "queue": ("pocketbench.cli.queue:queue", "What waits in a lab's queue, for which device, and for how long."),
    "rerun": ("pocketbench.cli.rerun:rerun", "Measure an earlier run or result again."),
}


class Root(click.Group):
    """A group that measures when no subcommand is given, and refuses its options before one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The subcommands by name."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand when it is run."""
        if cmd_name not in SUBCOMMANDS:
            return None
        module, _, attribute = SUBCOMMANDS[cmd_name][0].partition(":")
        found: click.Command = getattr(importlib.import_module(module), attribute)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of subcommands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in SUBCOMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """An unknown word may be a model that lacks its --model."""
        word = args[0]
        if word not in SUBCOMMANDS and ("." in word or Path(word).exists()):
            raise click.UsageError(f"unexpected {word!r}: a model is given with --model {word}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=Root,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--device", "devices", multiple=True, metavar="NAME", help="Device or tag; 'all', 'local'. Repeatable.")
@click.option("--model", "models", multiple=True, type=click.Path(path_type=Path), help="Model file. Repeatable.")
@click.option(
    "--delegate",
    "delegates",
    multiple=True,
    metavar="NAME",
    help="What computes: cpu (default), gpu, npu, a vendor's name. Repeatable.",
)
@click.option(
    "--threads", "threads", multiple=True, type=click.IntRange(1, 1024), help="Threads; default 1. Repeatable."
)
@click.option(
    "--runtime",
    "runtimes",
    multiple=True,
    metavar="NAME[==VERSION]",
    help="litert, tflite-runtime, onnxruntime, ncnn, native, null; default by suffix. Repeatable.",
)
@click.option("--workload", type=click.Path(path_type=Path), help="Python file with score(predict): adds accuracy.")
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    metavar="RECIPE",
    help="Compress the workload's network so, and measure that and the original. Repeatable.",
)
@click.option(
    "--search",
    type=click.FloatRange(0, 10_000, min_open=True),
    metavar="MINUTES",
    help="Try recipes for so long, cheapest first, and measure the best of them.",
)
@click.option(
    "--to",
    "formats",
    multiple=True,
    type=click.Choice(["onnx", "tflite"]),
    help="Formats of the recipes; default: all that are read. Repeatable.",
)
@click.option("--goal", metavar="BOUNDS", help="accuracy>=-1pt,p50<=16ms: name the variant that wins; exit 1 if none.")
@click.option("--inputs", type=click.Path(path_type=Path), help=".npz by input name or position; default: seeded.")
@click.option(
    "--shape", "shapes", multiple=True, metavar="NAME=1x3x640x640", help="Static shape of an input. Repeatable."
)
@click.option("--signature", metavar="NAME", help="Signature of a .tflite file.")
@click.option("--cpus", metavar="LIST", help="Cores to run on, such as 0-3,6.")
@click.option(
    "--processes", type=click.IntRange(1, 1000), default=6, show_default=True, help="Worker processes a case."
)
@click.option(
    "--min-runs",
    type=click.IntRange(1, 1_000_000),
    default=120,
    show_default=True,
    help="Timed runs a process, at least.",
)
@click.option(
    "--max-runs",
    type=click.IntRange(1, 1_000_000),
    default=10_000,
    show_default=True,
    help="Timed runs a process, at most.",
)
@click.option(
    "--min-time",
    type=click.FloatRange(0, 3600),
    default=0.5,
    show_default=True,
    help="Timed seconds a process, at least.",
)
@click.option(
    "--max-time",
    type=click.FloatRange(0, 3600, min_open=True),
    default=10.0,
    show_default=True,
    help="Timed seconds a process, at most.",
)
@click.option(
    "--cooldown",
    metavar="auto|SECONDS",
    default="auto",
    show_default=True,
    help="Rest before each process; auto waits for heat and load.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0, 10_000, min_open=True),
    metavar="HZ",
    help="Frames arrive at this rate, done or not: latency from the arrival, deadlines missed.",
)
@click.option(
    "--sustained",
    type=click.FloatRange(1, 86_400),
    metavar="SECONDS",
    help="Run back to back for so long in one process: a curve of latency, clock and heat.",
)
@click.option(
    "--energy",
    is_flag=False,
    flag_value="30",
    default=None,
    metavar="[SECONDS]",
    help="Energy an inference: a phase of its own, 30 s at work between idle windows.",
)
@click.option("--profile", is_flag=True, help="Also: where an inference's time goes, by op; in a session of its own.")
@click.option("--require-full-delegation", is_flag=True, help="Exit 1 unless the accelerator took every node.")
@click.option(
    "--fail-on", "fail_on", multiple=True, metavar="CODE", help="Exit 1 where a row has this reason. Repeatable."
)
@click.option(
    "--format", "form", type=click.Choice(["table", "markdown", "csv", "json"]), default="table", show_default=True
)
@click.option("--output", type=click.Path(path_type=Path), help="Write there instead of stdout.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Kept with the results. Repeatable.")
@click.option(
    "--resume",
    is_flag=False,
    flag_value="",
    default=None,
    metavar="[ID]",
    help="Go on with the last unfinished run of the same plan.",
)
@click.option(
    "--devices",
    "devices_file",
    type=click.Path(path_type=Path),
    help="devices.yaml; else $POCKETBENCH_DEVICES, ./devices.yaml, the user's.",
)
@click.option("--store", metavar="PATH|URL", help="Results store; default in the user's data folder.")
@click.option(
    "--debug", is_flag=True, help="Tracebacks instead of one-line errors; devices keep the jobs with their events."
)
@click.version_option(__version__, prog_name="bench")
@click.pass_context
def root(ctx: click.Context, /, **options: Any) -> None:
    """Measure model files on devices and compare them.

    bench --device local --model m.tflite
    """
    if ctx.invoked_subcommand is not None:
        refuse_before_subcommand(ctx, options)
        return
    from pocketbench.cli.run import run

    ctx.exit(run(options))


def main() -> None:
    """The entry point: one line on stderr for every error, a traceback only with --debug."""
    streams.ensure()
    debug = "--debug" in sys.argv
    # What gRPC's own library says of links that broke is said in our words.
    if not debug:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        code = root.main(standalone_mode=False, prog_name="bench")
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        # One line first that names the offending thing; the usage text is a command away.
        context = getattr(error, "ctx", None)
        hint = f"\nTry '{context.command_path} --help' for help." if context else ""
        click.echo(f"Error: {error.format_message()}{hint}", err=True)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except PocketbenchError as error:
        if debug:
            raise
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:
        if debug:
            raise
        text = f"Error: {type(error).__name__}: {error} (a defect of pocketbench; --debug shows where)"
        click.echo(text, err=True)
        sys.exit(3)


__all__ = ["UsageError", "main", "root"]

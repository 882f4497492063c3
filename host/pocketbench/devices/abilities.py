"""What each runtime can really compute with on a device: tried with a tiny model, one worker process a delegate.

Nothing is believed that a list says. What was found is remembered for `bench devices`, which starts nothing anywhere.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs

from pocketbench.config.delegates import setups
from pocketbench.config.devices import DeviceEntry
from pocketbench.deploy.runtimes import archive
from pocketbench.errors import NotReachable
from pocketbench.measurement import Process
from pocketbench.models import ModelFile, open_model
from pocketbench.plan import CPU, DELEGATES, EXTERNAL, PLAIN, Case, Plan, RuntimeChoice
from pocketbench.session.session import Session
from pocketbench.session.wire import JobFiles
from pocketbench.verdict.runtime_reasons import software_stands_in

# One run: it is asked who computes, not how fast.
ONCE = Plan(
    processes=1,
    min_runs=1,
    max_runs=1,
    min_time_s=0.0,
    max_time_s=0.1,
    warm_up_min_runs=1,
    warm_up_min_time_s=0.0,
    warm_up_max_time_s=0.0,
)
# health.onnx is relu(2 x + 0.5) over four numbers, health.tflite a + 2 b.
MODELS: Mapping[str, str] = {"litert": "health.tflite", "onnxruntime": "health.onnx"}
NCNN = "7767517\n2 2\nInput in0 0 1 in0 0=8 1=4 2=3\nReLU relu 1 1 in0 out0\n"
# Which words of the vocabulary can mean something to a runtime.
WORDS: Mapping[str, Sequence[str]] = {
    "litert": ("cpu", "gpu", "npu"),
    "onnxruntime": tuple(word for word in DELEGATES if word != "vulkan"),
    "ncnn": ("cpu", "vulkan"),
}


@dataclass(frozen=True)
class Ability:
    """A delegate as it was tried. took: full partial none unknown, or how the attempt ended; `absent` is not there."""

    runtime: str
    version: str
    delegate: str
    took: str
    nodes: int = 0
    nodes_delegated: int = 0
    adapter: str = ""
    software: bool = False
    message: str = ""

    @property
    def works(self) -> bool:
        """Did it compute anything?"""
        return self.took in ("full", "partial", "unknown")

    @property
    def label(self) -> str:
        """For a list: which delegate of which runtime, and whether software stands in for hardware."""
        return f"{self.runtime} {self.delegate}{' (software)' if self.software else ''}"

    @property
    def text(self) -> str:
        """In a line."""
        name = f"{self.runtime} {self.version} {self.delegate}".replace("  ", " ")
        on = f" on {self.adapter.partition(',')[0]}" if self.adapter else ""
        stand_in = ", which is software" if self.software else ""
        told = {
            "full": f"takes all {self.nodes} nodes of a tiny model{on}{stand_in}" if self.nodes else "computes",
            "partial": f"takes {self.nodes_delegated} of {self.nodes} nodes of a tiny model{on}{stand_in}",
            "none": "is there, and takes no node: everything runs on the CPU",
            "unknown": f"computes, and does not tell how much{on}",
            "absent": f"is not there: {self.message}",
        }
        return f"{name}: {told.get(self.took, f'{self.took}: {self.message}')}"


def probe(
    name: str, entry: DeviceEntry, session: Session, scratch: Path, say: Callable[[str], None]
) -> Iterator[Ability]:
    """Try every delegate of every runtime that the agent has, and of LiteRT, which can be sent everywhere."""
    for runtime in WORDS:
        if runtime not in session.info.runtimes and runtime != "litert":
            continue
        choice = RuntimeChoice(runtime)
        try:
            files = JobFiles(runtime_archive=archive(choice, session.info, say))
        except NotReachable as error:
            yield Ability(runtime, "", "cpu", "absent", message=str(error))
            continue
        own = [word for word in entry.delegates if word not in (*WORDS[runtime], EXTERNAL)]
        words = [*WORDS[runtime], *own]
        behind = setups(words, name, entry)
        model = _model(runtime, scratch)
        for word in words:
            signature = "add" if runtime == "litert" else None
            case = Case(name, model, choice, word, signature=signature, setup=behind.get(word, PLAIN))
            job_id = f"probe.{uuid.uuid4().hex}"
            process = session.measure(case, ONCE, files, 0, job_id)
            session.acknowledge(job_id)
            yield _judged(case, process)


def remember(name: str, identity: str, found: Sequence[Ability]) -> None:
    """For `bench devices`; `identity` is the survey's. A cache that cannot be written costs only that."""
    doc = {"identity": identity, "time_unix_s": round(time.time()), "abilities": [asdict(one) for one in found]}
    with suppress(OSError):
        _path(name).parent.mkdir(parents=True, exist_ok=True)
        _path(name).write_text(json.dumps(doc, indent=1))


def remembered(name: str, identity: str) -> list[Ability]:
    """What was last found on that device; empty where nothing was, it cannot be read, or the name is another's now."""
    try:
        doc = json.loads(_path(name).read_text())
        return [Ability(**one) for one in doc["abilities"]] if doc["identity"] == identity else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _path(name: str) -> Path:
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    return Path(platformdirs.user_cache_dir("pocketbench")) / "abilities" / f"{plain}.json"


def _model(runtime: str, scratch: Path) -> ModelFile:
    if runtime in MODELS:
        return open_model(Path(__file__).with_name(MODELS[runtime]))
    path = scratch / "tiny.param"
    path.write_text(NCNN)
    path.with_suffix(".bin").write_bytes(b"")
    return open_model(path)


def _judged(case: Case, process: Process) -> Ability:
    ended, placed = process.ended, process.placed
    version = process.facts.runtime_version if process.facts else ""
    about = (case.runtime.name, version, case.delegate)
    if ended.how != "ok":
        took = {"unavailable": "absent", "signal": "crashes", "timeout": "hangs"}.get(ended.how, "fails")
        return Ability(*about, took, message=ended.message)
    if case.delegate_base == CPU:
        return Ability(*about, "full")
    if placed is None or placed.coverage is None:
        return Ability(*about, "unknown", adapter=placed.adapter if placed else "")
    return Ability(
        *about, placed.coverage, placed.nodes, placed.delegated, placed.adapter, software_stands_in(placed) is not None
    )

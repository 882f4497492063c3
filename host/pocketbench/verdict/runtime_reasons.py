"""Reasons that concern what a runtime says of itself: where it ran, which build it was, whose figures they are."""

from __future__ import annotations

from collections.abc import Sequence

from pocketbench.measurement import Placed, Process
from pocketbench.results import Reason

# As Mesa, Google, Microsoft and Qualcomm call theirs; "cpu / software" is WebGPU's own word for a kind of adapter.
SOFTWARE_ADAPTERS = ("llvmpipe", "lavapipe", "swiftshader", "softpipe", "basic render", "simulator", "cpu / software")


def partial(placed: Placed) -> Reason | None:
    """A part of the graph ran on the CPU: how much, where that is known."""
    left = placed.nodes - placed.delegated
    if placed.stated == "partial":
        told = "a part of the graph ran on the CPU (how much, the runtime does not say)"
        return Reason("partial_delegation", "warn", "latency", told)
    if not 0 < left < placed.nodes:
        return None
    ops = ", ".join(f"{op} x{count}" for op, count in sorted(placed.on_cpu.items(), key=lambda item: -item[1])[:5])
    told = f"{left} of {placed.nodes} nodes ran on the CPU ({ops or 'which, it does not say'})"
    if placed.partitions:
        told += f", the rest in {placed.partitions} partition{'s' if placed.partitions > 1 else ''}"
    return Reason("partial_delegation", "warn", "latency", told)


def software_stands_in(placed: Placed | None) -> Reason | None:
    """The adapter calls itself by a name that software has."""
    name = placed.adapter if placed is not None else ""
    if not any(word in name.lower() for word in SOFTWARE_ADAPTERS):
        return None
    told = f"{name.partition(',')[0]} is software on the CPU: its times are not those of a GPU or NPU"
    return Reason("software_adapter", "note", "latency", told)


def told_by_tool(processes: Sequence[Process]) -> Reason | None:
    """Figures are a vendor's tool's own: what it does not tell is said."""
    if not any(p.facts and p.facts.inputs_from == "tool" for p in processes):
        return None
    told = "latency is what the tool says, on inputs of its own: when it reads the clock cannot be checked here"
    if not any(len(p.run_ns) for p in processes):
        told += "; it tells statistics, and no single runs"
        told += "" if any(p.p50_ns is not None for p in processes) else " nor a median, so that there is no p50"
    return Reason("told_by_tool", "note", "latency", told)


def driven() -> Reason:
    """Nothing of ours was on the device while it was measured."""
    told = "started by the device's shell over its link: sensors were read once a second, and its clocks not at all"
    return Reason("driven_from_host", "note", "latency", told)


def changed(processes: Sequence[Process]) -> Reason | None:
    """Processes of one case ran in different builds."""
    versions = dict.fromkeys(p.facts.runtime_version for p in processes if p.facts is not None)
    if len(versions) < 2:
        return None
    told = f"the runtime was another one between processes: {', '.join(versions)}"
    return Reason("runtime_changed", "invalid", "latency", told)

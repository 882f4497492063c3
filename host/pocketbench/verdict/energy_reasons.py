"""The verdict on energy: why a number of joules may not be what it seems. Its scope is energy: latency is left alone.

As in verdict.py each reason is one small pure function, and the thresholds are the table below and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pocketbench.figures.energy import Found
from pocketbench.figures.power_sources import MOST_W
from pocketbench.results import Reason
from pocketbench.verdict import heat

THRESHOLDS: Mapping[str, float] = {
    # Fewer steps of a counter or of a gauge, and the end of the window decides the figure.
    "steps": 20,
    # Idle before and after may differ by this share of the power at work.
    "idle_drift": 0.10,
    # A whole device at work draws no less.
    "least_w": 0.001,
    # At work a device may seem to draw less than idle by this share: noise.
    "below_idle": 0.05,
    "rejected_share": 0.10,
    # Of the window at work, how far off the clock of a meter on the host may be.
    "clock_share": 0.01,
    "suspend_ns": 100_000_000,
}


@dataclass(frozen=True)
class EnergyEvidence:
    """What was found, and what devices.yaml promises of the supply."""

    found: Found
    external_supply: bool = False


def judge(evidence: EnergyEvidence) -> list[Reason]:
    """Every reason that holds."""
    return [reason for check in CHECKS if (reason := check(evidence)) is not None]


def charging(e: EnergyEvidence) -> Reason | None:
    """The battery was charged, or the device fed past it: the meter does not see what the device takes."""
    if e.external_supply or not e.found.charging:
        return None
    told = "the device was charging or fed from outside while its energy was measured"
    return _invalid("charging", f"{told}: cut it (power.switch), or say power.external_supply")


def energy_resolution(e: EnergyEvidence) -> Reason | None:
    """The meter moved too seldom or not at all, or was not there for all of the work."""
    found, least = e.found, THRESHOLDS["steps"]
    if found.source is None:
        return None
    if found.unseen:
        rails = ", ".join(f"{rail} for {share:.0%}" for rail, share in found.unseen.items())
        told = f"the work was not seen by every rail of {found.source.name} ({rails} of it)"
        return _invalid("energy_resolution", f"{told}: look at what else reads them, or name others (power.rails)")
    if found.energy is None:
        return _invalid("energy_resolution", f"{found.source.name} was read, but no inference was counted at work")
    doubts = []
    if found.steps < least:
        told = f"{found.source.name} moved {found.steps} times at work"
        if not found.steady:
            return _invalid("energy_resolution", f"{told}; {least:.0f} needed: a longer --energy, or a finer meter")
        doubts.append(f"{told}: either the load was as steady, or it sees no more of it")
    if found.energy.idle_mj is None:
        told = f"{found.source.name} moved {found.idle_steps} times in an idle window"
        doubts.append(f"{told}: idle and net energy are unknown")
    return Reason("energy_resolution", "warn", "energy", "; ".join(doubts)) if doubts else None


def energy_implausible(e: EnergyEvidence) -> Reason | None:
    """Sign, unit or size cannot be right."""
    found = e.found
    if found.source is None:
        return None
    if found.source.problem:
        return _invalid("energy_implausible", found.source.problem)
    rejected = sum(rail.rejected for rail in found.source.rails)
    read = sum(len(rail.t_ns) for rail in found.source.rails)
    if rejected > THRESHOLDS["rejected_share"] * (read + rejected):
        told = f"{rejected} of {read + rejected} readings of {found.source.name} jumped or made no sense"
        return _invalid("energy_implausible", told)
    if found.work_w is None:
        return None
    if not THRESHOLDS["least_w"] <= found.work_w <= MOST_W:
        told = f"{found.source.name} says {found.work_w:.3g} W at work: look at power.sign and power.unit"
        return _invalid("energy_implausible", told)
    energy, floor = found.energy, 1 - THRESHOLDS["below_idle"]
    if energy is None or energy.idle_mj is None or energy.gross_mj >= energy.idle_mj * floor:
        return None
    told = f"{found.source.name} says {found.work_w:.3g} W at work, less than the {found.before_w:.3g} W idle before"
    return _invalid("energy_implausible", told)


def energy_idle_drift(e: EnergyEvidence) -> Reason | None:
    """Idle before and after differ: what net would be taken from is not known."""
    found = e.found
    if found.energy is None or found.energy.idle_mj is None or not found.work_w:
        return None
    assert found.before_w is not None and found.after_w is not None
    if abs(found.after_w - found.before_w) <= THRESHOLDS["idle_drift"] * abs(found.work_w):
        return None
    told = f"idle took {found.before_w:.3g} W before and {found.after_w:.3g} W after, at work {found.work_w:.3g} W"
    return _invalid("energy_idle_drift", told)


def throttled(e: EnergyEvidence) -> Reason | None:
    """The ceiling of what computes moved while energy was measured, which latency's processes cannot tell."""
    told = heat.throttled(e.found.readings)
    return _invalid("throttled", f"while energy was measured: {told}") if told else None


def suspended(e: EnergyEvidence) -> Reason | None:
    """The device slept: what it took meanwhile is no inference's. Without its supply nothing keeps a phone awake."""
    clocks = [r for r in e.found.readings if (r.source, r.quantity) == ("clock", "boottime")]
    slept = max((r.ahead_ns for r in clocks), default=0)
    if slept < THRESHOLDS["suspend_ns"]:
        return None
    return _invalid("suspended", f"the device slept for {slept / 1e9:.1f} s while its energy was measured")


def energy_clock(e: EnergyEvidence) -> Reason | None:
    """A meter on the host whose clock is not known well enough against the device's."""
    found = e.found
    if not found.work_s or found.clock_bound_s <= THRESHOLDS["clock_share"] * found.work_s:
        return None
    told = f"the meter's clock is known within {found.clock_bound_s:.2g} s of the device's, of {found.work_s:.3g} s"
    return _invalid("energy_clock", told)


def energy_unavailable(e: EnergyEvidence) -> Reason | None:
    """There is no meter, or none that answers."""
    if e.found.source is not None:
        return None
    return Reason("energy_unavailable", "note", "energy", f"no energy was measured: {e.found.missing}")


def counter_wrapped(e: EnergyEvidence) -> Reason | None:
    """A counter began again, which was made up for."""
    wraps = sum(rail.wraps for rail in e.found.source.rails) if e.found.source else 0
    if not wraps:
        return None
    return Reason("counter_wrapped", "note", "energy", f"an energy counter began again {wraps} times: made up for")


CHECKS: Sequence[Callable[[EnergyEvidence], Reason | None]] = (
    charging,
    energy_resolution,
    energy_implausible,
    energy_idle_drift,
    throttled,
    suspended,
    energy_clock,
    energy_unavailable,
    counter_wrapped,
)


def _invalid(code: str, message: str) -> Reason:
    return Reason(code, "invalid", "energy", message)

"""What sensors say of heat, and of the limits that it sets: in words, or None where there is nothing to say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pocketbench.measurement import Process

# Outside of this a sensor is off or speaks another unit.
PLAUSIBLE_MILLICELSIUS = (-40_000, 150_000)
# Cooling devices that slow what computes; a fan that turns takes nothing away.
SLOWS = re.compile(r"cpu|gpu|processor|devfreq|powerclamp", re.IGNORECASE)


def plausible(millicelsius: Iterable[int]) -> list[int]:
    """Without the sentinels of sensors that are off."""
    lowest, highest = PLAUSIBLE_MILLICELSIUS
    return [value for value in millicelsius if lowest <= value <= highest]


def ceiling_fell(processes: Sequence[Process], share: float) -> str | None:
    """A policy's ceiling below that share of its highest value."""
    seen: dict[str, list[int]] = {}
    for reading in (r for p in processes for r in p.readings if r.quantity == "ceiling" and r.value):
        seen.setdefault(reading.source, []).extend(reading.value)
    for source, khz in seen.items():
        if min(khz) < share * max(khz):
            return f"{source}: the clock's ceiling fell from {max(khz) / 1000:.0f} to {min(khz) / 1000:.0f} MHz"
    return None


def cooled(processes: Sequence[Process]) -> str | None:
    """A cooling device that slows what computes was at work."""
    for reading in (r for p in processes for r in p.readings if r.quantity == "state" and r.value):
        if max(reading.value) > 0 and SLOWS.search(reading.source.rpartition(":")[2]):
            return f"{reading.source} was in state {max(reading.value)}: the device was slowed to cool it"
    return None


def firmware_limits(processes: Sequence[Process], moderate: float) -> str | None:
    """Android, or a Raspberry Pi's firmware, says that it holds back."""
    statuses = [v for p in processes for r in p.readings if r.quantity == "thermal_status" for v in r.value]
    if max(statuses, default=0) >= moderate:
        return f"Android's thermal status was {max(statuses)} (2: moderate)"
    bits = [v for p in processes for r in p.readings if r.quantity == "throttled" for v in r.value]
    # Bits 0 to 3 hold now; 16 to 19 have held since boot, so only new ones speak of these runs.
    new = {(v & 0xF) | (v & ~bits[0]) for v in bits}
    return f"get_throttled says {max(new):#x}: low voltage or heat capped the clock" if any(new) else None

"""What sensors say of heat, and of the limits that it sets: in words, or None where there is nothing to say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pocketbench.measurement import Reading

# Outside of this a sensor is off or speaks another unit.
PLAUSIBLE_MILLICELSIUS = (-40_000, 150_000)
# Of the highest clock ceiling that was seen; firmware rounds.
CEILING_SHARE = 0.995
# Android's PowerManager.THERMAL_STATUS_MODERATE.
ANDROID_MODERATE = 2
# Cooling devices that slow what computes, by words of their types; none of `input`, `output`, `transport`.
SLOWS = re.compile(
    r"cpu|gpu|(?<!i)npu|(?<!ou)tpu|apu|cdsp|(?<![a-z])nsp|processor|devfreq|powerclamp",
    re.IGNORECASE,
)
# One that turns takes nothing away, whatever it cools.
FAN = re.compile(r"fan", re.IGNORECASE)


def plausible(millicelsius: Iterable[int]) -> list[int]:
    """Without the sentinels of sensors that are off."""
    lowest, highest = PLAUSIBLE_MILLICELSIUS
    return [value for value in millicelsius if lowest <= value <= highest]


def throttled(readings: Sequence[Reading]) -> str | None:
    """The ceiling of what computes moved while these were read."""
    return _ceiling_fell(readings) or _cooled(readings) or _firmware_limits(readings)


def _ceiling_fell(readings: Sequence[Reading]) -> str | None:
    seen: dict[str, list[int]] = {}
    for reading in (r for r in readings if r.quantity == "ceiling" and r.value):
        seen.setdefault(reading.source, []).extend(reading.value)
    for source, khz in seen.items():
        if min(khz) < CEILING_SHARE * max(khz):
            return f"{source}: the clock's ceiling fell from {max(khz) / 1000:.0f} to {min(khz) / 1000:.0f} MHz"
    return None


def _cooled(readings: Sequence[Reading]) -> str | None:
    for reading in (r for r in readings if r.quantity == "state" and r.value):
        kind = reading.source.rpartition(":")[2]
        if max(reading.value) > 0 and SLOWS.search(kind) and not FAN.search(kind):
            return f"{reading.source} was in state {max(reading.value)}: the device was slowed to cool it"
    return None


def _firmware_limits(readings: Sequence[Reading]) -> str | None:
    """Android, or a Raspberry Pi's firmware, says that it holds back."""
    statuses = [v for r in readings if r.quantity == "thermal_status" for v in r.value]
    if max(statuses, default=0) >= ANDROID_MODERATE:
        return f"Android's thermal status was {max(statuses)} (2: moderate)"
    bits = [v for r in readings if r.quantity == "throttled" for v in r.value]
    # Bits 0 to 3 hold now; 16 to 19 have held since boot, so only new ones speak of these runs.
    new = {(v & 0xF) | (v & ~bits[0]) for v in bits}
    return f"get_throttled says {max(new):#x}: low voltage or heat capped the clock" if any(new) else None

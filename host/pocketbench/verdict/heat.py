"""What sensors say of heat, and of the limits that it sets: in words, or None where there is nothing to say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from pocketbench.measurement import Reading

# Outside of this a sensor is off or speaks another unit.
PLAUSIBLE_MILLICELSIUS = (-40_000, 150_000)
# A zone that reports whole degrees stays within this, and so would no device that works.
WHOLE_DEGREES = 1_000
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


def zones(readings: Iterable[Reading]) -> list[Reading]:
    """The temperatures that can be believed, millicelsius: without the sentinels of sensors that are off, and without
    the zones that speak another unit.
    """
    return [zone for r in readings if r.quantity == "temperature" and (zone := _plausible(r)).value]


def hottest(readings: Iterable[Reading]) -> int | None:
    """The highest of each zone's newest, millicelsius; None where no zone can be believed."""
    return max((zone.value[-1] for zone in zones(readings)), default=None)


def _plausible(reading: Reading) -> Reading:
    """Without what is no temperature; empty where all lie within a degree of freezing: 45 is a whole 45 degrees, and
    what is measured here does not freeze.
    """
    lowest, highest = PLAUSIBLE_MILLICELSIUS
    told = [(t, v) for t, v in zip(reading.t_ns, reading.value, strict=True) if lowest <= v <= highest]
    if all(abs(v) <= WHOLE_DEGREES for _, v in told):
        told = []
    return replace(reading, t_ns=tuple(t for t, _ in told), value=tuple(v for _, v in told))


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

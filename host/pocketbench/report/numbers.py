"""Numbers for people."""

from __future__ import annotations

from collections.abc import Sequence


def significant(value: float) -> str:
    """Three significant digits, without an exponent for what people measure."""
    if value == 0:
        return "0"
    size = abs(float(f"{value:.2e}"))
    if size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 1 else f"{value:.3g}"


def percent_points(difference: float, interval: Sequence[float] | None) -> str:
    """A difference of fractions as `-0.38 [-1.50, +0.75]`."""
    told = f" [{100 * interval[0]:+.2f}, {100 * interval[1]:+.2f}]" if interval else ""
    return f"{100 * difference:+.2f}{told}"

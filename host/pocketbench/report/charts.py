"""Small charts as inline SVG: a page of four hundred of them stays light, and needs no script to be read."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from pocketbench.nightly.night import Candidate, SeriesNight
from pocketbench.report.numbers import significant

WIDTH, HEIGHT, PAD = 320, 72, 6
LARGE_W, LARGE_H, MARGIN = 640, 360, 48


def history(one: SeriesNight) -> Markup:
    """A series over its nights: the noise band, the baseline, a dot a night, a mark where something was changed.

    Each dot says night and value to whoever points at it or reads it aloud.
    """
    values = [point.value for point in one.points]
    if not values:
        return Markup("")
    shown = [*values, *(one.band or ()), *([one.baseline] if one.baseline is not None else [])]
    low, high = min(shown), max(shown)
    span = (high - low) or abs(high) or 1.0
    low, high = low - 0.08 * span, high + 0.08 * span
    step = (WIDTH - 2 * PAD) / max(len(values) - 1, 1)

    def x(place: int) -> float:
        return PAD + step * place if len(values) > 1 else WIDTH / 2

    def y(value: float) -> float:
        return HEIGHT - PAD - (value - low) / (high - low) * (HEIGHT - 2 * PAD)

    parts = []
    if one.band:
        top, bottom = y(one.band[1]), y(one.band[0])
        parts.append(f'<rect class="band" x="0" y="{top:.1f}" width="{WIDTH}" height="{max(bottom - top, 1):.1f}"/>')
    if one.baseline is not None:
        parts.append(f'<line class="base" x1="0" x2="{WIDTH}" y1="{y(one.baseline):.1f}" y2="{y(one.baseline):.1f}"/>')
    for place, point in enumerate(one.points):
        if point.marks:
            what = escape(f"{point.night}: {', '.join(point.marks)} changed")
            where = f'x1="{x(place):.1f}" x2="{x(place):.1f}" y1="0" y2="{HEIGHT}"'
            parts.append(f'<line class="mark" {where}><title>{what}</title></line>')
    line = " ".join(f"{x(place):.1f},{y(value):.1f}" for place, value in enumerate(values))
    parts.append(f'<polyline class="run" points="{line}"/>')
    for place, point in enumerate(one.points):
        last = place == len(values) - 1
        told = escape(f"{point.night}: {significant(point.value)} {one.unit}")
        where = f'cx="{x(place):.1f}" cy="{y(point.value):.1f}" r="{4 if last else 2}"'
        parts.append(f'<circle class="{"now " + one.state if last else "dot"}" {where}><title>{told}</title></circle>')
    told = escape(
        f"{one.metric} of {one.title} over {len(values)} nights, tonight {significant(values[-1])} {one.unit}"
    )
    body = "".join(map(str, parts))
    return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{told}" class="chart">{body}</svg>')


def trade(candidates: Sequence[Candidate]) -> Markup:
    """Latency (logarithmic) against accuracy, the area of a dot the file's size; what nothing beats is filled."""
    known = [one for one in candidates if one.accuracy is not None and one.latency_ms > 0]
    if not known:
        return Markup("")
    logs = [math.log10(one.latency_ms) for one in known]
    marks = [one.accuracy or 0.0 for one in known]
    left, right = min(logs) - 0.1, max(logs) + 0.1
    low, high = min(marks), max(marks)
    margin = 0.1 * ((high - low) or 0.01)
    low, high = low - margin, high + margin
    largest = max(one.bytes for one in known) or 1

    def x(log: float) -> float:
        return MARGIN + (log - left) / (right - left) * (LARGE_W - 2 * MARGIN)

    def y(accuracy: float) -> float:
        return LARGE_H - MARGIN - (accuracy - low) / (high - low) * (LARGE_H - 2 * MARGIN)

    parts = [
        f'<line class="axis" x1="{MARGIN}" x2="{LARGE_W - MARGIN}" y1="{LARGE_H - MARGIN}" y2="{LARGE_H - MARGIN}"/>',
        f'<line class="axis" x1="{MARGIN}" x2="{MARGIN}" y1="{MARGIN}" y2="{LARGE_H - MARGIN}"/>',
        f'<text x="{LARGE_W / 2}" y="{LARGE_H - 10}" text-anchor="middle">p50 latency, ms (logarithmic)</text>',
        f'<text x="{MARGIN}" y="{MARGIN - 14}">{escape(known[0].accuracy_metric or "accuracy")}</text>',
    ]
    for value in (min(logs), max(logs)):
        told = significant(10**value)
        parts.append(f'<text x="{x(value):.0f}" y="{LARGE_H - MARGIN + 16}" text-anchor="middle">{told}</text>')
    for mark in dict.fromkeys((min(marks), max(marks))):
        parts.append(f'<text x="{MARGIN - 6}" y="{y(mark) + 4:.0f}" text-anchor="end">{mark:.3f}</text>')
    best = sorted((log, mark) for log, mark, one in zip(logs, marks, known, strict=True) if one.best)
    line = " ".join(f"{x(log):.1f},{y(mark):.1f}" for log, mark in best)
    parts.append(f'<polyline class="front" points="{line}"/>')
    for log, mark, one in zip(logs, marks, known, strict=True):
        radius = 4 + 12 * math.sqrt(one.bytes / largest)
        told = escape(f"{one.title}: {significant(one.latency_ms)} ms, {mark:.3f}, {one.bytes / 1e6:.2f} MB")
        where = f'cx="{x(log):.1f}" cy="{y(mark):.1f}" r="{radius:.1f}"'
        parts.append(f'<circle class="{"best" if one.best else "other"}" {where}><title>{told}</title></circle>')
    body = "".join(map(str, parts))
    told = escape(f"{len(known)} variants by latency and accuracy on {known[0].device}")
    return Markup(f'<svg viewBox="0 0 {LARGE_W} {LARGE_H}" role="img" aria-label="{told}" class="trade">{body}</svg>')

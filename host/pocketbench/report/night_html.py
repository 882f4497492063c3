"""A night as one page that needs nothing else: no script, style, font or image from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from jinja2 import Environment, PackageLoader, StrictUndefined

from pocketbench.nightly.night import AMBER, IMPROVED, RED, SUSPECTED, Candidate, Night, SeriesNight
from pocketbench.report import charts
from pocketbench.report.night_text import WORST_FIRST, headline, percent
from pocketbench.report.numbers import significant

# These states are looked at first; the rest of the series waits further down.
LOUD = (RED, AMBER, SUSPECTED, IMPROVED)


def as_html(night: Night) -> str:
    """The page; every name in it is escaped."""
    environment = Environment(
        loader=PackageLoader("pocketbench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(significant=significant, percent=percent, history=charts.history, trade=charts.trade)
    ordered = sorted(night.series, key=lambda one: (WORST_FIRST.index(one.state), one.device, one.title, one.metric))
    return environment.get_template("night.html.j2").render(
        night=night,
        headline=headline(night),
        loud=[one for one in ordered if one.state in LOUD],
        series=ordered,
        closed=[alarm for alarm in night.changed if alarm.closed],
        fronts=_fronts(night.candidates),
        counts=_counts(night.series),
        minutes=lambda seconds: f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s",
    )


def _fronts(candidates: Sequence[Candidate]) -> list[tuple[str, list[Candidate]]]:
    """By device, the fastest first."""
    ordered = sorted(candidates, key=lambda one: (one.device, one.latency_ms))
    return [(device, list(those)) for device, those in groupby(ordered, key=lambda one: one.device)]


def _counts(series: Sequence[SeriesNight]) -> Mapping[str, int]:
    return {state: n for state in WORST_FIRST if (n := sum(one.state == state for one in series))}

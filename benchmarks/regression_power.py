"""How often the nightly rule cries wolf, and how soon it finds what is there, on made-up series.

The generator is this file's own. Base 12 ms; log latency = night (independent, sd `sb`, and AR(1) with 0.8, sd `ar`) +
process (sd `sp`) + with probability `pm` a tail of 30-100 % of the samples slower by `mode` + sample (sd `se`); a share
`spike` of the samples times 1.5 to 4. Five processes of 100 samples a night. What runs again the same night shares the
AR part, its night effect is correlated with the first by 0.5, its processes are new. The noise is assumed, not measured
on phones. Series are judged from night 30; a change comes on night 40: a step of 5 %, a drift that reaches 5 % after 20
nights, or one night of +15 % that does not repeat when it is run again.

A bound is missed where the 99 % one-sided binomial limit of the count lies beyond it. Also a fleet: 40 devices with 50
series each for 30 nights, with a shift of each device a night: at most one false red page, no night over its budget.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketbench.nightly import regression

Floats = NDArray[np.float64]
PROCESSES, SAMPLES = 5, 100
FROM, CHANGE, NIGHTS = 30, 40, 60
# A run of a pair, five short processes, in seconds; and what a night may spend on pairs.
RUN_S, BUDGET_S = 15.0, 3600.0


@dataclass(frozen=True)
class Profile:
    """Standard deviations and shares of the generator, of log latency."""

    sb: float
    ar: float
    sp: float
    se: float
    pm: float
    mode: float
    spike: float


PROFILES = {
    "quiet": Profile(0.004, 0.0, 0.004, 0.015, 0.0, 0.0, 0.002),
    "phone": Profile(0.012, 0.0, 0.012, 0.04, 0.0, 0.0, 0.005),
    "bimodal": Profile(0.008, 0.0, 0.010, 0.03, 0.15, 0.10, 0.005),
    "drifty": Profile(0.006, 0.015, 0.010, 0.03, 0.03, 0.10, 0.005),
}


class Series:
    """One device and model, night after night."""

    def __init__(self, profile: Profile, rng: np.random.Generator) -> None:
        self.p, self.rng = profile, rng
        self.slow = rng.normal(0, profile.ar) if profile.ar else 0.0
        self.night = 0.0

    def begin_night(self) -> None:
        """New effects of the night."""
        if self.p.ar:
            self.slow = 0.8 * self.slow + self.rng.normal(0, self.p.ar * math.sqrt(1 - 0.64))
        self.night = self.rng.normal(0, self.p.sb)

    def first_run(self, effect: float) -> float:
        """The nightly value: log of the median of process medians."""
        return self._median(PROCESSES, self.night + self.slow + effect)

    def run_again(self, effect: float) -> float:
        """The same night once more, with processes of its own."""
        night = 0.5 * self.night + math.sqrt(0.75) * self.rng.normal(0, self.p.sb)
        return self._median(PROCESSES, night + self.slow + effect)

    def _median(self, processes: int, level: float) -> float:
        p, rng = self.p, self.rng
        logs = level + rng.normal(0, p.sp, processes)[:, None] + rng.normal(0, p.se, (processes, SAMPLES))
        if p.pm:
            share = rng.uniform(0.3, 1.0, processes) * (rng.random(processes) < p.pm)
            logs += p.mode * (np.arange(SAMPLES) >= SAMPLES * (1 - share[:, None]))
        if p.spike:
            logs += np.log(rng.uniform(1.5, 4.0, logs.shape)) * (rng.random(logs.shape) < p.spike)
        return float(np.median(np.median(logs, axis=1)))


def pairs(series: Series, count: int, mirrored: bool, effect: float) -> list[float]:
    """ln(new / baseline) of interleaved pairs; the baseline has no effect."""
    found = []
    for first, second in regression.order(count, mirrored):
        value = {name: series.run_again(effect if name == "new" else 0.0) for name in (first, second)}
        found.append(value["new"] - value["baseline"])
    return found


def is_red(series: Series, history: list[float], tonight: float, effect: float) -> tuple[bool, int]:
    """(red?, runs that the pairs took) of one night."""
    if regression.suspect(history, tonight) is None:
        return False, 0
    first = pairs(series, regression.FIRST_PAIRS, False, effect)
    if regression.undecided(first):
        first += pairs(series, regression.FIRST_PAIRS, True, effect)
    if not regression.confirm(first).stands:
        return False, 2 * len(first)
    second = pairs(series, regression.SECOND_PAIRS, True, effect)
    return regression.confirm(second).stands, 2 * (len(first) + len(second))


def nights_to_red(
    profile: Profile, rng: np.random.Generator, effect: Callable[[int], float], spike: bool = False
) -> tuple[list[int], int]:
    """(nights that were red, nights that were judged); a series ends with its first red night."""
    series = Series(profile, rng)
    history: list[float] = []
    for night in range(NIGHTS):
        series.begin_night()
        lasting = effect(night)
        passing = 0.15 if spike and night == CHANGE else 0.0
        tonight = series.first_run(lasting + passing)
        if night >= FROM and is_red(series, history, tonight, lasting)[0]:
            return [night], night - FROM + 1
        history.append(tonight)
    return [], NIGHTS - FROM


def upper(count: int, n: int) -> float:
    """99 % one-sided Clopper-Pearson upper limit of a proportion."""
    return _solve(lambda p: _at_most(count, n, p) - 0.01)


def lower(count: int, n: int) -> float:
    """The lower limit."""
    return 1 - upper(n - count, n)


def _at_most(count: int, n: int, p: float) -> float:
    if p <= 0 or count >= n:
        return 1.0
    if p >= 1:
        return 0.0
    terms = (
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(p) + (n - k) * math.log1p(-p)
        for k in range(count + 1)
    )
    return math.fsum(map(math.exp, terms))


def _solve(rising: Callable[[float], float]) -> float:
    lo, hi = 0.0, 1.0
    for _ in range(60):
        middle = (lo + hi) / 2
        lo, hi = (middle, hi) if rising(middle) > 0 else (lo, middle)
    return hi


def fleet(seed: int, devices: int = 40, each: int = 50, nights: int = 30) -> tuple[int, float]:
    """(false red pages, most seconds that a night spent on pairs). Devices shift by 1 % a night."""
    rng = np.random.default_rng([seed, 99])
    profile = PROFILES["phone"]
    history: list[list[list[float]]] = [[[] for _ in range(each)] for _ in range(devices)]
    all_series = [[Series(profile, rng) for _ in range(each)] for _ in range(devices)]
    red, worst = 0, 0.0
    for night in range(regression.WINDOW + nights):
        page = False
        for device in range(devices):
            shift, values, spent = rng.normal(0, 0.01), [], 0
            for one in all_series[device]:
                one.begin_night()
                values.append(one.first_run(shift))
            if night >= regression.WINDOW:
                deviations = [
                    v - regression.level(h[-regression.WINDOW :]) for v, h in zip(values, history[device], strict=True)
                ]
                common = regression.device_shift(deviations)
                for one, value, past in zip(all_series[device], values, history[device], strict=True):
                    found, runs = is_red(one, past, value - common, 0.0)
                    page, spent = page or found, spent + runs
            for value, past in zip(values, history[device], strict=True):
                past.append(value)
            worst = max(worst, spent * RUN_S)
        red += page
    return red, worst


def main() -> int:
    """Print counts, percentages and limits; 1 where a bound is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--series", type=int, default=1000, help="series a profile without a change; a fifth with one")
    options = parser.parse_args()
    missed = False
    scenarios: list[tuple[str, Callable[[int], float], bool, int, Any]] = [
        ("step of 5 %, red within 3 nights", lambda n: math.log(1.05) * (n >= CHANGE), False, 3, 0.95),
        (
            "drift to 5 %, red within 20 nights",
            lambda n: math.log(1.05) * min(1.0, max(0, n - CHANGE) / 20),
            False,
            20,
            0.95,
        ),
        ("one night of +15 %, red that night", lambda n: 0.0, True, 1, None),
    ]
    for number, (name, profile) in enumerate(PROFILES.items()):
        rng = np.random.default_rng([options.seed, number])
        alarms = judged = 0
        for _ in range(options.series):
            red, nights = nights_to_red(profile, rng, lambda n: 0.0)
            alarms, judged = alarms + len(red), judged + nights
        low = lower(alarms, judged) if alarms else 0.0
        verdict = "MISSED" if low > 1e-4 else "ok"
        missed |= low > 1e-4
        print(
            f"{name:8} no change: {alarms} red in {judged} series-nights, {alarms / judged:.4%} "
            f"[{low:.4%}, {upper(alarms, judged):.4%}], bound 0.01 %: {verdict}"
        )
        for told, effect, spike, within, least in scenarios:
            count = max(1, options.series // 5)
            found = 0
            for _ in range(count):
                red, _ = nights_to_red(profile, rng, effect, spike)
                found += bool(red) and CHANGE <= red[0] < CHANGE + within
            limit = upper(found, count)
            bad = found > 0 if least is None else limit < least
            missed |= bad
            bound = "never" if least is None else f"at least {least:.0%}"
            print(
                f"{name:8} {told}: {found} of {count}, {found / count:.1%} [{lower(found, count):.1%}, {limit:.1%}], "
                f"{bound}: {'MISSED' if bad else 'ok'}"
            )
    red_pages, worst_s = fleet(options.seed)
    bad = red_pages > 1 or worst_s > BUDGET_S
    missed |= bad
    print(
        f"fleet of 40 devices with 50 series, 30 nights without a change: {red_pages} red pages (at most 1), the "
        f"longest night of a device {worst_s:.0f} s of pairs (budget {BUDGET_S:.0f} s): {'MISSED' if bad else 'ok'}"
    )
    print("MISSED" if missed else "PASS: every bound holds")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())

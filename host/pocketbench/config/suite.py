"""suite.yaml: what is measured night by night, for how long, and who is told."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pocketbench.config.devices import line_of, tree_of
from pocketbench.errors import ConfigError, UsageError, nearest
from pocketbench.results import METRICS

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
UNITS_S = {"s": 1, "m": 60, "h": 3600}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PlanEntry(_Strict):
    """How each case is measured; what is left out is as on the command line, but for five processes."""

    processes: int = Field(default=5, ge=1, le=1000)
    min_runs: int = Field(default=120, ge=1, le=1_000_000)
    max_runs: int = Field(default=10_000, ge=1, le=1_000_000)
    min_time_s: float = Field(default=0.5, ge=0, le=3600)
    max_time_s: float = Field(default=10.0, gt=0, le=3600)
    cooldown_s: float | None = Field(default=None, ge=0, le=3600)
    energy_s: float | None = Field(default=None, ge=1, le=3600)

    @model_validator(mode="after")
    def _ordered(self) -> PlanEntry:
        if self.min_runs > self.max_runs or self.min_time_s > self.max_time_s:
            raise ValueError("the least (min_runs, min_time_s) is more than the most (max_runs, max_time_s)")
        return self


class Group(_Strict):
    """Models that are measured alike: files, and the recipes of a workload. Paths are relative to the suite's file."""

    models: tuple[Path, ...] = ()
    workload: Path | None = None
    recipes: tuple[str, ...] = ()
    to: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    delegates: tuple[str, ...] = ()
    threads: tuple[int, ...] = ()
    cpus: str | None = None
    shapes: tuple[str, ...] = ()
    signature: str | None = None
    inputs: Path | None = None
    rate: float | None = Field(default=None, gt=0, le=10_000)
    optional: bool = False

    @model_validator(mode="after")
    def _something(self) -> Group:
        if not self.models and not self.recipes:
            raise ValueError("nothing to measure: give 'models', or 'workload' and 'recipes'")
        if self.recipes and self.workload is None:
            raise ValueError("'recipes' need a 'workload'")
        return self


class Notify(_Strict):
    """Who is told when something changed."""

    webhook: str | None = None
    apprise: tuple[str, ...] = ()

    @field_validator("webhook")
    @classmethod
    def _http(cls, webhook: str | None) -> str | None:
        if webhook is not None and not webhook.startswith(("http://", "https://")):
            raise ValueError("a webhook is an http:// or https:// address")
        return webhook


class SuiteFile(_Strict):
    """The whole file. `thresholds`: the smallest relative change of a metric that is anybody's business."""

    suite: str
    devices: tuple[str, ...] = Field(min_length=1)
    measure: tuple[Group, ...] = Field(min_length=1)
    plan: PlanEntry = Field(default_factory=PlanEntry)
    budget: float | None = None
    thresholds: dict[str, float] = Field(default_factory=dict)
    notify: Notify = Field(default_factory=Notify)
    store: str | None = None

    @field_validator("suite")
    @classmethod
    def _name(cls, suite: str) -> str:
        if not NAME.fullmatch(suite):
            raise ValueError("a name of letters, digits, '.', '_' and '-', at most 60")
        return suite

    @field_validator("budget", mode="before")
    @classmethod
    def _seconds(cls, budget: Any) -> float | None:
        if budget is None:
            return None
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", str(budget))
        if found is None or float(found[1]) <= 0:
            raise ValueError("a time such as 90m, 2h or 600s")
        return float(found[1]) * UNITS_S[found[2] or "s"]

    @field_validator("thresholds", mode="before")
    @classmethod
    def _shares(cls, thresholds: Any) -> Any:
        if not isinstance(thresholds, dict):
            return thresholds
        known = [metric.name for metric in METRICS]
        found = {}
        for name, share in thresholds.items():
            if name not in known:
                raise ValueError(f"unknown metric {name!r}{nearest(str(name), known)}; known: {', '.join(known)}")
            match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*", str(share))
            if match is None:
                raise ValueError(f"{name}: a share such as 2% or 0.02")
            found[name] = float(match[1]) / (100 if match[2] else 1)
        return found


def load(path: Path) -> SuiteFile:
    """The suite with whole paths. ConfigError names file, line and key; UsageError: no such file."""
    if not path.is_file():
        raise UsageError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}")
    tree = next(iter(tree_of(path)), None)
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}:1: must hold a mapping with the keys 'suite', 'devices' and 'measure'")
    try:
        found = SuiteFile.model_validate(tree)
    except ValidationError as error:
        # A key that is misspelt is missing as well.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        raise ConfigError(f"{path}:{line_of(tree, first['loc'])}: {_explain(first)}") from error
    return found.model_copy(update={"measure": tuple(_placed(group, path.parent) for group in found.measure)})


def _placed(group: Group, folder: Path) -> Group:
    def whole(one: Path | None) -> Path | None:
        return one and folder / one.expanduser()

    return group.model_copy(
        update={
            "models": tuple(folder / one.expanduser() for one in group.models),
            "workload": whole(group.workload),
            "inputs": whole(group.inputs),
        }
    )


def _explain(error: Any) -> str:
    location: Sequence[str] = [str(part) for part in error["loc"]]
    if error["type"] != "extra_forbidden":
        return f"{'.'.join(location)}: {error['msg'].removeprefix('Value error, ')}"
    parts: Mapping[str, type[BaseModel]] = {"measure": Group, "plan": PlanEntry, "notify": Notify}
    model = parts.get(location[0], SuiteFile) if len(location) > 1 else SuiteFile
    inside = f" in {'.'.join(location[:-1])}" if len(location) > 1 else ""
    return f"unknown key {location[-1]!r}{nearest(location[-1], model.model_fields)}{inside}"

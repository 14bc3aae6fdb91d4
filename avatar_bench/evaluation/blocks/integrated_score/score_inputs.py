"""Qualities that blocks declare, read from the saved results of runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np

from avatar_bench.config.entries import find_entries
from avatar_bench.errors import ConfigError
from avatar_bench.metrics import integrated_score
from avatar_bench.metrics.stats import Floats
from avatar_bench.results.declaration import QualityDeclaration, declare_block
from avatar_bench.results.reasons import Reason

if TYPE_CHECKING:
    from avatar_bench.results.result import Metric, Result
    from avatar_bench.runs.run import Run

# options that do not affect the values; robustness is null without the standard corruptions, and the same with others
_IRRELEVANT_OPTIONS = ("level", "resamples", "seed", "gallery", "corruptions")


@dataclass(frozen=True)
class SavedQuality:
    """Value of a quality of one run, or NaN and why it is `missing`, with its direction and interval.

    `low` and `high` are the ends at `level` for these sources, and `units` what they resample; the value itself where
    no interval is saved or where it does not depend on `images`. Qualities of the same images err together. Comparable
    values have the same `basis`; `fingerprint` is that of the labelled images.
    """

    value: float = np.nan
    missing: Reason | None = None
    higher_is_better: bool | None = None
    low: float = np.nan
    high: float = np.nan
    level: float = 0.95
    units: int = 0
    log: bool = False
    images: str = ""
    basis: str = ""
    fingerprint: str = ""

    @property
    def is_uncertain(self) -> bool:
        """Return whether it has an interval to draw from."""
        return self.low < self.high

    def draw(self, normal: Floats) -> Floats:
        """Map standard normal numbers (B,), high ones to good values, to values from the interval."""
        towards = normal if self.higher_is_better else -normal
        return integrated_score.draw_from_interval(towards, self.value, self.low, self.high, self.level, self.log)


Reading = dict[str, SavedQuality]  # of a run, by quality


def find_qualities() -> dict[str, QualityDeclaration]:
    """Return the declared qualities by name, in the order of their blocks; raise ConfigError if two have one name."""
    qualities: dict[str, QualityDeclaration] = {}
    for block in sorted(map(declare_block, find_entries("block")), key=lambda about: (about.order, about.name)):
        for name, quality in block.qualities.items():
            if qualities.setdefault(name, quality) is not quality:
                raise ConfigError(
                    f"The blocks {qualities[name].block} and {block.name} both declare a quality {name!r}."
                )
    return qualities


def read_qualities(run: Run, name: str, score: str) -> Reading:
    """Read all qualities of a run on a data set; `score` is the out-of-domain score."""
    declared = find_qualities()
    saved = {block: run.saved(block, name) for block in {quality.block for quality in declared.values()}}
    return {key: _read_quality(key, quality, saved[quality.block], score) for key, quality in declared.items()}


def _read_quality(key: str, quality: QualityDeclaration, result: Result | None, score: str) -> SavedQuality:
    if result is None:
        return SavedQuality(missing=Reason("no_result", block=quality.block))
    pattern = quality.metric.format(score=score)
    metrics = {name: metric for name, metric in result.metrics.items() if fnmatchcase(name, pattern)}
    values = [
        (metric.these_sources or {}).get("value", metric.value)
        for metric in metrics.values()
        if metric.value is not None
    ]
    if not metrics:
        return SavedQuality(missing=Reason("no_metric", metric=pattern))
    if len(values) < len(metrics):
        reason = next(metric.reason for metric in metrics.values() if metric.value is None)
        return SavedQuality(missing=Reason("of_block", block=quality.block, reason=reason))
    directions = {metric.higher_is_better for metric in metrics.values()}
    about = result.provenance
    options = {name: value for name, value in about.get("options", {}).items() if name not in _IRRELEVANT_OPTIONS}
    sets = {name: about.get("sets", {}).get(name.split("/")[1]) for name in metrics} if key == "ood" else {}
    basis = json.dumps([about.get("data_fingerprint"), options, sets], sort_keys=True)
    if key in ("speed", "size"):
        basis = json.dumps([about.get("machine"), options.get("threads")]) if key == "speed" else ""
    # efficiency uses no labels, and the noise of its timings is not that of images
    fingerprint = "" if quality.block == "efficiency" else str(about.get("data_fingerprint", ""))
    low, high, units = np.array([_find_ends(read, bool(fingerprint)) for read in metrics.values()], dtype=np.float64).T
    return SavedQuality(
        value=float(np.mean(values)),
        higher_is_better=directions.pop() if len(directions) == 1 else None,
        low=float(low.mean()),
        high=float(high.mean()),
        level=about.get("options", {}).get("level", SavedQuality.level),
        units=int(units.min()),
        log=quality.log,
        images=json.dumps([fingerprint, sets], sort_keys=True),
        basis=basis,
        fingerprint=fingerprint,
    )


def _find_ends(metric: Metric, of_images: bool) -> tuple[float | None, float | None, int]:
    """Return the ends for these sources and their units; the value twice without an interval of images."""
    if not of_images or metric.low is None or metric.high is None:
        return metric.value, metric.value, metric.n
    saved = {"low": metric.low, "high": metric.high, "units": metric.units} | dict(metric.these_sources or {})
    return saved["low"], saved["high"], saved["units"] or metric.n

"""Qualities of the integrated score, read from the saved results of other blocks."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.data.corruptions import STANDARD_CORRUPTIONS
from avatar_bench.i18n import _
from avatar_bench.metrics import calibration, clusters, detection

if TYPE_CHECKING:
    from avatar_bench.results.result import Metric, Result
    from avatar_bench.runs.run import Run

Floats = NDArray[np.float64]
_TOLERANCE = 1e-6  # tolerance between a saved metric and its value recomputed from the saved table
# options that do not affect the values; robustness is null without the standard corruptions, and the same with others
_IRRELEVANT_OPTIONS = ("level", "resamples", "seed", "gallery", "corruptions")


@dataclass(frozen=True)
class Quality:
    """Block and metric that measure a quality; for a pattern with a `*`, the mean of all matching metrics.

    `log`: equal ratios are equal steps. `guessing` returns the value of random guessing for a number of classes.
    """

    block: str
    metric: str
    log: bool = False
    guessing: Callable[[int], float] | None = None


SCORE_QUALITIES = {
    "accuracy": Quality("blind_test", "accuracy", guessing=lambda classes: 1 / classes),
    "robustness": Quality("robustness", "robustness", guessing=lambda classes: 1 / classes),
    "calibration": Quality("calibration", "scaled/ece_15", guessing=lambda classes: 1 - 1 / classes),  # at confidence 1
    "ood": Quality("out_of_domain", "auroc/*/{score}"),
    "separation": Quality("clusters", "silhouette_cosine"),
    "speed": Quality("efficiency", "images_per_second/b1", log=True),
    "size": Quality("efficiency", "params_m", log=True),
}


@dataclass(frozen=True)
class ResampledQuality:
    """Resampling of a quality: set and group of each image (N,), and a statistic from weights (B, N) to (B,).

    If it is `centred`, the resamples are biased to one side of the value (an error that cannot fall below 0 grows when
    it is resampled) and are shifted back to it.
    """

    units: pd.Index
    statistic: Callable[[Floats], Floats]
    centred: bool = False


@dataclass
class RunQualities:
    """Values of a run by quality or why one is missing, their directions, and the data and settings behind them.

    `no_interval_reason` explains why the speed has no interval.
    """

    values: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    higher_is_better: dict[str, bool | None] = field(default_factory=dict)
    samples: dict[str, ResampledQuality] = field(default_factory=dict)
    basis: dict[str, str] = field(default_factory=dict)
    fingerprints: set[str] = field(default_factory=set)
    no_interval_reason: str = ""


def read_qualities(run: Run, name: str, qualities: Collection[str], score: str) -> RunQualities:
    """Read the qualities of a run on a data set; `score` is the out-of-domain score."""
    reading = RunQualities()
    saved = {quality.block: run.saved(quality.block, name) for quality in SCORE_QUALITIES.values()}
    for key in SCORE_QUALITIES:
        result, pattern = saved[SCORE_QUALITIES[key].block], SCORE_QUALITIES[key].metric.format(score=score)
        if result is None:
            reading.missing[key] = _("no usable Result of {block}", block=SCORE_QUALITIES[key].block)
            continue
        found = {metric: about for metric, about in result.metrics.items() if fnmatchcase(metric, pattern)}
        lacking = [about.reason or "" for about in found.values() if about.value is None]
        if lacking or not found:
            reading.missing[key] = lacking[0] if lacking else _("its result has no {metric}", metric=pattern)
            continue
        _store_value(reading, key, found, result)
        if key in qualities and key in _SAMPLERS:
            _add_resampling(reading, key, saved, score)
    return reading


def _store_value(reading: RunQualities, key: str, found: dict[str, Metric], result: Result) -> None:
    reading.values[key] = float(np.mean([about.value for about in found.values() if about.value is not None]))
    directions = {about.higher_is_better for about in found.values()}
    reading.higher_is_better[key] = directions.pop() if len(directions) == 1 else None
    reading.basis[key] = "" if key == "size" else _describe_basis(key, found, result)
    if key == "speed":
        reading.no_interval_reason = next((about.reason for about in found.values() if about.reason), "")
    if SCORE_QUALITIES[key].block != "efficiency":  # which uses no labels
        reading.fingerprints.add(str(result.provenance.get("data_fingerprint", "")))


def _describe_basis(key: str, found: dict[str, Metric], result: Result) -> str:
    """Return a text that is equal for comparable values: images, options and machine."""
    about = result.provenance
    options = {name: value for name, value in about.get("options", {}).items() if name not in _IRRELEVANT_OPTIONS}
    if key == "speed":
        return json.dumps([about.get("machine"), options.get("threads")], sort_keys=True)
    sets = {name: about.get("sets", {}).get(name.split("/")[1]) for name in found} if key == "ood" else {}
    return json.dumps([about.get("data_fingerprint"), options, sets], sort_keys=True)


def _add_resampling(reading: RunQualities, key: str, saved: dict[str, Result | None], score: str) -> None:
    """Find the source of the resamples of a quality; mark it as missing if the source contradicts its value."""
    block, sampler = _SAMPLERS[key]
    result = saved[block]
    if result is None:
        return
    try:
        sample = sampler(result, score)
        again = float(sample.statistic(np.ones((1, len(sample.units))))[0])
    except (KeyError, ValueError, TypeError):  # missing columns or invalid values
        again = np.nan
    if abs(again - reading.values[key]) <= _TOLERANCE:
        reading.samples[key] = sample
    else:
        del reading.values[key]
        reading.missing[key] = _("the tables and metrics of its result disagree")


def _resample_accuracy(result: Result, score: str) -> ResampledQuality:
    table = result.tables["predictions"]
    return ResampledQuality(
        _build_units(result.set, table["group"]), _build_mean_statistic(table["correct"].to_numpy(dtype=float))
    )


def _resample_robustness(result: Result, score: str) -> ResampledQuality:
    table = result.tables["predictions"]
    kept = table[table["variation"].isin([f"{kind}/3" for kind in STANDARD_CORRUPTIONS])]
    images = kept.groupby("path", sort=False).agg(correct=("correct", "mean"), group=("group", "first"))
    return ResampledQuality(
        _build_units(result.set, images["group"]), _build_mean_statistic(images["correct"].to_numpy(dtype=float))
    )


def _resample_calibration(result: Result, score: str) -> ResampledQuality:
    table = result.tables["predictions"]
    confidence, correct = table["confidence"].to_numpy(dtype=float), table["correct"].to_numpy(dtype=float)
    edges = calibration.equal_width_edges(calibration.ECE_BINS)
    return ResampledQuality(
        _build_units(result.set, table["group"]), lambda w: calibration.ece(confidence, correct, edges, w), centred=True
    )


def _resample_ood(result: Result, score: str) -> ResampledQuality:
    table = result.tables["scores"]
    table = table[table["kind"] != "shifted"].reset_index(drop=True)
    scores, inside = table[score].to_numpy(dtype=float), (table["kind"] == "in_domain").to_numpy()
    sets = [(table["set"] == name).to_numpy() for name in table.loc[~inside, "set"].unique()]

    def statistic(weights: Floats) -> Floats:
        curves = (detection.roc(scores[inside | own], own[inside | own], weights[:, inside | own]) for own in sets)
        return np.asarray(np.mean([detection.auroc(curve) for curve in curves], axis=0))

    return ResampledQuality(_build_units(table["set"], table["group"]), statistic)


def _resample_separation(result: Result, score: str) -> ResampledQuality:
    table = result.tables["images"]
    each = table[["silhouette_cosine"]].to_numpy(dtype=float)
    return ResampledQuality(
        _build_units(result.set, table["group"]), lambda weights: clusters.weighted_means(weights, each)[:, 0]
    )


# qualities without an entry do not depend on images and are not resampled
_SAMPLERS: dict[str, tuple[str, Callable[[Result, str], ResampledQuality]]] = {
    "accuracy": ("blind_test", _resample_accuracy),
    "robustness": ("robustness", _resample_robustness),
    "calibration": ("blind_test", _resample_calibration),  # it saves the same predictions
    "ood": ("out_of_domain", _resample_ood),
    "separation": ("clusters", _resample_separation),
}


def _build_units(sets: pd.Series[str] | str, groups: pd.Series[str]) -> pd.Index:
    table = pd.DataFrame({"set": sets, "group": groups.astype(str)})
    return pd.MultiIndex.from_frame(table)


def _build_mean_statistic(values: Floats) -> Callable[[Floats], Floats]:
    return lambda weights: weights @ values / weights.sum(axis=1)

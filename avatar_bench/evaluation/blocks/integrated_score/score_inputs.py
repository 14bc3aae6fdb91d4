"""Qualities of the integrated score, read from the saved results of other blocks."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.data.corruptions import STANDARD_CORRUPTIONS
from avatar_bench.i18n import _
from avatar_bench.metrics import calibration, detection, stats

if TYPE_CHECKING:
    from avatar_bench.results.result import Metric, Result
    from avatar_bench.runs.run import Run

Floats = NDArray[np.float64]
_TOLERANCE = 1e-6  # tolerance between a saved metric and its value recomputed from the saved table
# options that do not affect the values; robustness is null without the standard corruptions, and the same with others
_IRRELEVANT_OPTIONS = ("level", "resamples", "seed", "gallery", "corruptions")


@dataclass(frozen=True)
class ResampledQuality:
    """Resampling of a quality: set and group of each image (N,), and a statistic from weights (B, N) to (B,).

    If it is `centred`, the resamples are biased to one side of the value (an error that cannot fall below 0 grows when
    it is resampled) and are shifted back to it.
    """

    units: pd.Index
    statistic: Callable[[Floats], Floats]
    centred: bool = False


@dataclass(frozen=True)
class Quality:
    """Block and metric that measure a quality; for a pattern with a `*`, the mean of all matching metrics.

    `ends` are the worst and the best value of its range, None for that of random guessing, which `guessing` returns for
    a number of classes. `log`: equal ratios are equal steps. `resample` reads the resampling from the result of
    `source`, by default the block itself; a quality without it does not depend on images.
    """

    block: str
    metric: str
    ends: tuple[float | None, float | None]
    resample: Callable[[Result, str], ResampledQuality] | None = None
    source: str = ""
    log: bool = False
    guessing: Callable[[int], float] | None = None


@dataclass(frozen=True)
class SavedQuality:
    """Value of a quality of one run, or NaN and why it is `missing`, with its direction and resampling.

    Comparable values have the same `basis`; `fingerprint` is that of the labelled images.
    """

    value: float = np.nan
    missing: str = ""
    higher_is_better: bool | None = None
    resampled: ResampledQuality | None = None
    basis: str = ""
    fingerprint: str = ""


Reading = dict[str, SavedQuality]  # of a run, by quality


def read_qualities(run: Run, name: str, qualities: Collection[str], score: str) -> Reading:
    """Read all qualities of a run on a data set, some of them to resample; `score` is the out-of-domain score."""
    saved = {quality.block: run.saved(quality.block, name) for quality in SCORE_QUALITIES.values()}
    found = {key: _read_quality(key, saved[quality.block], score) for key, quality in SCORE_QUALITIES.items()}
    return found | {key: _add_resampling(found[key], SCORE_QUALITIES[key], saved, score) for key in qualities}


def _read_quality(key: str, result: Result | None, score: str) -> SavedQuality:
    quality = SCORE_QUALITIES[key]
    if result is None:
        return SavedQuality(missing=_("no usable Result of {block}", block=quality.block))
    pattern = quality.metric.format(score=score)
    found = {name: metric for name, metric in result.metrics.items() if fnmatchcase(name, pattern)}
    lacking = [metric.reason or "" for metric in found.values() if metric.value is None]
    if lacking or not found:
        return SavedQuality(missing=lacking[0] if lacking else _("its result has no {metric}", metric=pattern))
    directions = {metric.higher_is_better for metric in found.values()}
    return SavedQuality(
        value=float(np.mean([metric.value for metric in found.values() if metric.value is not None])),
        higher_is_better=directions.pop() if len(directions) == 1 else None,
        basis=_describe_basis(key, found, result),
        # efficiency uses no labels
        fingerprint="" if quality.block == "efficiency" else str(result.provenance.get("data_fingerprint", "")),
    )


def _describe_basis(key: str, found: Mapping[str, Metric], result: Result) -> str:
    """Return a text that is equal for comparable values: images, options and machine."""
    about = result.provenance
    options = {name: value for name, value in about.get("options", {}).items() if name not in _IRRELEVANT_OPTIONS}
    if key == "size":
        return ""
    if key == "speed":
        return json.dumps([about.get("machine"), options.get("threads")], sort_keys=True)
    sets = {name: about.get("sets", {}).get(name.split("/")[1]) for name in found} if key == "ood" else {}
    return json.dumps([about.get("data_fingerprint"), options, sets], sort_keys=True)


def _add_resampling(
    found: SavedQuality, quality: Quality, saved: Mapping[str, Result | None], score: str
) -> SavedQuality:
    """Add the resampling of a quality; mark it as missing if the saved table contradicts its value."""
    result = saved[quality.source or quality.block]
    if found.missing or quality.resample is None or result is None:
        return found
    try:
        resampled = quality.resample(result, score)
        again = float(resampled.statistic(np.ones((1, len(resampled.units))))[0])
    except (KeyError, ValueError, TypeError):  # missing columns or invalid values
        again = np.nan
    if abs(again - found.value) <= _TOLERANCE:
        return replace(found, resampled=resampled)
    return replace(found, value=np.nan, missing=_("the tables and metrics of its result disagree"))


def _resample_accuracy(result: Result, score: str) -> ResampledQuality:
    return _resample_mean(result, result.tables["predictions"], "correct")


def _resample_robustness(result: Result, score: str) -> ResampledQuality:
    table = result.tables["predictions"]
    kept = table[table["variation"].isin([f"{kind}/3" for kind in STANDARD_CORRUPTIONS])]
    images = kept.groupby("path", sort=False).agg(correct=("correct", "mean"), group=("group", "first"))
    return _resample_mean(result, images, "correct")


def _resample_separation(result: Result, score: str) -> ResampledQuality:
    return _resample_mean(result, result.tables["images"], "silhouette_cosine")


def _resample_mean(result: Result, table: pd.DataFrame, column: str) -> ResampledQuality:
    statistic = stats.build_mean_statistic(table[[column]].to_numpy(dtype=float))
    return ResampledQuality(_build_units(result.set, table["group"]), lambda weights: statistic(weights)[:, 0])


def _resample_calibration(result: Result, score: str) -> ResampledQuality:
    table = result.tables["predictions"]
    confidence, correct = table["confidence"].to_numpy(dtype=float), table["correct"].to_numpy(dtype=float)
    edges = calibration.equal_width_edges(calibration.ECE_BINS)
    return ResampledQuality(
        _build_units(result.set, table["group"]), lambda w: calibration.ece(confidence, correct, edges, w), centred=True
    )


def _resample_ood(result: Result, score: str) -> ResampledQuality:
    table = result.tables["scores"].query("kind != 'shifted'")
    scores, inside = table[score].to_numpy(dtype=float), (table["kind"] == "in_domain").to_numpy()
    sets = [(table["set"] == name).to_numpy() for name in table.loc[~inside, "set"].unique()]

    def statistic(weights: Floats) -> Floats:
        curves = (detection.roc(scores[inside | own], own[inside | own], weights[:, inside | own]) for own in sets)
        return np.asarray(np.mean([detection.auroc(curve) for curve in curves], axis=0))

    return ResampledQuality(_build_units(table["set"], table["group"]), statistic)


def _build_units(sets: pd.Series[str] | str, groups: pd.Series[str]) -> pd.Index:
    return pd.MultiIndex.from_frame(pd.DataFrame({"set": sets, "group": groups.astype(str)}))


SCORE_QUALITIES = {
    "accuracy": Quality("blind_test", "accuracy", (None, 1.0), _resample_accuracy, guessing=lambda n: 1 / n),
    "robustness": Quality("robustness", "robustness", (None, 1.0), _resample_robustness, guessing=lambda n: 1 / n),
    # blind_test saves the same predictions; guessing at confidence 1
    "calibration": Quality(
        "calibration", "scaled/ece_15", (None, 0.0), _resample_calibration, "blind_test", guessing=lambda n: 1 - 1 / n
    ),
    "ood": Quality("out_of_domain", "auroc/*/{score}", (0.5, 1.0), _resample_ood),
    "separation": Quality("clusters", "silhouette_cosine", (0.0, 1.0), _resample_separation),
    "speed": Quality("efficiency", "images_per_second/b1", (1.0, 1000.0), log=True),
    "size": Quality("efficiency", "params_m", (1000.0, 1.0), log=True),
}

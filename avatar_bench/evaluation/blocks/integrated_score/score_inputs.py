"""Qualities that blocks declare, read from the saved results of runs, and resamples of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.config.entries import find_entries
from avatar_bench.data.corruptions import STANDARD_CORRUPTIONS
from avatar_bench.errors import ConfigError
from avatar_bench.metrics import calibration, detection, integrated_score, stats
from avatar_bench.results.declaration import QualityDeclaration, declare_block
from avatar_bench.results.reasons import Reason

if TYPE_CHECKING:
    from avatar_bench.results.result import Metric, Result
    from avatar_bench.runs.run import Run

Floats = NDArray[np.float64]
_CHUNK_ELEMENTS = 4_000_000  # weights in memory at once: 32 MB
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
class SavedQuality:
    """Value of a quality of one run, or NaN and why it is `missing`, with its direction and resampling.

    Comparable values have the same `basis`; `fingerprint` is that of the labelled images.
    """

    value: float = np.nan
    missing: Reason | None = None
    higher_is_better: bool | None = None
    resampled: ResampledQuality | None = None
    basis: str = ""
    fingerprint: str = ""


Reading = dict[str, SavedQuality]  # of a run, by quality


def find_qualities() -> dict[str, QualityDeclaration]:
    """Return the declared qualities by name, in the order of their blocks; raise ConfigError if two have one name."""
    found: dict[str, QualityDeclaration] = {}
    for block in sorted(map(declare_block, find_entries("block")), key=lambda one: (one.order, one.name)):
        for name, quality in block.qualities.items():
            if found.setdefault(name, quality) is not quality:
                raise ConfigError(f"The blocks {found[name].block} and {block.name} both declare a quality {name!r}.")
    return found


def read_qualities(run: Run, name: str, qualities: Collection[str], score: str) -> Reading:
    """Read all qualities of a run on a data set, some of them to resample; `score` is the out-of-domain score."""
    declared = find_qualities()
    saved = {block: run.saved(block, name) for block in {each.block for each in declared.values()}}
    found = {key: _read_quality(key, each, saved[each.block], score) for key, each in declared.items()}
    return found | {key: _add_resampling(key, found[key], declared[key], saved, score) for key in qualities}


def _read_quality(key: str, quality: QualityDeclaration, result: Result | None, score: str) -> SavedQuality:
    if result is None:
        return SavedQuality(missing=Reason("no_result", block=quality.block))
    pattern = quality.metric.format(score=score)
    found = {name: metric for name, metric in result.metrics.items() if fnmatchcase(name, pattern)}
    values = [metric.value for metric in found.values() if metric.value is not None]
    if not found:
        return SavedQuality(missing=Reason("no_metric", metric=pattern))
    if len(values) < len(found):
        reason = next(metric.reason for metric in found.values() if metric.value is None)
        return SavedQuality(missing=Reason("of_block", block=quality.block, reason=reason))
    directions = {metric.higher_is_better for metric in found.values()}
    return SavedQuality(
        value=float(np.mean(values)),
        higher_is_better=directions.pop() if len(directions) == 1 else None,
        basis=_describe_basis(key, found, result),
        # efficiency uses no labels
        fingerprint="" if quality.block == "efficiency" else str(result.provenance.get("data_fingerprint", "")),
    )


def _describe_basis(key: str, found: Mapping[str, Metric], result: Result) -> str:
    """Return a text that is equal for comparable values: images, options and machine."""
    about = result.provenance
    options = {name: value for name, value in about.get("options", {}).items() if name not in _IRRELEVANT_OPTIONS}
    if key in ("speed", "size"):
        return json.dumps([about.get("machine"), options.get("threads")]) if key == "speed" else ""
    sets = {name: about.get("sets", {}).get(name.split("/")[1]) for name in found} if key == "ood" else {}
    return json.dumps([about.get("data_fingerprint"), options, sets], sort_keys=True)


def _add_resampling(
    key: str, found: SavedQuality, quality: QualityDeclaration, saved: Mapping[str, Result | None], score: str
) -> SavedQuality:
    """Add the resampling of a quality; mark it as missing if the saved table contradicts its value."""
    result = saved["blind_test" if key == "calibration" else quality.block]  # both save the same predictions
    if found.missing or not quality.images or result is None:
        return found
    table, _dot, column = quality.images.format(score=score).partition(".")
    try:
        resampled = _RESAMPLERS.get(key, _resample_mean)(result.set, result.tables[table], column)
        again = float(resampled.statistic(np.ones((1, len(resampled.units))))[0])
    except (KeyError, ValueError, TypeError):  # missing columns or invalid values
        again = np.nan
    if abs(again - found.value) <= _TOLERANCE:
        return replace(found, resampled=resampled)
    return replace(found, value=np.nan, missing=Reason("tables_disagree"))


def _resample_mean(name: str, table: pd.DataFrame, column: str) -> ResampledQuality:
    statistic = stats.build_mean_statistic(table[[column]].to_numpy(dtype=float))
    return ResampledQuality(_build_units(name, table["group"]), lambda weights: statistic(weights)[:, 0])


def _resample_robustness(name: str, table: pd.DataFrame, column: str) -> ResampledQuality:
    own = table[table["variation"].isin([f"{kind}/3" for kind in STANDARD_CORRUPTIONS])]
    images = own.groupby("path", sort=False).agg({column: "mean", "group": "first"})
    return _resample_mean(name, images, column)


def _resample_calibration(name: str, table: pd.DataFrame, column: str) -> ResampledQuality:
    confidence, correct = table[column].to_numpy(dtype=float), table["correct"].to_numpy(dtype=float)
    units = _build_units(name, table["group"])
    return ResampledQuality(units, lambda w: calibration.ece(confidence, correct, weights=w), centred=True)


def _resample_ood(name: str, table: pd.DataFrame, column: str) -> ResampledQuality:
    table = table.query("kind != 'shifted'")
    scores, inside = table[column].to_numpy(dtype=float), (table["kind"] == "in_domain").to_numpy()
    sets = [(table["set"] == name).to_numpy() for name in table.loc[~inside, "set"].unique()]

    def statistic(weights: Floats) -> Floats:
        curves = (detection.roc(scores[inside | own], own[inside | own], weights[:, inside | own]) for own in sets)
        return np.asarray(np.mean([detection.auroc(curve) for curve in curves], axis=0))

    return ResampledQuality(_build_units(table["set"], table["group"]), statistic)


def _build_units(sets: pd.Series[str] | str, groups: pd.Series[str]) -> pd.Index:
    return pd.MultiIndex.from_frame(pd.DataFrame({"set": sets, "group": groups.astype(str)}))


_RESAMPLERS = {"robustness": _resample_robustness, "calibration": _resample_calibration, "ood": _resample_ood}


def resample_qualities(readings: Sequence[Reading], qualities: Sequence[str], resamples: int, seed: int) -> Floats:
    """Compute the qualities of each run, (B, R, Q), with groups drawn with replacement within each set of images.

    All runs share the draws, so that they are compared in pairs. A quality without images is constant, a missing one
    NaN.
    """
    values = np.array([[reading[key].value for key in qualities] for reading in readings])
    found = np.repeat(values[None], resamples, axis=0)
    samples = {
        (run, column): resampled
        for run, reading in enumerate(readings)
        for column, key in enumerate(qualities)
        if (resampled := reading[key].resampled)
    }
    if not samples:
        return found
    units = reduce(pd.Index.union, (sample.units.unique() for sample in samples.values()))
    places = {where: units.get_indexer(sample.units) for where, sample in samples.items()}
    sets = units.get_level_values(0)
    members = [np.flatnonzero(sets == name) for name in sets.unique()]
    generator = np.random.default_rng(seed)
    step = max(1, _CHUNK_ELEMENTS // max(map(len, places.values())))
    for start in range(0, resamples, step):
        rows = slice(start, min(start + step, resamples))
        counts = np.empty((rows.stop - start, len(units)))  # how often each unit is drawn
        for own in members:
            counts[:, own] = integrated_score.draw_counts(len(own), len(counts), generator)
        for where, sample in samples.items():
            found[(rows, *where)] = sample.statistic(counts[:, places[where]])
    for where, sample in samples.items():
        if sample.centred:
            drawn = found[(slice(None), *where)]
            found[(slice(None), *where)] = np.maximum(0.0, drawn - drawn.mean() + values[where])
    return found


def average_over_seeds(values: Floats, members: Sequence[Sequence[int]], seed: int) -> Floats:
    """Compute the mean over runs of each model, (B, M, Q), drawing its runs with replacement from values (B, R, Q)."""
    generator = np.random.default_rng((seed, 1))
    columns = []
    for own in members:
        counts = integrated_score.draw_counts(len(own), len(values), generator)
        columns.append(np.einsum("bs,bsq->bq", counts / len(own), values[:, list(own)]))
    return np.stack(columns, axis=1)


def count_units(readings: Sequence[Reading], name: str) -> int:
    """Count the resampled groups of the set `name`."""
    samples = (each.resampled for reading in readings for each in reading.values() if each.resampled)
    return len({group for sample in samples for of, group in sample.units if of == name})

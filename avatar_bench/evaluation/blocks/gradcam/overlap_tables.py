"""Tables of gradcam: the overlap of each pair of runs by image, and its means beside their nulls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.metrics import attribution_maps, stats
from avatar_bench.metrics.attribution_maps import OVERLAP_MEASURES
from avatar_bench.metrics.stats import nan_mean

if TYPE_CHECKING:
    from avatar_bench.evaluation.intervals import IntervalOptions
    from avatar_bench.results.predictions import Predictions

Floats = NDArray[np.float64]

ALL_CLASSES = "(all)"  # value of column `class` for all classes
MEAN_OF_PAIRS = ""  # value of columns `a` and `b` for the mean over pairs


@dataclass(frozen=True)
class Overlap:
    """Overlap of P pairs of runs on n images, with K metrics each.

    `pairs` are positions of runs. `values` (P + 1, K, n) compare maps of the same image, `others` those of different
    images of its class, `shuffled_cells` maps with shuffled cells; the last of P + 1 is the mean over pairs. `permuted`
    (P + 1, K, C + 1, B) are means over the images of all classes and of each, with maps permuted among images;
    `permuted_apart` are the same without maps assigned to the same image.
    """

    pairs: list[tuple[int, int]]
    values: Floats
    others: Floats
    shuffled_cells: Floats
    permuted: Floats
    permuted_apart: Floats


def compute_overlap(
    maps: Sequence[NDArray[np.floating]], targets: NDArray[np.int64], classes: int, times: int, seed: int
) -> Overlap:
    """Compare the raw maps (n, h, w) of each two runs; permute them `times` times within classes."""
    pairs = list(combinations(range(len(maps)), 2))
    found = [list(attribution_maps.overlaps(maps[a], maps[b]).values()) for a, b in pairs]
    rng = np.random.default_rng(seed)
    places = [attribution_maps.shuffle_within_strata(targets, times, rng) for _ in maps]
    chances = [list(attribution_maps.chance_overlaps(maps[a], maps[b]).values()) for a, b in pairs]
    masks = _build_class_masks(targets, classes)
    apart = [[np.where(np.eye(len(table), dtype=np.bool_), np.nan, table) for table in tables] for tables in found]
    permuted = (
        np.stack([_average_permuted(one, pairs, places, masks) for one in zip(*ways, strict=True)], axis=1)
        for ways in (found, apart)
    )
    values = [[np.diag(table) for table in tables] for tables in found]
    others = [[attribution_maps.overlap_with_other_images(table, targets) for table in tables] for tables in found]
    # the last of each is the mean over pairs
    kinds = (np.array([*kind, nan_mean(np.array(kind), axis=0)]) for kind in (values, others, chances))
    return Overlap(pairs, *kinds, *permuted)


def tabulate_images(found: Overlap, runs: Sequence[str], images: Predictions) -> pd.DataFrame:
    """Return one row per image and pair, with each metric and its value with maps of other images of the class."""
    frames, names = [], [*OVERLAP_MEASURES, *(f"null_{name}" for name in OVERLAP_MEASURES)]
    for (a, b), values, others in zip(found.pairs, found.values, found.others, strict=False):
        columns = {"path": images.paths, "class": np.array(images.classes)[images.targets], "a": runs[a], "b": runs[b]}
        frames.append(pd.DataFrame(columns | dict(zip(names, [*values, *others], strict=True))))
    return pd.concat(frames, ignore_index=True)


def tabulate_summary(
    found: Overlap, runs: Sequence[str], images: Predictions, options: IntervalOptions
) -> pd.DataFrame:
    """Tabulate each pair, class and metric: mean and null with intervals; MEAN_OF_PAIRS and ALL_CLASSES come last.

    `p` is the proportion of permutations, the true assignment among them, with at least this value; `above_null` means
    that it is at most 1 - level. The range of the null is that of means over different images only.
    """
    names = [(runs[a], runs[b]) for a, b in found.pairs] + [(MEAN_OF_PAIRS, MEAN_OF_PAIRS)]
    rows = [(*pair, metric) for pair in names for metric in OVERLAP_MEASURES]
    level, kinds = options.level, {"value": found.values, "null": found.others, "null_random": found.shuffled_cells}
    parts = []
    masks = _build_class_masks(images.targets, len(images.classes))
    for number, (name, mask) in enumerate(zip([ALL_CLASSES, *images.classes], masks, strict=True)):
        if not mask.any():
            continue
        part = pd.DataFrame(rows, columns=["a", "b", "metric"]).assign(**{"class": name})
        columns = {kind: values[:, :, mask].reshape(len(rows), -1).T for kind, values in kinds.items()}
        part = part.assign(**{kind: nan_mean(values, axis=0) for kind, values in columns.items()})
        mean, groups = stats.build_mean_statistic(columns["value"]), images.groups[mask]
        dealt, apart = (ways[:, :, number].reshape(len(rows), -1) for ways in (found.permuted, found.permuted_apart))
        part["low"], part["high"] = stats.bootstrap_interval(mean, groups, options.resamples, level, options.seed)
        part["null_low"], part["null_high"] = stats.percentiles(apart.T, level)
        as_much = (dealt >= part[["value"]].to_numpy() - 1e-9).sum(axis=1)
        part["p"] = np.where(part["value"].isna(), np.nan, (1 + as_much) / (1 + dealt.shape[1]))
        part["n"] = (~np.isnan(columns["value"])).sum(axis=0)
        parts.append(part)
    table = pd.concat(parts[1:] + parts[:1], ignore_index=True)
    table["above_null"] = table["p"] <= 1 - level + 1e-9
    wanted = ["a", "b", "class", "metric", "n", "value", "low", "high", "null", "null_low", "null_high"]
    return table[[*wanted, "null_random", "p", "above_null"]]


def _average_permuted(
    tables: Sequence[Floats],
    pairs: list[tuple[int, int]],
    places: list[NDArray[np.intp]],
    masks: list[NDArray[np.bool_]],
) -> Floats:
    """Compute the means (P + 1, C + 1, B) of one metric; a run's maps are permuted alike in all its pairs."""
    total, counts, found = np.zeros(places[0].shape), np.zeros(places[0].shape), []
    for table, (a, b) in zip(tables, pairs, strict=True):
        values = table[places[a], places[b]]
        total, counts = total + np.nan_to_num(values), counts + ~np.isnan(values)
        found.append([nan_mean(values[:, mask], axis=1) for mask in masks])
    mean = np.divide(total, counts, out=np.full(total.shape, np.nan), where=counts > 0)
    return np.array([*found, [nan_mean(mean[:, mask], axis=1) for mask in masks]])


def _build_class_masks(targets: NDArray[np.int64], classes: int) -> list[NDArray[np.bool_]]:
    """Return the masks of the images of all classes, then of each class."""
    return [np.ones(len(targets), dtype=np.bool_), *(targets == k for k in range(classes))]

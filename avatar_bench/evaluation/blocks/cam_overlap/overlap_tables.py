"""Tables of cam_overlap: the overlap of each pair of runs by image, and its means beside their nulls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.metrics import overlap, stats
from avatar_bench.metrics.overlap import OVERLAP_MEASURES
from avatar_bench.metrics.ratios import nan_mean

Floats = NDArray[np.float64]

ALL_CLASSES = "(all)"  # value of column `class` for all classes
MEAN_OF_PAIRS = ""  # value of columns `a` and `b` for the mean over pairs


@dataclass(frozen=True)
class Overlap:
    """Overlap of P pairs of runs on n images of `targets` (n,), with K metrics each.

    `pairs` are positions of runs. `values` (P + 1, K, n) compare maps of the same image, `others` those of different
    images of its class, `shuffled_cells` maps with shuffled cells; the last of P + 1 is the mean over pairs. `permuted`
    (P + 1, K, C + 1, B) are means over the images of all classes and of each, with maps permuted among images;
    `permuted_apart` are the same without maps assigned to the same image.
    """

    pairs: list[tuple[int, int]]
    targets: NDArray[np.int64]
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
    found = [list(overlap.overlaps(maps[a], maps[b]).values()) for a, b in pairs]
    rng = np.random.default_rng(seed)
    places = [overlap.shuffle_within_strata(targets, times, rng) for _ in maps]
    chances = [list(overlap.chance_overlaps(maps[a], maps[b]).values()) for a, b in pairs]
    masks = _build_class_masks(targets, classes)

    def deal(same: bool) -> Floats:
        ways = (
            [tables[k] if same else _mask_diagonal(tables[k]) for tables in found] for k in range(len(OVERLAP_MEASURES))
        )
        return np.stack([_average_permuted(one, pairs, places, masks) for one in ways], axis=1)

    return Overlap(
        pairs,
        targets,
        _append_mean(np.array([[np.diag(table) for table in tables] for tables in found])),
        _append_mean(
            np.array([[overlap.overlap_with_other_images(table, targets) for table in tables] for tables in found])
        ),
        _append_mean(np.array(chances)),
        deal(same=True),
        deal(same=False),
    )


def tabulate_images(
    found: Overlap, runs: Sequence[str], paths: NDArray[np.str_], classes: Sequence[str]
) -> pd.DataFrame:
    """Return one row per image and pair, with each metric and its value with maps of other images of the class."""
    frames = []
    for (a, b), values, others in zip(found.pairs, found.values, found.others, strict=False):
        columns = {"path": paths, "class": np.array(classes)[found.targets], "a": runs[a], "b": runs[b]}
        named = dict(zip(OVERLAP_MEASURES, values, strict=True)) | dict(
            zip((f"null_{n}" for n in OVERLAP_MEASURES), others, strict=True)
        )
        frames.append(pd.DataFrame(columns | named))
    return pd.concat(frames, ignore_index=True)


def tabulate_summary(
    found: Overlap,
    runs: Sequence[str],
    classes: Sequence[str],
    groups: NDArray[np.str_],
    level: float,
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    """Tabulate each pair, class and metric: mean and null with intervals; MEAN_OF_PAIRS and ALL_CLASSES come last.

    `p` is the proportion of permutations, the true assignment among them, with at least this value; `above_null` means
    that it is at most 1 - level. The range of the null is that of means over different images only.
    """
    names = [(runs[a], runs[b]) for a, b in found.pairs] + [(MEAN_OF_PAIRS, MEAN_OF_PAIRS)]
    keys = pd.DataFrame(
        [(*pair, metric) for pair in names for metric in OVERLAP_MEASURES], columns=["a", "b", "metric"]
    )
    parts = []
    for number, (name, mask) in enumerate(
        zip([ALL_CLASSES, *classes], _build_class_masks(found.targets, len(classes)), strict=True)
    ):
        if not mask.any():
            continue
        columns = {
            kind: values[:, :, mask].reshape(len(keys), -1).T
            for kind, values in (("value", found.values), ("null", found.others), ("null_random", found.shuffled_cells))
        }
        part = keys.assign(**{"class": name}, **{kind: nan_mean(values, axis=0) for kind, values in columns.items()})
        ends = stats.bootstrap_interval(
            stats.build_mean_statistic(columns["value"]), groups[mask], resamples, level, seed
        )
        dealt, apart = (ways[:, :, number].reshape(len(keys), -1) for ways in (found.permuted, found.permuted_apart))
        part["low"], part["high"] = ends
        part["null_low"], part["null_high"] = stats.percentiles(apart.T, level)
        part["p"] = _compute_p_values(part["value"].to_numpy(), dealt)
        part["n"] = (~np.isnan(columns["value"])).sum(axis=0)
        parts.append(part)
    table = pd.concat(parts[1:] + parts[:1], ignore_index=True)
    table["above_null"] = table["p"] <= 1 - level + 1e-9
    wanted = ["a", "b", "class", "metric", "n", "value", "low", "high", "null", "null_low", "null_high"]
    return table[[*wanted, "null_random", "p", "above_null"]]


def _average_permuted(
    tables: Sequence[Floats],
    pairs: Sequence[tuple[int, int]],
    places: Sequence[NDArray[np.intp]],
    masks: Sequence[NDArray[np.bool_]],
) -> Floats:
    """Compute the means (P + 1, C + 1, B) of one metric; a run's maps are permuted alike in all its pairs."""
    total, counts, found = np.zeros(places[0].shape), np.zeros(places[0].shape), []
    for table, (a, b) in zip(tables, pairs, strict=True):
        values = table[places[a], places[b]]
        total, counts = total + np.nan_to_num(values), counts + ~np.isnan(values)
        found.append([nan_mean(values[:, mask], axis=1) for mask in masks])
    mean = np.divide(total, counts, out=np.full(total.shape, np.nan), where=counts > 0)
    return np.array([*found, [nan_mean(mean[:, mask], axis=1) for mask in masks]])


def _mask_diagonal(table: Floats) -> Floats:
    return np.where(np.eye(len(table), dtype=np.bool_), np.nan, table)


def _append_mean(values: Floats) -> Floats:
    return np.concatenate([values, nan_mean(values, axis=0)[None]])


def _build_class_masks(targets: NDArray[np.int64], classes: int) -> list[NDArray[np.bool_]]:
    """Return the masks of the images of all classes, then of each class."""
    return [np.ones(len(targets), dtype=np.bool_), *(targets == k for k in range(classes))]


def _compute_p_values(values: Floats, dealt: Floats) -> Floats:
    """Compute the one-sided p-value of each of K means among its permutations (K, B); NaN if there is no mean."""
    as_much = (dealt >= values[:, None] - 1e-9).sum(axis=1)
    return np.asarray(np.where(np.isnan(values), np.nan, (1 + as_much) / (1 + dealt.shape[1])))

"""Promises about new sources, put to the test: thresholds fitted on some held-out units, and the errors on others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.evaluation.blocks.leave_one_source_out.held_out_sources import Cells
from avatar_bench.metrics import selective, stats
from avatar_bench.metrics.units import IMAGE, SOURCE, encode

HALVES = 20  # draws of half of the units
_OTHERS, _HALF = "others", "half"  # the units that thresholds are fitted on
Mask = NDArray[np.bool_]


class _Images(NamedTuple):
    """Images (N,) of all units of a recipe, each as a network says that lacked its unit."""

    confidence: NDArray[np.floating]
    correct: Mask
    groups: NDArray[np.str_]
    units: NDArray[np.intp]

    def take(self, rows: Mask) -> _Images:
        """Return some of the images."""
        return _Images(self.confidence[rows], self.correct[rows], self.groups[rows], self.units[rows])


def tabulate_promises(
    cells: Cells, unit_of: Mapping[str, str], targets: Sequence[float], betas: Sequence[float], level: float
) -> pd.DataFrame:
    """Return coverage, and the fraction of units that break a target, by recipe and rule.

    Thresholds are fitted on all units but one, in turn, or on half of them, drawn HALVES times, and applied to the
    others. By source they promise that at most `beta` of new units break; by image they promise an error to new images
    of the same sources. `fits` is the fraction of thresholds that answer anything. Intervals are Wilson's, over the
    units once. Of several seeds, the first counts.
    """
    rows = []
    for recipe in dict.fromkeys(cell.recipe for cell in cells):
        images = _gather(cells, recipe, unit_of)
        n = int(images.units.max()) + 1
        tests = {
            _OTHERS: [np.arange(n) == unit for unit in range(n)],
            _HALF: [np.random.default_rng(seed).permutation(n) < n // 2 for seed in range(HALVES)],
        }
        for calibrated_on, draws in tests.items() if n > 1 else ():
            for target in targets:
                rules = [(IMAGE, np.nan), *((SOURCE, beta) for beta in betas)]
                for rule, beta in rules:
                    about = (recipe, calibrated_on, target, rule, beta, n)
                    rows.append((*about, *_test(images, draws, target, beta, level)))
    columns = ["recipe", "calibrated_on", "target_error", "rule", "beta", "units", "fits", "coverage", "counted"]
    return pd.DataFrame(rows, columns=[*columns, "broken", "fraction", "low", "high"])


def _gather(cells: Cells, recipe: str, unit_of: Mapping[str, str]) -> _Images:
    parts = [(cell, members[0][1]) for cell, members in cells.items() if cell.recipe == recipe]
    names = [np.full(len(predictions), unit_of.get(cell.source, cell.source)) for cell, predictions in parts]
    return _Images(
        np.concatenate([predictions.confidence for __, predictions in parts]),
        np.concatenate([predictions.correct for __, predictions in parts]),
        np.concatenate([predictions.groups for __, predictions in parts]),
        encode(np.concatenate(names)),
    )


def _test(images: _Images, draws: Sequence[Mask], target: float, beta: float, level: float) -> tuple[float, ...]:
    """Return the fits that answer, mean coverage, counted and broken units, and their fraction with its interval."""
    answering, coverage, counts = zip(*_apply(images, draws, target, beta), strict=True)
    counted, broken = np.sum(counts, axis=0).tolist()
    means = float(np.mean(answering)), float(np.mean(coverage))
    if not counted:
        return (*means, 0, 0, np.nan, np.nan, np.nan)
    times = np.sum(draws) / len(draws[0])  # that a unit is tested
    return (*means, counted, broken, broken / counted, *stats.wilson(broken / times, counted / times, level))


def _apply(
    images: _Images, draws: Sequence[Mask], target: float, beta: float
) -> Iterator[tuple[bool, float, tuple[int, int]]]:
    """Yield whether the threshold without the units of a draw answers, and coverage, counted and broken ones there."""
    for is_tested in draws:
        tested = is_tested[images.units]
        known, new = images.take(~tested), images.take(tested)
        value = _fit(known, target, beta)
        answered = new.confidence >= value
        counted, broken = selective.find_broken_sources(answered, new.correct, new.units, target)
        coverage = pd.Series(answered).groupby(new.units).mean().mean()
        yield bool(np.isfinite(value)), float(coverage), (int(counted.sum()), int(broken.sum()))


def _fit(images: _Images, target: float, beta: float) -> float:
    """Return the threshold by source for a fraction `beta`; by image, where this is NaN, on one image a group."""
    if not np.isnan(beta):
        return selective.fit_source_threshold(images.confidence, images.correct, images.units, target, beta).value
    drawn = selective.draw_of_groups(images.groups)
    is_pilot = np.random.default_rng(0).random(len(drawn)) < 0.5
    halves = [images.take(drawn & side)[:2] for side in (is_pilot, ~is_pilot)]
    return selective.fit_answering_threshold(*halves[0], *halves[1], target).value

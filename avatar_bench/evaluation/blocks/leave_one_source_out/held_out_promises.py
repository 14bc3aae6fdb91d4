"""Promises about new sources, put to the test: thresholds fitted on some held-out units, and the errors on others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.errors import ConfigError, GuardError
from avatar_bench.evaluation.blocks.leave_one_source_out.held_out_sources import Cells
from avatar_bench.metrics import selective, stats
from avatar_bench.metrics.units import IMAGE, SOURCE, encode
from avatar_bench.runs.decisions import ABSTAIN, make_decision_rule

if TYPE_CHECKING:
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

HALVES = 20  # draws of half of the units
_ITS_OWN, _OTHERS, _HALF = "its own", "others", "half"  # the images that thresholds are fitted on
Mask = NDArray[np.bool_]


class _Images(NamedTuple):
    """Images (N,) of all units of a recipe, each as a network says that lacked its unit."""

    confidence: NDArray[np.floating]
    correct: Mask
    units: NDArray[np.intp]

    def take(self, rows: Mask) -> _Images:
        """Return some of the images."""
        return _Images(*(part[rows] for part in self))  # type: ignore[arg-type]


class _Outcome(NamedTuple):
    """Whether a threshold answers anything, and on the units that it is tested on: coverage, counted, broken."""

    is_answering: bool
    coverage: float
    counted: int
    broken: int


def tabulate_promises(
    cells: Cells, unit_of: Mapping[str, str], targets: Sequence[float], betas: Sequence[float], level: float
) -> pd.DataFrame:
    """Return coverage, and the fraction of units that break a target, by recipe and rule.

    The rule for new sources, that at most `beta` of new units break, is fitted on all units but one, in turn, or on
    half of them, drawn HALVES times, and applied to the others. That for new images of known sources is each network's,
    fitted on its own calibration images. `fits` is the fraction of thresholds that answer anything. Intervals are
    Wilson's, over the units once. Of several seeds, the first counts.
    """
    rows = []
    for recipe in dict.fromkeys(cell.recipe for cell in cells):
        firsts = [(cell.source, *members[0]) for cell, members in cells.items() if cell.recipe == recipe]
        names = [np.full(len(predictions), unit_of.get(source, source)) for source, _run, predictions in firsts]
        units = encode(np.concatenate(names))
        images = _Images(
            np.concatenate([predictions.confidence for *_about, predictions in firsts]),
            np.concatenate([predictions.correct for *_about, predictions in firsts]),
            units,
        )
        n = int(units.max()) + 1
        tests = {
            _OTHERS: [np.arange(n) == unit for unit in range(n)],
            _HALF: [np.random.default_rng(seed).permutation(n) < n // 2 for seed in range(HALVES)],
        }
        for target in targets:
            if (known := _apply_own_rules(firsts, images, target)) is not None:
                rows.append((recipe, _ITS_OWN, target, IMAGE, np.nan, n, *_summarise([known], 1, level)))
            for calibrated_on, draws in tests.items() if n > 1 else ():
                times = float(np.sum(draws)) / n  # that a unit is tested
                for beta in betas:
                    outcomes = list(_test(images, draws, target, beta))
                    about = (recipe, calibrated_on, target, SOURCE, beta, n)
                    rows.append((*about, *_summarise(outcomes, times, level)))
    columns = ["recipe", "calibrated_on", "target_error", "rule", "beta", "units", "fits", "coverage", "counted"]
    return pd.DataFrame(rows, columns=[*columns, "broken", "fraction", "low", "high"])


def _apply_own_rules(firsts: Sequence[tuple[str, Run, Predictions]], images: _Images, target: float) -> _Outcome | None:
    """Return the outcome of each network's own rule on the unit that it lacks; None if one of them has no rule."""
    answered = []
    for _source, run, predictions in firsts:
        try:
            rule = make_decision_rule(run, target)
        except (ConfigError, GuardError):
            return None
        decided = rule.decide(predictions.reorder(run.classes).probabilities, predictions.embeddings)
        answered.append((decided["decision"] != ABSTAIN).to_numpy())
    return _count(images, np.concatenate(answered), target)


def _test(images: _Images, draws: Sequence[Mask], target: float, beta: float) -> Iterator[_Outcome]:
    """Yield the outcome on the units of each draw of the threshold that is fitted on the other units."""
    for is_tested in draws:
        tested = is_tested[images.units]
        known, new = images.take(~tested), images.take(tested)
        fit = selective.fit_source_threshold(known.confidence, known.correct, known.units, target, beta)
        yield _count(new, new.confidence >= fit.value, target)._replace(is_answering=bool(np.isfinite(fit.value)))


def _count(images: _Images, answered: Mask, target: float) -> _Outcome:
    counted, broken = selective.find_broken_sources(answered, images.correct, images.units, target)
    coverage = float(pd.Series(answered).groupby(images.units).mean().mean())
    return _Outcome(bool(answered.any()), coverage, int(counted.sum()), int(broken.sum()))


def _summarise(outcomes: Sequence[_Outcome], times: float, level: float) -> tuple[float, ...]:
    """Return the fits that answer, mean coverage, counted and broken units, and their fraction with its interval.

    Each unit is tested `times` in the mean.
    """
    answering, coverage, counts, breaks = zip(*outcomes, strict=True)
    counted, broken = sum(counts), sum(breaks)
    ends = stats.wilson(broken / times, counted / times, level) if counted else (np.nan, np.nan)
    fraction = broken / counted if counted else np.nan
    return float(np.mean(answering)), float(np.mean(coverage)), counted, broken, fraction, *ends

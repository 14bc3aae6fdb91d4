"""integrated_score: one score per model from several qualities, and how its rank depends on chance and weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.config.entries import find_entries
from avatar_bench.errors import BlockError, ConfigError
from avatar_bench.evaluation.block import IntervalCompareBlock, metric_with_interval
from avatar_bench.evaluation.blocks.integrated_score import figures
from avatar_bench.evaluation.blocks.integrated_score import score_tables as tables
from avatar_bench.evaluation.blocks.integrated_score import score_warnings as warnings
from avatar_bench.evaluation.blocks.integrated_score.score_inputs import (
    SCORE_QUALITIES,
    Quality,
    RunQualities,
    read_qualities,
)
from avatar_bench.evaluation.blocks.integrated_score.score_resamples import (
    average_over_seeds,
    count_units,
    resample_qualities,
)
from avatar_bench.evaluation.model_scatter import RunStyles
from avatar_bench.i18n import _
from avatar_bench.metrics import integrated_score
from avatar_bench.results.predictions import to_string_array
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.runs.run import Run

Floats = NDArray[np.float64]
SCALES = ("fixed", "min_max")
QUALITY_RANGES: dict[str, list[float | None]] = {
    "accuracy": [None, 1.0],
    "robustness": [None, 1.0],
    "calibration": [None, 0.0],
    "ood": [0.5, 1.0],
    "separation": [0.0, 1.0],
    "speed": [1.0, 1000.0],
    "size": [1000.0, 1.0],
}


@dataclass(kw_only=True)
class IntegratedScore(IntervalCompareBlock):
    """Ranking of models by the weighted mean of their qualities, each scaled from 0 (worst) to 1.

    `weights` of the qualities: 0, or none, drops one. `ranges` are the worst and the best value of each, null for the
    level of guessing; `scale` maps qualities onto them ("fixed") or onto the range of the compared models ("min_max").
    `ood_score` is the score whose AUROC counts; `weightings` is the number of random weightings used to test the ranks.
    """

    reads_results: ClassVar[bool] = True

    weights: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SCORE_QUALITIES, 1.0))
    ranges: dict[str, list[float | None]] = field(
        default_factory=lambda: {k: list(v) for k, v in QUALITY_RANGES.items()}
    )
    scale: str = "fixed"
    ood_score: str = "energy"
    weightings: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        known = set(self.weights) <= set(SCORE_QUALITIES)
        valid = known and all(0 <= w < np.inf for w in self.weights.values()) and sum(self.weights.values()) > 0
        self.require("weights", valid, f"0 or more for some of {', '.join(SCORE_QUALITIES)}, not all 0")
        valid = set(self.ranges) <= set(SCORE_QUALITIES) and set(self.qualities) <= set(self.ranges)
        self.require("ranges", valid, "a range for each quality with a weight")
        for key, ends in self.ranges.items():
            expected = "two numbers, worst and best" + (", above 0" if SCORE_QUALITIES[key].log else "")
            self.require("ranges", _is_valid_range(SCORE_QUALITIES[key], ends), f"{expected}, in {key}")
        self.require("scale", self.scale in SCALES, " or ".join(SCALES))
        scores = find_entries("ood_score")
        self.require("ood_score", self.ood_score in scores, f"one of {', '.join(scores)}")
        self.require("weightings", self.weightings >= 100, "100 or more")

    @property
    def qualities(self) -> tuple[str, ...]:
        """Return the qualities with a weight above 0."""
        return tuple(key for key in SCORE_QUALITIES if self.weights.get(key, 0) > 0)

    def compare(self, runs: Sequence[Run], datasets: Sequence[Dataset]) -> Result:
        """Compute scores, ranks and their intervals for each model, a recipe averaged over its seeds.

        Raise BlockError if runs have different classes, ConfigError if a range contradicts the direction of a metric.
        """
        classes, name = _require_same_classes(runs), datasets[0].name
        qualities_by_run = [read_qualities(run, name, self.qualities, self.ood_score) for run in runs]
        self._check_directions(runs, qualities_by_run, len(classes))
        models = tables.group_models(runs, qualities_by_run, self.qualities)
        ranking = self._rank_models(models, qualities_by_run, len(classes))
        result = Result("integrated_score", name, len(datasets[0]), classes)
        result.metrics = self._build_metrics(models, ranking, qualities_by_run, name)
        result.tables = {
            "scores": tables.build_scores_table(models, ranking, self.qualities, self.level),
            "raw": tables.build_runs_table(runs, qualities_by_run),
            "models": tables.build_models_table(models, ranking, self.qualities),
            "normalised": tables.build_normalised_table(models, ranking.normalised, self.qualities),
            "qualities": self._tabulate_settings(qualities_by_run, len(classes)),
        }
        result.warnings = warnings.collect_warnings(runs, qualities_by_run, models, self.qualities)
        result.warnings += self._warn_about_clipped(models, len(classes))
        if ranking.complete.any():
            result.tables["ranks"] = tables.build_ranks_table(models, ranking)
            result.arrays = {
                "resamples": {"scores": ranking.drawn, "models": to_string_array(ranking.list_names(models))}
            }
            result.figures = figures.draw(result.tables, self.qualities, RunStyles(runs), self.scale)
        return result

    def _check_directions(self, runs: Sequence[Run], qualities_by_run: Sequence[RunQualities], classes: int) -> None:
        """Raise ConfigError if the better end of a range contradicts the direction of its metric."""
        for run, run_qualities in zip(runs, qualities_by_run, strict=True):
            for key in self.qualities:
                worst, best = self._get_ends(key, classes)
                if key in run_qualities.values and run_qualities.higher_is_better[key] is not (best > worst):
                    raise ConfigError(
                        f"block.integrated_score.ranges.{key}=[{worst:.4g}, {best:.4g}] ranks "
                        f"{'higher' if best > worst else 'lower'} values as better.",
                        f"The metric of {SCORE_QUALITIES[key].block} of {run.label} has another direction.",
                        "Expected the worst value first, then the best.",
                    )

    def _get_ends(self, key: str, classes: int) -> tuple[float, float]:
        """Return the worst and the best value of a quality."""
        worst, best = self.ranges[key]
        guessing = SCORE_QUALITIES[key].guessing
        if worst is None and guessing is not None:
            worst = guessing(classes)
        assert worst is not None
        assert best is not None
        return worst, best

    def _rank_models(
        self, models: Sequence[tables.RankedModel], qualities_by_run: Sequence[RunQualities], classes: int
    ) -> tables.ModelRanking:
        """Score the models, and the complete ones again by resample and by random weighting."""
        raw = np.array([model.values for model in models])
        complete = ~np.isnan(raw).any(axis=1)
        normalised = self._normalise(raw, complete, classes)
        weights = np.array([self.weights[key] for key in self.qualities])
        runs = resample_qualities(qualities_by_run, self.qualities, self.resamples, self.seed)
        means = average_over_seeds(runs, [model.members for model in models], self.seed)
        drawn = integrated_score.weighted_mean(self._normalise(means, complete, classes), weights)
        others = integrated_score.draw_weights(self.weightings, len(weights), self.seed)[:, None]
        weighted = integrated_score.weighted_mean(normalised[complete], others)
        score = integrated_score.weighted_mean(normalised, weights)
        ends = np.quantile(means, [(1 - self.level) / 2, (1 + self.level) / 2], axis=0)
        return tables.ModelRanking(complete, ends, normalised, score, drawn[:, complete], weighted)

    def _normalise(self, values: Floats, complete: NDArray[np.bool_], classes: int) -> Floats:
        """Scale qualities (..., M, Q) to the range from 0 to 1, where 1 is best."""
        columns = []
        for index, key in enumerate(self.qualities):
            worst, best = self._get_ends(key, classes)
            if self.scale == "fixed":
                columns.append(
                    integrated_score.scale_to_range(values[..., index], worst, best, SCORE_QUALITIES[key].log)
                )
            else:
                columns.append(integrated_score.scale_min_max(values[..., index], best > worst, complete))
        return np.stack(columns, axis=-1)

    def _build_metrics(
        self,
        models: Sequence[tables.RankedModel],
        ranking: tables.ModelRanking,
        qualities_by_run: Sequence[RunQualities],
        name: str,
    ) -> dict[str, Metric]:
        lows, highs = ranking.compute_interval(self.level)
        units = count_units(qualities_by_run, name)
        found = {}
        for model, score, low, high in zip(models, ranking.score, lows, highs, strict=True):
            how = "bootstrap by seed and group" if len(model.members) > 1 else "bootstrap by group"
            n = 0 if np.isnan(score) else units
            found[f"score/{model.name}"] = metric_with_interval(score, low, high, n, how, reason=model.missing)
        return found

    def _tabulate_settings(self, qualities_by_run: Sequence[RunQualities], classes: int) -> pd.DataFrame:
        """Tabulate the metric, weight and range of each quality, and whether it is resampled."""
        rows = []
        for key, about in SCORE_QUALITIES.items():
            worst, best = self._get_ends(key, classes) if key in self.ranges else (np.nan, np.nan)
            metric = about.metric.format(score=self.ood_score)
            drawn = any(key in run_qualities.samples for run_qualities in qualities_by_run)
            rows.append((key, about.block, metric, self.weights.get(key, 0.0), worst, best, about.log, drawn))
        columns = ["quality", "block", "metric", "weight", "worst", "best", "log", "resampled"]
        return pd.DataFrame(rows, columns=columns)

    def _warn_about_clipped(self, models: Sequence[tables.RankedModel], classes: int) -> list[str]:
        """Return a warning for each quality with values outside its fixed range."""
        messages = []
        for index, key in enumerate(self.qualities if self.scale == "fixed" else ()):
            low, high = sorted(self._get_ends(key, classes))
            cut = [model.name for model in models if not np.isnan(v := model.values[index]) and not low <= v <= high]
            if cut:
                message = _(
                    "{quality} lies outside its range and is clipped: {names}.", quality=key, names=", ".join(cut)
                )
                messages.append(message)
        return messages


def _require_same_classes(runs: Sequence[Run]) -> tuple[str, ...]:
    first = runs[0]
    for run in runs:
        if set(run.classes) != set(first.classes):
            raise BlockError(
                f"{run.label} has the classes {', '.join(run.classes)}, {first.label} {', '.join(first.classes)}.",
                "Compare runs with the same classes.",
            )
    return tuple(first.classes)


def _is_valid_range(quality: Quality, ends: Sequence[float | None]) -> bool:
    """Check that a range has two different ends: a worst, which may be the level of guessing, and a best."""
    if len(ends) != 2 or ends[1] is None or (ends[0] is None and quality.guessing is None):
        return False
    known = [end for end in ends if end is not None]
    return bool(np.isfinite(known).all()) and len(set(known)) == len(known) and (not quality.log or min(known) > 0)

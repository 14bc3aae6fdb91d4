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
from avatar_bench.evaluation.block import group_by_recipe
from avatar_bench.evaluation.blocks.integrated_score import figures
from avatar_bench.evaluation.blocks.integrated_score import score_tables as tables
from avatar_bench.evaluation.blocks.integrated_score import score_warnings as warnings
from avatar_bench.evaluation.blocks.integrated_score.score_inputs import SCORE_QUALITIES, Reading, read_qualities
from avatar_bench.evaluation.blocks.integrated_score.score_resamples import (
    average_over_seeds,
    count_units,
    resample_qualities,
)
from avatar_bench.evaluation.intervals import IntervalOptions, metric_with_interval
from avatar_bench.evaluation.model_scatter import RunStyles, tabulate_runs
from avatar_bench.metrics import integrated_score
from avatar_bench.results.predictions import to_string_array
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.runs.run import Run

Floats = NDArray[np.float64]
SCALES = ("fixed", "min_max")


@dataclass(kw_only=True)
class IntegratedScore(IntervalOptions):
    """Ranking of models by the weighted mean of their qualities, each scaled from 0 (worst) to 1.

    `weights` of the qualities: 0, or none, drops one. `ranges` are the worst and the best value of each, null for the
    level of guessing; `scale` maps qualities onto them ("fixed") or onto the range of the compared models ("min_max").
    `ood_score` is the score whose AUROC counts; `weightings` is the number of random weightings used to test the ranks.
    """

    reads_results: ClassVar[bool] = True

    weights: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SCORE_QUALITIES, 1.0))
    ranges: dict[str, list[float | None]] = field(
        default_factory=lambda: {key: list(quality.ends) for key, quality in SCORE_QUALITIES.items()}
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
            self.require("ranges", _is_valid_range(key, ends), f"{expected}, in {key}")
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
        readings = [read_qualities(run, name, self.qualities, self.ood_score) for run in runs]
        settings = self._tabulate_settings(readings, len(classes))
        self._check_directions(runs, readings, settings)
        looks = RunStyles(tabulate_runs(runs))
        models = self._score_models(looks.models, list(group_by_recipe(runs).values()), readings, settings)
        scores = tables.build_scores_table(models, runs, readings, self.level)
        result = Result("integrated_score", name, len(datasets[0]), classes)
        result.metrics = _build_metrics(scores, count_units(readings, name))
        result.tables = {
            "scores": tables.sort_by_score(scores),
            "raw": tables.build_runs_table(runs, readings),
            "models": tables.build_models_table(models),
            "qualities": settings,
        }
        result.warnings = warnings.warn_about_incomplete(scores)
        result.warnings += warnings.warn_about_basis(runs, readings, self.qualities)
        if self.scale == "fixed":
            result.warnings += warnings.warn_about_clipped(result.tables["models"], settings)
        if models.complete.any():
            result.tables["ranks"] = tables.build_ranks_table(models)
            result.arrays = {"resamples": {"scores": models.drawn, "models": to_string_array(models.ranked_names)}}
            result.figures = figures.draw(result.tables, looks)
        return result

    def _tabulate_settings(self, readings: Sequence[Reading], classes: int) -> pd.DataFrame:
        """Tabulate the metric, weight and range of each quality, and whether it is resampled."""
        rows = []
        for key, about in SCORE_QUALITIES.items():
            worst, best = self.ranges.get(key, (np.nan, np.nan))
            rows.append(
                {
                    "quality": key,
                    "block": about.block,
                    "metric": about.metric.format(score=self.ood_score),
                    "weight": self.weights.get(key, 0.0),
                    "worst": about.guessing(classes) if worst is None and about.guessing else worst,
                    "best": best,
                    "log": about.log,
                    "resampled": any(reading[key].resampled for reading in readings),
                    "scale": self.scale,
                }
            )
        return pd.DataFrame(rows)

    def _check_directions(self, runs: Sequence[Run], readings: Sequence[Reading], settings: pd.DataFrame) -> None:
        """Raise ConfigError if the better end of a range contradicts the direction of its metric."""
        ranges = settings.set_index("quality")
        for run, reading in zip(runs, readings, strict=True):
            for key in self.qualities:
                worst, best = map(float, ranges.loc[key, ["worst", "best"]])
                if not reading[key].missing and reading[key].higher_is_better is not (best > worst):
                    raise ConfigError(
                        f"block.integrated_score.ranges.{key}=[{worst:.4g}, {best:.4g}] ranks "
                        f"{'higher' if best > worst else 'lower'} values as better.",
                        f"The metric of {SCORE_QUALITIES[key].block} of {run.label} has another direction.",
                        "Expected the worst value first, then the best.",
                    )

    def _score_models(
        self, names: list[str], members: list[list[int]], readings: Sequence[Reading], settings: pd.DataFrame
    ) -> tables.ScoredModels:
        """Score the models, and the complete ones again by resample and by random weighting."""
        values = np.array([[reading[key].value for key in self.qualities] for reading in readings])
        means = np.stack([values[own].mean(axis=0) for own in members])
        complete = ~np.isnan(means).any(axis=1)
        resampled = resample_qualities(readings, self.qualities, self.resamples, self.seed)
        drawn = average_over_seeds(resampled, members, self.seed)
        ends = np.quantile(drawn, [(1 - self.level) / 2, (1 + self.level) / 2], axis=0)
        used = settings[settings["weight"] > 0]
        normalised, redrawn = (_normalise(each, complete, used) for each in (means, drawn))
        weights = used["weight"].to_numpy()
        score, scores = (integrated_score.weighted_mean(each, weights) for each in (normalised, redrawn))
        others = integrated_score.draw_weights(self.weightings, len(weights), self.seed)[:, None]
        weighted = integrated_score.weighted_mean(normalised[complete], others)
        return tables.ScoredModels(
            self.qualities, names, members, means, ends, normalised, score, scores[:, complete], weighted
        )


def _normalise(values: Floats, complete: NDArray[np.bool_], settings: pd.DataFrame) -> Floats:
    """Scale qualities (..., M, Q) to the range from 0 to 1, where 1 is best."""
    columns = [
        integrated_score.scale_to_range(column, about["worst"], about["best"], about["log"])
        if about["scale"] == "fixed"
        else integrated_score.scale_min_max(column, about["best"] > about["worst"], complete)
        for about, column in zip(settings.to_dict("records"), np.moveaxis(values, -1, 0), strict=True)
    ]
    return np.stack(columns, axis=-1)


def _build_metrics(scores: pd.DataFrame, units: int) -> dict[str, Metric]:
    """Return the score of each model; `units` are the resampled groups."""
    found = {}
    for _, row in scores.iterrows():
        method = "bootstrap by seed and group" if row["seeds"] > 1 else "bootstrap by group"
        ends, n = (row["score"], row["score_low"], row["score_high"]), units if row["complete"] else 0
        found[f"score/{row['run']}"] = metric_with_interval(*ends, n, method, reason=row["missing"])
    return found


def _require_same_classes(runs: Sequence[Run]) -> tuple[str, ...]:
    first = runs[0]
    for run in runs:
        if set(run.classes) != set(first.classes):
            raise BlockError(
                f"{run.label} has the classes {', '.join(run.classes)}, {first.label} {', '.join(first.classes)}.",
                "Compare runs with the same classes.",
            )
    return tuple(first.classes)


def _is_valid_range(key: str, ends: Sequence[float | None]) -> bool:
    """Check that a range has two different ends: a worst, which may be the level of guessing, and a best."""
    quality = SCORE_QUALITIES[key]
    if len(ends) != 2 or ends[1] is None or (ends[0] is None and quality.guessing is None):
        return False
    known = [end for end in ends if end is not None]
    return bool(np.isfinite(known).all()) and len(set(known)) == len(known) and (not quality.log or min(known) > 0)
